"""The OpenAPI document and the pages made from it."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gpud.api.advice import ADVICE, problem_kinds
from gpud.api.app import ALL_OPERATIONS
from gpud.api.openapi import openapi_document
from gpud.api.operations import Scope
from gpud.api.pages import docs_page, page_headers, problem_page, problem_text
from gpud.api.schemas.spec import EndpointSpecDocument
from gpud.errors import GpudError, NotFound

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(ALL_OPERATIONS, version="0.1.0")


def test_the_document_is_legal_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_operation_is_described_once(document: dict[str, Any]) -> None:
    described = [
        (method.upper(), path, operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert sorted(described) == sorted((one.method, one.path, one.name) for one in ALL_OPERATIONS)
    assert len({name for _, _, name in described}) == len(described)


def test_only_open_operations_are_without_a_key(document: dict[str, Any]) -> None:
    open_ones = {one.name for one in ALL_OPERATIONS if one.scope is Scope.OPEN}
    without = {
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
        if operation.get("security") == []
    }
    assert without == open_ones


def test_every_change_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for method, operation in methods.items():
            takes = any(parameter["name"] == "Idempotency-Key" for parameter in operation["parameters"])
            assert takes is (method != "get")


def test_a_password_is_never_part_of_an_answer(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    holders = {name for name, schema in schemas.items() if "password" in schema.get("properties", {})}
    assert holders == {"RegistryBody"}
    assert schemas["RegistryBody"]["properties"]["password"]["writeOnly"] is True


def test_every_error_has_a_page_and_every_page_an_error() -> None:
    slugs = [kind.slug for kind in problem_kinds()]
    assert sorted(slugs) == sorted(ADVICE)
    for kind in problem_kinds():
        assert kind.title in problem_text(kind.slug)
        assert ADVICE[kind.slug].do in problem_text(kind.slug)
        assert f"<code>{kind.slug}</code>, status {kind.status}" in problem_page(kind.slug)


def test_no_two_errors_share_a_slug_and_differ_in_status_or_title() -> None:
    left: list[type[GpudError]] = [GpudError]
    seen: dict[str, tuple[int, str]] = {}
    while left:
        kind = left.pop()
        left.extend(kind.__subclasses__())
        known = seen.setdefault(kind.slug, (kind.status, kind.title))
        assert known == (kind.status, kind.title), kind


def test_a_page_of_no_error_does_not_exist() -> None:
    with pytest.raises(NotFound):
        problem_page("nonsense")


class _Page(HTMLParser):
    """Collects what a page refers to, and checks that its elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            if name == "id":
                self.anchors.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_reference_page_shows_every_operation_and_refers_to_nothing_outside(
    document: dict[str, Any],
) -> None:
    html = docs_page(document)
    page = _Page()
    page.feed(html)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    for link in page.links:
        assert link.startswith(("#", "/")), link
        assert not link.startswith("//"), link
        assert not link.startswith("#") or link[1:] in page.anchors, link
    for operation in ALL_OPERATIONS:
        assert f"<b>{operation.method}</b><code>{operation.path}</code>" in html


def test_the_pages_style_is_the_one_their_policy_allows() -> None:

    style = re.search(r"<style>(.*?)</style>", problem_page("conflict"), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page_headers()["Content-Security-Policy"]


def test_the_written_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/lib/docs.py", "api", "--check"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_written_reference_has_every_operation_problem_and_spec_field() -> None:
    pages = {
        name: (ROOT / f"docs/reference/{name}.md").read_text() for name in ("api", "endpoint", "problems")
    }
    for operation in ALL_OPERATIONS:
        assert f"### `{operation.method} {operation.path}`" in pages["api"]
    for kind in problem_kinds():
        assert f"`/problems/{kind.slug}`, status {kind.status}" in pages["problems"]
    for name in EndpointSpecDocument.model_fields:
        assert f"| `{name}` |" in pages["endpoint"]

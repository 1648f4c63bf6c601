"""The dashboard's own files: how they are served, and that they are what web/ gives."""

from __future__ import annotations

import gzip
import hashlib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.api import dashboard
from tests.contract.api_site import ApiSite, running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "gpud/web"
FIRST_LOAD_BYTES_MAX = 200_000
TYPES = "src/api/types.ts"


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        yield site


async def test_the_page_is_open_and_may_do_nothing_but_talk_to_its_daemon(site: ApiSite) -> None:
    async with site.client.get("/") as response:
        page, headers = await response.text(), response.headers
        assert (response.status, response.content_type) == (200, "text/html")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert {policy.pop(kind) for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert set(policy.values()) == {"'none'", "'script'"}
    assert headers["Cache-Control"] == "no-cache"
    assert "Set-Cookie" not in headers
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert set(re.findall(r'(?:src|href)="(/[a-z]+/)', page)) == {"/assets/"}
    assert not re.search(r"<style|<script>|\son\w+=", page)


async def test_a_file_is_kept_for_good_and_packed_for_who_takes_that(site: ApiSite) -> None:
    names = re.findall(r'"(/assets/[^"]+)"', (BUNDLE / "index.html").read_text())
    assert names
    for name in names:
        plain = (BUNDLE / name.lstrip("/")).read_bytes()
        for accepted, sent in (("gzip, br", "gzip"), ("identity", None)):
            async with site.client.get(name, headers={"Accept-Encoding": accepted}) as response:
                assert response.headers.get("Content-Encoding") == sent
                assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert await response.read() == plain  # the client unpacks by itself


async def test_a_browser_that_has_the_page_is_not_sent_it_again(site: ApiSite) -> None:
    async with site.client.get("/") as response:
        tag = response.headers["ETag"]
    async with site.client.get("/", headers={"If-None-Match": tag}) as response:
        assert (response.status, await response.read()) == (304, b"")
        assert "Content-Security-Policy" in response.headers


@pytest.mark.parametrize("path", ["/assets/nothing.js", "/assets/..%2Findex.html", "/assets/sources.txt"])
async def test_nothing_but_the_built_files_is_served(site: ApiSite, path: str) -> None:
    async with site.client.get(path) as response:
        assert response.status == 404


async def test_a_package_without_the_dashboard_says_so(tmp_path: Path, site: ApiSite) -> None:
    site.app._state[dashboard.BUNDLE] = dashboard.Bundle(tmp_path)
    async with site.client.get("/") as response:
        assert response.status == 404
        assert "scripts/build-web" in (await response.json(content_type=None))["detail"]


def test_the_built_files_are_of_the_present_sources() -> None:
    web = ROOT / "web"
    files = [web / name for name in ("index.html", "package.json", "package-lock.json", "tsconfig.json")]
    files += [web / "vite.config.ts", *(path for path in (web / "src").rglob("*") if path.is_file())]
    lines = sorted(
        (path.relative_to(web).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
    )
    listed = "".join(f"{digest}  {name}\n" for name, digest in lines if name != TYPES)
    built_of = (BUNDLE / "sources.txt").read_text().strip()
    assert hashlib.sha256(listed.encode()).hexdigest() == built_of, "run scripts/build-web"


def test_what_is_loaded_first_is_small() -> None:
    page = (BUNDLE / "index.html").read_text()
    names = re.findall(r'"/(assets/[^"]+)"', page)
    first = [BUNDLE / "index.html", *(BUNDLE / name for name in names)]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in first) < FIRST_LOAD_BYTES_MAX


def test_the_lock_names_no_registry_and_the_wheel_takes_every_kind_of_file() -> None:
    lock = (ROOT / "web/package-lock.json").read_text()
    assert "resolved" not in lock
    assert lock.count('"integrity"') >= lock.count('"node_modules/')
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["gpud"]
    for path in BUNDLE.rglob("*"):
        assert path.is_dir() or f"**/*{path.suffix}" in patterns, path

"""What is an image reference, and what would lead elsewhere in an engine's API."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.image_reference import is_image_id, is_image_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "text",
    [
        "python",
        "python:3.12",
        "team/app:1",
        "a/b__c-d.e/f---g:V1.0_rc-2",
        "localhost/app",
        "localhost:5000/no/such:image",
        "127.0.0.1:5000/team/app:1",
        "[::1]:5000/app",
        "Registry.Example.org/app",
        f"ghcr.io/app@{DIGEST}",
        f"ghcr.io/app:1@{DIGEST}",
        DIGEST,
        "a" * 255,
    ],
)
def test_a_reference_is_one(text: str) -> None:
    assert is_image_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../containers/x",
        "a/../../containers/x",
        "a/./b",
        "a//b",
        "/a",
        "a/",
        "A/B",
        "UPPER",
        "http://evil/x",
        "x?force=1",
        "x#y",
        "x%2f..",
        "a:1/../b",
        "a:b:c",
        "a:",
        "a@",
        "a@sha256:zz",
        "-v",
        "--help",
        "two words",
        "a\n",
        "a\x1b[31m",
        "$(reboot)",
        "`id`",
        "a;rm",
        "<script>alert(1)</script>",
        "b\u00fccher/app",
        "app:\u0661",
        "a" * 256,
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert not is_image_reference(text)
    assert not is_image_id(text)


def test_an_id_is_told_from_a_name() -> None:
    assert is_image_id(DIGEST)
    assert not is_image_id("sha256:abc")
    assert not is_image_id(f"app@{DIGEST}")


@given(st.text(alphabet="abA0./:@-_%?#[] ", max_size=30))
def test_a_reference_stays_where_it_is_put_in_a_path(text: str) -> None:
    if is_image_reference(text):
        assert posixpath.normpath(f"/images/{text}/json") == f"/images/{text}/json"
        assert not set(text) & set("%?# ")

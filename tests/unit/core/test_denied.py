from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.denied import denied, denied_paths
from gpud.core.request_rules import RequestRules
from tests.unit.core.making import spec

_PATTERNS = ("/sleep", "/collective_rpc", "/admin/*")


@pytest.mark.parametrize(
    "target",
    [
        "/sleep",
        "/sleep/",
        "/sleep?level=1",
        "//sleep",
        "/./sleep",
        "/v1/../sleep",
        "/v1/%2e%2e/sleep",
        "/%73leep",
        "/%2573leep",
        "/sle%65p%3Flevel=1".replace("%3F", "?"),
        "/v1%2f..%2fsleep",
        "/v1\\..\\sleep",
        "/v1%5c..%5csleep",
        "/sleep;v=1",
        "/sleep%00",
        "//host/sleep",
        "/sleep/.",
        "/collective_rpc",
        "/admin/",
        "/admin",
        "/admin/reset",
        "/admin/../v1/models",  # a server that resolves nothing gives this to what serves /admin/
        "/v1/../admin/reset",
    ],
)
def test_a_denied_path_is_denied_however_it_is_written(target: str) -> None:
    assert denied(_PATTERNS, target)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/chat/completions",
        "/sleepy",
        "/v1/sleep",
        "/Sleep",
        "/?next=/sleep",
        "/administer",
        "/v1/models?x=/admin/y",
        "/100%",
        "/%zz",
        "*",
    ],
)
def test_other_paths_are_not(target: str) -> None:
    assert not denied(_PATTERNS, target)


def test_the_paths_of_a_spec_are_the_ones_it_names() -> None:
    assert denied_paths(spec()) == ()
    assert denied_paths(spec(requests=RequestRules(denied_paths=("/sleep",)))) == ("/sleep",)


_parts = st.lists(st.text(string.ascii_lowercase + "._-", min_size=1, max_size=6), min_size=1, max_size=4)


@given(parts=_parts, data=st.data())
def test_no_mixture_of_spellings_gets_past(parts: list[str], data: st.DataObject) -> None:
    parts = [part for part in parts if set(part) != {"."}] or ["sleep"]
    written = ""
    for part in parts:
        written += data.draw(st.sampled_from(["/", "//", "/./", "/x/../", "%2f", "/%2E/"]))
        for character in part:
            times = data.draw(st.integers(0, 2))
            spelt = character if not times else f"%{ord(character):02x}"
            written += spelt if times < 2 else quote(spelt, safe="")
    written = "/" + written.removeprefix("%2f").removeprefix("/")
    written += data.draw(st.sampled_from(["", "/", "?a=b", ";a=b"]))
    assert denied(("/" + "/".join(parts),), written)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_any_target_is_read_without_a_fault(target: str) -> None:
    assert denied(("/*",), "/" + target)

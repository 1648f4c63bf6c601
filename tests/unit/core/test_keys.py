from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.keys import allows, format_token, key_id_from, parse_token, scope_fault
from tests.fakes.clock import SeededIds

SECRET = "a" * 52
SCOPES = ["admin", "read", "write", "metrics", "invoke:*", "invoke:llm", "invoke:other"]


def test_a_token_is_read_back_as_it_was_spelled() -> None:
    key_id = key_id_from(SeededIds(1).new_id("key"))
    token = format_token(key_id, SECRET)
    assert token.startswith("gpud_")
    assert len(key_id) == len("key_") + 12
    assert parse_token(token) == (key_id, SECRET)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "gpud_",
        "gpud_aaaaaaaaaaaa_" + "a" * 51,
        "gpud_aaaaaaaaaaaa_" + "a" * 53,
        "gpud_aaaaaaaaaaa_" + SECRET,
        "GPUD_aaaaaaaaaaaa_" + SECRET,
        "gpud_aaaaaaaaaaaa_" + "1" * 52,
        "gpud_aaaaaaaaaaaa_" + SECRET + "\n",
    ],
)
def test_a_token_of_another_spelling_is_none(token: str) -> None:
    assert parse_token(token) is None


@given(st.text())
def test_no_text_breaks_the_reading_of_tokens(text: str) -> None:
    assert parse_token(text) is None


def test_each_scope_allows_what_it_names_and_nothing_else() -> None:
    for held in SCOPES:
        for wanted in SCOPES:
            expected = held in ("admin", wanted) or (held == "invoke:*" and wanted.startswith("invoke:"))
            assert allows([held], wanted) is expected, (held, wanted)
    assert not allows([], "read")


@pytest.mark.parametrize("scope", [*SCOPES, "invoke:a-1"])
def test_known_scopes_have_no_fault(scope: str) -> None:
    assert scope_fault(scope) == ""


@pytest.mark.parametrize("scope", ["", "root", "invoke", "invoke:", "invoke:A", "invoke:**", "read ", "Read"])
def test_other_scopes_are_refused_with_the_list_of_known_ones(scope: str) -> None:
    assert "invoke:<endpoint>" in scope_fault(scope)

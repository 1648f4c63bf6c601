"""Tables, ages and sizes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.cli.exits import CommandFailed
from gpud.cli.output import Column, age, cut_to, facts, failure_text, money, size, span, table

_COLUMNS = (
    Column("NAME", lambda row: str(row["name"]), shrink=True),
    Column("STATE", lambda row: str(row["state"]), state=True),
    Column("COUNT", lambda row: str(row["count"]), right=True),
)
_ROWS: list[dict[str, object]] = [
    {"name": "llm", "state": "ready", "count": 3},
    {"name": "a-very-long-name-indeed", "state": "", "count": 1200},
]
_ANSI = re.compile("\033\\[[0-9;]*m")


def test_a_table_is_aligned_and_ends_no_line_with_blanks() -> None:
    assert table(_COLUMNS, _ROWS).split("\n") == [
        "NAME                     STATE  COUNT",
        "llm                      ready      3",
        "a-very-long-name-indeed  -       1200",
    ]


def test_a_narrow_terminal_cuts_the_middle_of_what_may_shrink() -> None:
    lines = table(_COLUMNS, _ROWS, width=30).split("\n")
    assert max(len(line) for line in lines) == 30
    assert "a-very-…e-indeed" in lines[2]


def test_colours_change_no_width() -> None:
    coloured = table(_COLUMNS, _ROWS, width=30, colour=True)
    assert "\033[32mready\033[0m" in coloured
    assert [line.rstrip() for line in _ANSI.sub("", coloured).split("\n")] == table(
        _COLUMNS, _ROWS, width=30
    ).split("\n")


@given(st.text(max_size=50), st.integers(1, 60))
def test_a_cut_text_fits_and_a_short_one_is_whole(text: str, width: int) -> None:
    cut = cut_to(text, width)
    assert len(cut) <= width
    assert len(text) > width or cut == text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h"),
        (86_399, "23h"),
        (86_400, "24h"),
        (172_800, "2d"),
    ],
)
def test_ages_are_told_in_their_largest_unit(seconds: float, told: str) -> None:
    assert span(seconds) == told


def test_an_age_is_counted_from_an_rfc_3339_moment_and_never_negative() -> None:
    assert age("2026-11-21T14:00:00.000Z", now_s=1_795_269_780.0) == "3m"
    assert age("2026-11-21T14:00:00.000Z", now_s=0.0) == "0s"
    assert age("") == ""


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (9_123_456_789, "8.5 GiB"), (2**50, "1024.0 TiB")],
)
def test_sizes_have_binary_units(count: int, told: str) -> None:
    assert size(count) == told


@pytest.mark.parametrize(
    ("micros", "told"), [(0, "0.000000"), (25_000, "0.025000"), (1_234_567_890, "1,234.567890")]
)
def test_money_is_told_exactly(micros: int, told: str) -> None:
    assert money(micros) == told


def test_facts_are_aligned_and_empty_ones_are_left_out() -> None:
    told = facts([("Name", "llm"), ("Error", ""), ("Waits for", "a GPU\nan image")])
    assert told == "Name       llm\nWaits for  a GPU\n           an image"


def test_a_failure_says_what_then_each_field_then_what_to_do() -> None:
    failure = CommandFailed(
        "It cannot be.", todo="Do this.", fields={"--port": "must be", "--name": "has to"}
    )
    assert failure_text(failure) == "gpud: It cannot be.\n  --port  must be\n  --name  has to\n  Do this.\n"

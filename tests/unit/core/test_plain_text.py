from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.plain_text import plain


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain\ttext", "plain\ttext"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[H\x1b[1;1Hgone", "gone"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://bad/\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1bP1;2|data\x1b\\x", "x"),
        ("\x9b31mred", "red"),
        ("a\x00b\x08c\x7f", "abc"),
        ("10 %\r50 %\r100 %", "100 %"),
        ("done\r", "done"),
        ("\u202etxt.exe", "txt.exe"),
        ("\x1b", ""),
        ("\x1b[", ""),
        ("ünï 日本", "ünï 日本"),
    ],
)
def test_what_a_terminal_would_obey_is_gone(raw: str, shown: str) -> None:
    assert plain(raw) == shown


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    shown = plain(text)
    assert not any(ord(char) < 32 and char != "\t" for char in shown)
    assert not any(0x7F <= ord(char) <= 0x9F for char in shown)

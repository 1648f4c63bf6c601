from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpud.core.log_lines import LineAssembler
from gpud.core.redaction import REDACTED, SECRET_CHARS_MIN, Redactor, is_secret_name, secret_values

secrets = (
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=SECRET_CHARS_MIN, max_size=40
    )
    .map(str.strip)
    .filter(lambda text: len(text) >= SECRET_CHARS_MIN and len(text.splitlines()) == 1)
)
STAMP = b"2026-11-22T05:22:16.504138921Z"
KEY = "gpud_" + "a" * 12 + "_" + "b2" * 26


@given(secrets, st.text(max_size=20), st.text(max_size=20))
def test_no_spelling_of_a_secret_is_left(secret: str, before: str, after: str) -> None:
    redactor = Redactor([secret])
    for spelled in (
        secret,
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        base64.b64encode(secret.encode()).decode(),
    ):
        text = (before + spelled + after).encode("utf-8", "replace")
        assert redactor.touches(text)
        assert secret.encode() not in redactor.clean(text).replace(REDACTED, b"")


@given(secrets, st.lists(st.integers(0, 80), max_size=6), st.integers(0, 60))
def test_a_secret_in_pieces_across_a_cut_is_never_kept(secret: str, cuts: list[int], before: int) -> None:
    assume("x" not in secret)
    redactor = Redactor([secret])
    line = b"x" * before + secret.encode() + b"x" * 30 + b"\n"
    assembler = LineAssembler(line_bytes_max=40, spare_bytes=redactor.longest_bytes)
    ends = [*sorted(min(cut, len(line)) for cut in cuts), len(line)]
    begin, whole = 0, None
    for end in ends:
        if line[begin:end]:
            whole = assembler.add(STAMP, b"stdout", line[begin:end]) or whole
        begin = end
    assert whole is not None
    kept = assembler.cut(redactor.clean(whole[1]), whole[2])
    needle = secret.encode()
    assert all(needle[:length] not in kept for length in range(SECRET_CHARS_MIN, len(needle) + 1))


def test_a_key_of_gpud_is_known_by_its_spelling() -> None:
    assert Redactor().clean_text(f"Authorization: Bearer {KEY}!") == "Authorization: Bearer [redacted]!"


def test_each_line_of_a_secret_is_one() -> None:
    redactor = Redactor(["-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\n-----END KEY-----\n"])
    assert redactor.clean(b"got MIIEpAIBAAKCAQEA") == b"got [redacted]"


def test_short_values_are_left_alone() -> None:
    redactor = Redactor(["1", "true", ""])
    assert redactor.clean(b"1 true 1") == b"1 true 1"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "GH_PAT",
        "KEY",
        "db_pwd",
        "apiKey",
    ],
)
def test_names_that_say_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["MODEL", "PATH", "KEYBOARD", "MONKEY_MODE", "LANG", "AUTHOR"])
def test_names_that_do_not(name: str) -> None:
    assert not is_secret_name(name)


def test_the_values_of_secret_variables() -> None:
    env = [("MODEL", "qwen"), ("HF_TOKEN", "hf_abcdef"), ("API_KEY", "hf_abcdef")]
    assert secret_values(env) == ("hf_abcdef",)

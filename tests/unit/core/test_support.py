"""What may leave the box, and what must not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.support import HIDDEN, Scrubber, without_secrets

_TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C"]), min_size=8, max_size=30)


def test_an_environment_keeps_its_names_and_loses_its_values() -> None:
    shown, secrets = without_secrets({"spec": {"env": {"HF_HOME": "/models", "N": "1"}, "image": "a/b:1"}})
    assert shown == {"spec": {"env": {"HF_HOME": HIDDEN, "N": HIDDEN}, "image": "a/b:1"}}
    assert secrets == ("/models", "1")


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({"password": "x"}, {"password": HIDDEN}),
        ({"api_key": ""}, {"api_key": ""}),
        ({"token": None, "max_tokens": 5}, {"token": None, "max_tokens": 5}),
        ({"url": "https://hooks.example/T0/B0"}, {"url": HIDDEN}),
        (
            {"job": {"input": {"prompt": "a fox", "steps": 4}}},
            {"job": {"input": {"prompt": HIDDEN, "steps": 4}}},
        ),
        (["--api-key", "abc", "--model", "m"], ["--api-key", HIDDEN, "--model", "m"]),
        (["--api-key=abc"], ["--api-key=abc"]),
        ({"headers": {"X-A": "1"}}, {"headers": {"X-A": HIDDEN}}),
        ({"reason": "waiting_for_gpu", "count": 2}, {"reason": "waiting_for_gpu", "count": 2}),
    ],
)
def test_fields_that_may_be_secret_are_hidden_and_others_are_not(document: object, shown: object) -> None:
    assert without_secrets(document)[0] == shown


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdefgh.12345", "abcdefgh.12345"),
        ("pull https://user:pa55word@registry/x", "pa55word"),
        ("pull https://user:pa55@word@registry/x", "word"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("using hf_abcdefghijklmnopqr", "hf_abcdefghijklmnopqr"),
        ("OPENAI sk-proj-abcdefghijkl", "sk-proj-abcdefghijkl"),
        ("--api-key=s3cr3tvalue", "s3cr3tvalue"),
        ('{"registry_password": "s3cr3t, value"}', "s3cr3t, value"),
        ("DB_PASSWORD=hunter22 rest", "hunter22"),
        ("DB_PASSWORD=84629173 rest", "84629173"),
        ("passphrase: s3cr3tvalue", "s3cr3tvalue"),
        ("AWS_ACCESS_KEY: s3cr3tvalue", "s3cr3tvalue"),
        ('"signing-key": "s3cr3tvalue"', "s3cr3tvalue"),
        ("a" * 48, "a" * 48),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----", "MHcCAQ"),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQ", "MHcCAQ"),
        ("gpud_abcdefghijkl_" + "a" * 52, "a" * 52),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeK", "SflKxwRJSMeK"),
    ],
)
def test_what_is_spelled_like_a_secret_is_taken_out_wherever_it_stands(text: str, secret: str) -> None:
    clean = Scrubber(()).clean(f"before {text} after".encode()).decode()
    assert secret not in clean
    assert clean.startswith("before")
    in_json = Scrubber(()).clean(json.dumps({"said": f"a line\n{text}"}).encode()).decode()
    assert secret not in in_json
    assert in_json.startswith('{"said": "a line')


@pytest.mark.parametrize(
    "text",
    [
        '{"max_tokens": 512, "token": null}',
        "wk_abcdefghijklmnop started in 812 ms",
        "sha256:" + "ab" * 32,
        "GPU-00000000-0000-4000-8000-000000000000",
        "https://docs.example/page",
        "tokens per second: 40",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Scrubber(()).clean(text.encode()).decode() == text


@pytest.mark.parametrize("word", [b"0a1b" * 50_000, b"x" * 200_000, b"token" * 300])
def test_a_long_word_is_read_once_and_not_from_each_of_its_letters(word: bytes) -> None:
    assert Scrubber(()).clean(word) == word
    assert b"hunter22" not in Scrubber(()).clean(word + b"_secret=hunter22")


@given(st.dictionaries(st.sampled_from(["A", "SECRET", "HOME"]), _TEXTS, min_size=1), _TEXTS)
def test_a_hidden_value_is_found_again_in_every_other_text(env: dict[str, str], around: str) -> None:
    shown, secrets = without_secrets({"env": env})
    log = json.dumps({"event": "x", "said": around + "".join(env.values()) + around}).encode()
    clean = Scrubber(secrets).clean(json.dumps(shown).encode() + b"\n" + log)
    for value in env.values():
        for line in filter(lambda part: len(part.strip()) >= 6, value.splitlines()):
            assert json.dumps(line.strip())[1:-1].encode() not in clean.replace(around.encode(), b"")

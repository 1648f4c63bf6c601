"""The demo model refuses what it cannot do, and says what to send instead."""

import json
from typing import Any

import pytest
from minilm.openai import Refusal, parse


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_string_is_a_list_of_one_and_the_model_name_is_kept() -> None:
    asked = parse(body(input="hello", model="any-name"))
    assert asked.texts == ["hello"]
    assert asked.model == "any-name"
    assert not asked.as_base64


def test_the_model_name_defaults_to_the_only_one() -> None:
    assert parse(body(input=["a", "b"], encoding_format="base64")).model == "all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("sent", "param", "says"),
    [
        (b"{", None, "not JSON"),
        (b"\xff\xfe{", None, "not JSON"),
        (b"[" * 100_000, None, "not JSON"),
        (b"[1]", None, "JSON object"),
        (body(), "input", "missing"),
        (body(input=None), "input", "string or a list"),
        (body(input={"text": "a"}), "input", "string or a list"),
        (body(input=[]), "input", "1 to 2048"),
        (body(input=["a"] * 2049), "input", "not 2049"),
        (body(input=["a", ""]), "input", "'input[1]' is empty"),
        (body(input=""), "input", "empty"),
        (body(input=[1, 2, 3]), "input", "token ids"),
        (body(input=[[1, 2]]), "input", "token ids"),
        (body(input=[None]), "input", "another type"),
        (body(input="a", encoding_format="int8"), "encoding_format", "'float' or 'base64'"),
        (body(input="a", dimensions=256), "dimensions", "384"),
        (body(input="a", dimensions=True), "dimensions", "384"),
        (body(input="a", model=""), "model", "non-empty"),
        (body(input="a", model=7), "model", "non-empty"),
        (body(input="a", inputs="b"), "inputs", "Unknown field 'inputs'"),
    ],
)
def test_a_bad_request_is_refused_with_its_field_and_reason(
    sent: bytes, param: str | None, says: str
) -> None:
    with pytest.raises(Refusal) as refused:
        parse(sent)
    error = refused.value.body["error"]
    assert refused.value.status == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert says in str(error["message"])


@pytest.mark.parametrize("extra", [{"dimensions": 384}, {"user": "u"}, {"encoding_format": None}])
def test_fields_that_change_nothing_are_taken(extra: dict[str, Any]) -> None:
    assert parse(body(input="a", **extra)).texts == ["a"]

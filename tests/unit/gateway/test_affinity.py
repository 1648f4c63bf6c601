"""Which requests count as beginning alike."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.ids import EndpointName, WorkerId
from gpud.core.routing import Route, RouteWorker
from gpud.gateway.affinity import PROMPT_BYTES_MAX, prompt_affinity

CHAT = "/v1/chat/completions"


def _route(workers: int = 2) -> Route:
    return Route(
        endpoint=EndpointName("llm"),
        concurrency=1,
        max_queue=1,
        hold_timeout_s=1,
        request_timeout_s=1,
        workers=tuple(
            RouteWorker(worker_id=WorkerId(f"wk_{i}"), address="10.0.0.1", port=80) for i in range(workers)
        ),
    )


def _key(document: object, path: str = CHAT, workers: int = 2) -> bytes:
    return prompt_affinity(path, json.dumps(document).encode(), _route(workers))


def _chat(*messages: tuple[str, str], **more: object) -> dict[str, object]:
    return {"model": "m", **more, "messages": [{"role": role, "content": text} for role, text in messages]}


_TEXT = st.text(max_size=40)


@given(system=_TEXT, first=_TEXT, answer=_TEXT, second=_TEXT)
def test_later_turns_of_a_conversation_have_the_key_of_its_first(
    system: str, first: str, answer: str, second: str
) -> None:
    turns = [("system", system), ("user", first), ("assistant", answer), ("user", second)]
    assert _key(_chat(*turns[:2])) == _key(_chat(*turns)) != b""


@given(first=_TEXT, other=_TEXT)
def test_other_conversations_have_other_keys(first: str, other: str) -> None:
    same = _key(_chat(("user", first))) == _key(_chat(("user", other)))
    assert same == (first == other)


def test_what_stands_around_the_messages_does_not_matter() -> None:
    one = _key(_chat(("user", "hello"), stream=True, temperature=0.5))
    other = _key({"messages": [{"role": "user", "content": "hello"}], "model": "other"})
    assert one == other


def test_parts_inside_a_message_do_not_end_it() -> None:
    def chat(second: str) -> dict[str, object]:
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": second}]
        return {"messages": [{"role": "user", "content": parts}]}

    assert _key(chat("a")) != _key(chat("b"))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
def test_a_plain_prompt_counts_by_its_beginning(path: str) -> None:
    field = "prompt" if path.endswith("completions") else "input"
    beginning = "x" * 300
    assert _key({field: beginning + "a"}, path) == _key({field: beginning + "b"}, path) != b""
    assert _key({field: "a" + beginning}, path) != _key({field: "b" + beginning}, path)


@pytest.mark.parametrize(
    ("document", "path", "workers"),
    [
        (_chat(("user", "a")), "/v1/embeddings", 2),
        (_chat(("user", "a")), CHAT, 1),
        ({"model": "m"}, CHAT, 2),
    ],
)
def test_where_there_is_nothing_to_choose_there_is_no_key(document: object, path: str, workers: int) -> None:
    assert _key(document, path, workers) == b""


def test_a_request_that_may_be_held_has_a_key() -> None:
    assert _key(_chat(("user", "a")), workers=0) != b""


@given(st.binary(max_size=300))
def test_any_bytes_have_a_key_or_none(body: bytes) -> None:
    assert len(prompt_affinity(CHAT, b'{"messages": ' + body, _route())) == 16


def test_a_long_prompt_costs_no_more_than_a_part_of_it() -> None:
    long = "x" * (2 * PROMPT_BYTES_MAX)
    assert _key(_chat(("user", long + "a"))) == _key(_chat(("user", long + "b")))

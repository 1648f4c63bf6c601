from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.errors import BadFraming
from gpud.gateway import recall
from gpud.gateway.framing import ChunkedBody, LengthBody
from gpud.gateway.heads import parse_request, parse_response
from gpud.gateway.recall import RequestHeads, ResponseHeads
from tests.contract.gateway.malformed import MALFORMED

if TYPE_CHECKING:
    from gpud.gateway.heads import RequestHead, ResponseHead

_LINES = [
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"content-length: 7\r\n",
    b"CONTENT-LENGTH: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5 \r\n",
    b"Content-Length: 5,5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"X: Content-Length: 5\r\n",
    b"Expect: 100-continue\r\n",
]
heads = st.lists(st.sampled_from(_LINES), max_size=5).map(b"".join)


def _facts(head: RequestHead | ResponseHead) -> dict[str, object]:
    facts = {
        name: value
        for name, value in vars(head).items()
        if name not in ("body", "upstream", "token", "start", "end")
    }
    body = head.body
    return {**facts, "length": head.length, "body": type(body), "left": body.left, "done": body.done}


@given(st.lists(heads, min_size=1, max_size=8))
def test_a_recalled_request_is_what_parsing_it_would_give(fields: list[bytes]) -> None:
    known = RequestHeads()
    for lines in fields:
        raw = b"POST /e/llm/a HTTP/1.1\r\n" + lines + b"\r\n"
        try:
            expected = _facts(parse_request(raw))
        except BadFraming:
            with pytest.raises(BadFraming):
                known.read(raw)
            continue
        assert _facts(known.read(raw)) == expected


@given(st.lists(st.tuples(heads, st.sampled_from(["GET", "HEAD"])), min_size=1, max_size=8))
def test_a_recalled_answer_is_what_parsing_it_would_give(fields: list[tuple[bytes, str]]) -> None:
    known = ResponseHeads()
    for lines, method in fields:
        raw = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n"
        try:
            expected = _facts(parse_response(raw, method))
        except BadFraming:
            with pytest.raises(BadFraming):
                known.read(raw, method)
            continue
        assert _facts(known.read(raw, method)) == expected


def test_no_malformed_head_is_ever_recalled() -> None:
    known = RequestHeads()
    for stream in MALFORMED.values():
        head = stream.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        for _ in range(2):
            try:
                expected = _facts(parse_request(head))
            except BadFraming:
                with pytest.raises(BadFraming):
                    known.read(head)
            else:
                assert _facts(known.read(head)) == expected


def test_a_length_beside_a_recalled_coding_is_refused() -> None:
    known = RequestHeads()
    start = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    assert isinstance(known.read(start + b"\r\n").body, ChunkedBody)
    with pytest.raises(BadFraming):
        known.read(start + b"Content-Length: 5\r\n\r\n")


def test_bodies_are_never_shared() -> None:
    known = RequestHeads()
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    first, second = known.read(raw), known.read(raw)
    first.body.take(b"abc")
    assert isinstance(second.body, LengthBody)
    assert second.body.left == 5
    other = known.read(raw.replace(b"5", b"9"))
    assert (other.length, other.body.left) == (9, 9)


def test_what_is_kept_is_bounded() -> None:
    known = RequestHeads()
    for i in range(3 * recall.HEADS_MAX):
        known.read(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i)
        known.read(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (i, i))
    known.read(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000 + b"\r\n\r\n")
    for kept in (known._known, known._measured):
        assert len(kept) <= recall.HEADS_MAX
        assert max(map(len, kept)) <= recall.HEAD_BYTES_MAX

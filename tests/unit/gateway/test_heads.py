from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.errors import BadFraming, HeadTooLarge
from gpud.gateway.framing import ChunkedBody, EndlessBody, LengthBody
from gpud.gateway.heads import check_unfinished, parse_request, parse_response

_HEAD = b"GET /a HTTP/1.1\r\nHost: x\r\n"


def test_a_request_says_what_it_says() -> None:
    head = parse_request(
        b"POST /a?b=c HTTP/1.1\r\nHost: h:1\r\nX-One: 1\r\nContent-Length: 5\r\n"
        b"Authorization: Bearer k\r\nX-Session-Id: s\r\nx-two:2\r\n\r\n"
    )
    assert (head.method, head.target, head.host) == ("POST", "/a?b=c", b"h:1")
    assert head.keep_alive
    assert isinstance(head.body, LengthBody)
    assert head.authorization == "Bearer k"
    assert head.session == b"s"
    assert head.lines == [b"X-One: 1\r\n", b"X-Session-Id: s\r\n", b"x-two: 2\r\n"]


@pytest.mark.parametrize(
    ("raw", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Foo, CLOSE\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", False),
    ],
)
def test_a_connection_is_kept_as_its_version_and_field_say(raw: bytes, keep_alive: bool) -> None:
    assert parse_request(raw).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("fields", "websocket"),
    [
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", True),
        (b"Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n", True),
        (b"Upgrade: websocket\r\n", False),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
        (b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", False),
    ],
)
def test_only_websockets_are_upgraded(fields: bytes, websocket: bool) -> None:
    assert parse_request(_HEAD + fields + b"\r\n").websocket is websocket


def test_values_lose_the_blanks_around_them() -> None:
    assert parse_request(b"GET / HTTP/1.1\r\nHost:  x \t\r\n\r\n").host == b"x"


@pytest.mark.parametrize(
    ("raw", "method", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", LengthBody),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", ChunkedBody),
        (b"HTTP/1.1 200 OK\r\n\r\n", "GET", EndlessBody),
        (b"HTTP/1.0 200\r\n\r\n", "POST", EndlessBody),
    ],
)
def test_an_answers_body_ends_as_its_head_says(raw: bytes, method: str, body: type) -> None:
    assert isinstance(parse_response(raw, method).body, body)


@pytest.mark.parametrize(
    ("raw", "method"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "GET"),
    ],
)
def test_some_answers_have_no_body_whatever_they_say(raw: bytes, method: str) -> None:
    assert parse_response(raw, method).body.done


@given(st.binary(max_size=120))
def test_any_bytes_are_a_request_or_are_refused(junk: bytes) -> None:
    for raw in (junk + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + junk + b"\r\n\r\n"):
        try:
            head = parse_request(raw)
        except BadFraming:
            continue
        for line in head.lines:
            assert line.count(b"\r") == line.count(b"\n") == 1
            assert line.endswith(b"\r\n")


@given(st.binary(max_size=120))
def test_any_bytes_are_an_answer_or_are_refused(junk: bytes) -> None:
    for raw in (junk + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + junk + b"\r\n\r\n"):
        try:
            head = parse_response(raw, "GET")
        except BadFraming:
            continue
        assert b"\r" not in head.reason
        for line in head.lines:
            assert line.count(b"\r") == line.count(b"\n") == 1


def test_an_unfinished_head_is_refused_once_it_cannot_become_whole() -> None:
    check_unfinished(b"GET / HTTP/1.1\r\nHost: x\r")
    with pytest.raises(BadFraming):
        check_unfinished(b"GET / HTTP/1.1\nHost: x")
    with pytest.raises(BadFraming):
        check_unfinished(b"GET / HTTP/1.1\rH")
    with pytest.raises(HeadTooLarge):
        check_unfinished(b"x" * 70_000)

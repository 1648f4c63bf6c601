"""A stream that waits for a cold start is told how it goes; whatever then comes reaches it as a stream."""

from __future__ import annotations

import asyncio

import pytest

from gpud.errors import ColdStartTimeout
from gpud.gateway import openai, progress
from gpud.gateway.framing import ChunkedBody
from tests.unit.gateway.wires import Bench

_STREAM = b'{"model": "m", "stream": true}'
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)


def _held(body: bytes = _STREAM, *fields: str, version: str = "1.1", **changes: object) -> Bench:
    bench = Bench()
    facts = {"progress": True, "expected_start_s": 40.0, "start_phase": "starting", **changes}
    bench.publish(ready=False, **facts)
    lines = "".join(f"{field}\r\n" for field in fields)
    head = f"POST /e/llm/chat HTTP/{version}\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    bench.client.data_received(head.encode() + body)
    return bench


async def _told(bench: Bench) -> bytes:
    async with asyncio.timeout(5):
        while b": gpud" not in bench.wire.written:  # noqa: ASYNC110 - timers of no time
            await asyncio.sleep(0)
    return bench.wire.taken()


def _body(told: bytes, *, whole: bool = True) -> bytes:
    parts: list[bytes] = []
    body = ChunkedBody()
    assert body.take(told, parts) == len(told)
    assert body.done is whole
    return b"".join(parts)


async def test_a_waiting_stream_is_told_the_phase_and_the_usual_time() -> None:
    bench = _held()
    head, _, rest = (await _told(bench)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    assert b"\r\nX-Gpud-Request-Id: req_" in head
    assert b": gpud starting 0s/40s\n\n" in _body(rest, whole=False)
    bench.clock.time_s += 12
    bench.publish(ready=False, progress=True, start_phase="pulling")
    bench.wire.taken()
    assert b": gpud pulling 12s\n\n" in _body(await _told(bench), whole=False)


async def test_the_workers_stream_follows_and_the_connection_serves_the_next_request() -> None:
    for framing, end in (
        (b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n", b"9\r\ndata: b\n\n\r\n0\r\n\r\n"),
        (b"Content-Length: 18\r\n\r\ndata: a\n\n", b"data: b\n\n"),
    ):
        bench = _held()
        await _told(bench)
        bench.publish(ready=True, progress=True)
        bench.wire.taken()
        bench.worker.data_received(_SSE + framing)
        bench.worker.data_received(end)
        assert _body(bench.wire.taken()) == b"data: a\n\ndata: b\n\n"
        bench.client.data_received(b"GET /e/llm/next HTTP/1.1\r\nHost: x\r\n\r\n")
        bench.worker.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert bench.wire.taken().endswith(b"\r\n\r\nok")


async def test_a_stream_that_ends_with_its_connection_ends_as_a_stream() -> None:
    bench = _held()
    await _told(bench)
    bench.publish(ready=True, progress=True)
    bench.wire.taken()
    bench.worker.data_received(_SSE + b"\r\ndata: a\n\n")
    bench.worker.eof_received()
    assert _body(bench.wire.taken()) == b"data: a\n\n"


async def test_an_answer_that_is_no_stream_becomes_one_event() -> None:
    for status, body, event in (
        (b"400 Bad", b'{"error":\n"no"}', b'event: error\ndata: {"error":\ndata: "no"}\n\n'),
        (b"200 OK", b'{"a": 1}', b'data: {"a": 1}\n\n'),
    ):
        bench = _held()
        await _told(bench)
        bench.publish(ready=True, progress=True)
        bench.wire.taken()
        bench.worker.data_received(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        assert _body(bench.wire.taken()) == event


async def test_an_answer_without_a_body_ends_the_stream() -> None:
    bench = _held()
    await _told(bench)
    bench.publish(ready=True, progress=True)
    bench.wire.taken()
    bench.worker.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert _body(bench.wire.taken()) == b"data: \n\n"


async def test_a_hold_that_fails_after_the_head_ends_with_an_error_event_and_no_end() -> None:
    bench = _held()
    await _told(bench)
    exchange = bench.client.exchange
    assert exchange is not None
    bench.wire.taken()
    exchange.refused(ColdStartTimeout("No worker of llm became ready within 30 s."))
    told = _body(bench.wire.taken(), whole=False)
    assert told.startswith(b"event: error\ndata: {")
    assert b"cold-start-timeout" in told
    assert bench.wire.closed


async def test_a_worker_that_dies_in_the_stream_is_told_as_an_error_event() -> None:
    bench = _held()
    await _told(bench)
    bench.publish(ready=True, progress=True)
    bench.wire.taken()
    bench.worker.data_received(_SSE + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n")
    bench.worker.connection_lost(None)
    told = _body(bench.wire.taken(), whole=False)
    assert told.startswith(b"data: a\n\n")
    assert b"event: error\ndata: " in told


async def test_a_client_that_speaks_http_1_0_gets_the_stream_without_chunks() -> None:
    bench = _held(_STREAM, version="1.0")
    head, _, rest = (await _told(bench)).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head
    assert rest.startswith(b": gpud starting")
    bench.publish(ready=True, progress=True)
    bench.wire.taken()
    bench.worker.data_received(_SSE + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n0\r\n\r\n")
    assert bench.wire.taken() == b"data: a\n\n"
    assert bench.wire.ended


async def test_nobody_else_is_told_anything() -> None:
    for bench in (
        _held(b'{"stream": false}'),
        _held(b"{}"),
        _held(_STREAM, progress=False),
        _held(_STREAM, "Connection: Upgrade", "Upgrade: websocket"),
    ):
        for _ in range(10):
            await asyncio.sleep(0)
        assert bench.wire.taken() == b""


async def test_a_client_that_leaves_is_told_nothing_more() -> None:
    bench = _held()
    await _told(bench)
    bench.client.connection_lost(None)
    bench.wire.taken()
    for _ in range(10):
        await asyncio.sleep(0)
    assert bench.wire.taken() == b""
    assert bench.dispatcher.table.routes


async def test_an_accept_field_asks_for_a_stream_too() -> None:
    assert await _told(_held(b"{}", "Accept: application/json, text/event-stream"))


@pytest.mark.parametrize(
    ("body", "streams"),
    [
        (b'{"stream": true}', True),
        (b'{"messages": [{"stream": false}], "stream" : true, "n": 1}', True),
        (b'{"stream": false}', False),
        (b'{"stream": "true"}', False),
        (b'{"inner": {"stream": true}}', False),
        (b'{"x": "\\"stream\\": true"}', False),
        (b'["stream", true]', False),
        (b'{"stream": truest}', False),
        (b"", False),
        (b'{"stream": tr', False),
    ],
)
def test_a_body_asks_for_a_stream_in_its_outermost_object(body: bytes, streams: bool) -> None:
    assert openai.streams(body) is streams

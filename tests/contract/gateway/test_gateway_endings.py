"""How requests end when something goes wrong: retries, timeouts, streams that break off."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from gpud.core.ids import EndpointName
from gpud.core.routing import Refusal, RoutingTable
from tests.contract.gateway.rig import TOKEN, Rig, ScriptedWorker, route

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from tests.contract.gateway.rig import Answer, Seen

_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def _dying(*parts: bytes, politely: bool = False) -> Answer:
    """Answer with these bytes, then break the connection."""

    async def answer(_worker: ScriptedWorker, _seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if politely:
            writer.close()
        else:
            await asyncio.sleep(0.05)  # a reset overtakes what was not read yet
            peer = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    return answer


def _events(body: bytes) -> list[tuple[str, str]]:
    """Read server-sent events as the standard says: kind and data."""
    found, kind, data = [], "message", list[str]()
    for line in body.decode().split("\n"):
        if not line:
            if data:
                found.append((kind, "\n".join(data)))
            kind, data = "message", []
        name, _, value = line.partition(":")
        if name == "event":
            kind = value.strip()
        elif name == "data":
            data.append(value.strip())
    return found


async def test_a_stream_of_events_that_breaks_off_ends_with_an_error_event(rig: Rig) -> None:
    rig.publish(await rig.worker(answer=_dying(_SSE + _CHUNKED + b"b\r\ndata: one\n\n\r\n")))

    reply = await rig.get("/e/llm/")

    assert not reply.whole  # no last chunk: nobody takes it for a normal end
    one, error = _events(reply.body)
    assert one == ("message", "one")
    assert error[0] == "error"
    problem = json.loads(error[1])
    assert (problem["type"], problem["status"]) == ("/problems/worker-unreachable", 502)
    assert problem["instance"] == reply.header("X-Gpud-Request-Id")
    await rig.until(lambda: rig.in_flight() == 0)


async def test_openai_clients_get_the_error_in_their_shape(rig: Rig) -> None:
    worker = await rig.worker(answer=_dying(_SSE + _CHUNKED + b"b\r\ndata: one\n\n\r\n"))
    table = RoutingTable({EndpointName("llm"): route(worker)}, {"gpt": EndpointName("llm")})
    rig.dispatcher.publish(table)

    reply = await rig.get("/openai/v1/chat/completions", method="POST", body=b'{"model":"gpt"}')

    kind, data = _events(reply.body)[-1]
    assert (kind, json.loads(data)["error"]["code"]) == ("error", "worker_unreachable")


async def test_an_unfinished_event_is_not_joined_to_the_error(rig: Rig) -> None:
    rig.publish(await rig.worker(answer=_dying(_SSE + _CHUNKED + b'9\r\ndata: {"a\r\n')))
    events = _events((await rig.get("/e/llm/")).body)
    assert [kind for kind, _ in events] == ["message", "error"]
    assert json.loads(events[1][1])["status"] == 502


async def test_an_event_stream_that_ends_with_its_connection_tells_a_reset(rig: Rig) -> None:
    rig.publish(await rig.worker(answer=_dying(_SSE + b"\r\ndata: one\n\n")))
    reply = await rig.get("/e/llm/")
    assert [kind for kind, _ in _events(reply.body)] == ["message", "error"]


@pytest.mark.parametrize(
    "beginning",
    [
        _SSE + _CHUNKED + b"f\r\ndata: on",  # inside a chunk
        _SSE + _CHUNKED + b"b\r\ndata: one\n\n\r\n5",  # inside a size
        _SSE + b"Content-Length: 100\r\n\r\ndata: one\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + _CHUNKED + b"3\r\none\r\n",
    ],
)
async def test_where_no_event_fits_the_answer_is_cut(rig: Rig, beginning: bytes) -> None:
    rig.publish(await rig.worker(answer=_dying(beginning, politely=True)))
    client = await rig.client()
    client.send("GET", "/e/llm/")
    reply = await client.reply()
    assert not reply.whole
    assert b"error" not in reply.body


async def test_an_answer_that_falls_silent_is_ended(rig: Rig) -> None:
    async def fall_silent(
        _worker: ScriptedWorker, _seen: Seen, reader: StreamReader, writer: StreamWriter
    ) -> None:
        writer.write(_SSE + _CHUNKED + b"b\r\ndata: one\n\n\r\n")
        await reader.read()

    worker = await rig.worker(answer=fall_silent)
    rig.publish(worker, stream_idle_timeout_s=0.5)

    reply = await rig.get("/e/llm/")

    error = json.loads(_events(reply.body)[-1][1])
    assert error["type"] == "/problems/request-timeout"
    assert "stream_idle_timeout_s" in error["detail"]
    await worker.until(lambda: worker.gone == 1)


async def test_a_first_request_has_a_limit_of_its_own(rig: Rig) -> None:
    async def think(_worker: ScriptedWorker, _seen: Seen, reader: StreamReader, _out: StreamWriter) -> None:
        await reader.read()

    rig.publish(await rig.worker(answer=think), request_timeout_s=600.0, first_request_timeout_s=0.2)

    reply = await rig.get("/e/llm/")

    assert reply.status == 504
    assert "first_request_timeout_s" in json.loads(reply.body)["detail"]


async def test_a_later_request_has_the_usual_limit(rig: Rig) -> None:
    async def think_once(
        worker: ScriptedWorker, _seen: Seen, reader: StreamReader, writer: StreamWriter
    ) -> None:
        if len(worker.seen) == 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            await reader.read()

    rig.publish(await rig.worker(answer=think_once), request_timeout_s=0.2, first_request_timeout_s=600.0)

    assert (await rig.get("/e/llm/")).status == 200
    assert "request_timeout_s" in json.loads((await rig.get("/e/llm/")).body)["detail"]


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_a_get_is_not_sent_again_after_a_part_of_an_answer(rig: Rig, beginning: bytes) -> None:
    first = await rig.worker(1, answer=_dying(beginning, politely=True))
    second = await rig.worker(2, answer=_dying(beginning, politely=True))
    rig.publish(first, second)
    client = await rig.client()
    client.send("GET", "/e/llm/")
    reply = await client.reply()
    if b"103" in beginning:
        assert reply.status == 103
        reply = await client.reply()
    assert reply.status == 502
    assert len(first.seen) + len(second.seen) == 1


@pytest.mark.parametrize(
    ("method", "headers", "sent"),
    [
        ("GET", (), 2),
        ("HEAD", (), 2),
        ("POST", ("Idempotency-Key: k",), 2),
        ("POST", (), 1),
        ("DELETE", (), 1),
    ],
)
async def test_a_request_that_may_be_repeated_is_when_nothing_came_back(
    rig: Rig, method: str, headers: tuple[str, ...], sent: int
) -> None:
    workers = [await rig.worker(i, answer=_dying(politely=True)) for i in range(3)]
    rig.publish(*workers)
    reply = await rig.get("/e/llm/", method=method, headers=headers, body=b"x" if method == "POST" else None)
    assert reply.status == 502
    assert sum(len(worker.seen) for worker in workers) == sent


async def test_a_get_goes_elsewhere_when_its_worker_dies_on_a_used_and_on_a_fresh_connection(
    rig: Rig,
) -> None:
    """A process that ends closes its connections first; until its socket is closed too, it takes another."""

    async def answer_once(
        worker: ScriptedWorker, _seen: Seen, _reader: StreamReader, writer: StreamWriter
    ) -> None:
        if len(worker.seen) == 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.close()

    dying, other = await rig.worker(1, answer=answer_once), await rig.worker(2)
    rig.publish(dying)
    assert (await rig.get("/e/llm/")).status == 200
    rig.publish(dying, other)
    assert [(await rig.get("/e/llm/")).status for _ in range(2)] == [200, 200]
    assert len(dying.seen) == 3


@pytest.mark.parametrize("asked", [False, True])
async def test_credentials_reach_workers_only_where_the_endpoint_asks_for_them(rig: Rig, asked: bool) -> None:
    worker = await rig.worker()
    rig.publish(worker, public=True, forward_authorization=asked)
    await rig.get("/e/llm/", headers=("X-API-Key: mine",))
    seen = worker.seen[0]
    expected = (f"Bearer {TOKEN}", "mine") if asked else (None, None)
    assert (seen.header("Authorization"), seen.header("X-API-Key")) == expected


@pytest.mark.parametrize("target", ["/e/llm/", "/e/none/", "/openai/v1/models", "/openai/v1/embeddings"])
async def test_an_address_with_many_bad_keys_is_told_to_wait(rig: Rig, target: str) -> None:
    rig.publish(await rig.worker())
    rig.keys.failures_max = 3
    method, body = ("POST", b'{"model":"llm"}') if target.endswith("embeddings") else ("GET", None)

    replies = [await rig.get(target, method=method, body=body, token=f"gpud_wrong_{i}") for i in range(5)]

    assert [reply.status for reply in replies] == [401, 401, 401, 429, 429]
    assert replies[-1].header("Retry-After") == "60"
    assert (await rig.get("/e/llm/")).status == 200  # a good key is served all the same
    assert (await rig.get("/e/llm/", token=None)).status == 401
    assert rig.keys.failures == {"127.0.0.1": 5}


async def test_a_request_refused_while_the_circuit_is_open_says_so(rig: Rig) -> None:
    rig.publish(refusal=Refusal(slug="start-failed", detail="It exits with 3.", retry_after_s=9))
    reply = await rig.get("/e/llm/")
    assert (reply.status, json.loads(reply.body)["reason"]) == (503, "circuit_open")
    assert reply.header("Retry-After") == "9"

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from gpud.core.ids import EndpointName
from gpud.core.routing import RoutingTable
from gpud.settings import ServerSettings
from tests.contract.gateway.rig import TOKEN, RawClient, Rig, Seen, read_body_of, route

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator

    from tests.contract.gateway.rig import ScriptedWorker


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = await Rig(ServerSettings(body_bytes_max=1 << 20)).start()
    yield rig
    await rig.stop()


async def _never(_worker: ScriptedWorker, _seen: Seen, reader: StreamReader, _writer: StreamWriter) -> None:
    await reader.read()


async def test_path_query_and_body_reach_the_worker_as_they_were_sent(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)

    reply = await rig.get("/e/llm/a%2Fb/./c?x=%20&y=1", method="POST", body=b'{"a": 1}')

    assert reply.status == 200
    assert reply.body == f"{worker.worker_id} POST /a%2Fb/./c?x=%20&y=1".encode()
    assert worker.seen[0].body == b'{"a": 1}'
    assert worker.seen[0].header("Host") == "gpud.test"


@pytest.mark.parametrize(("target", "expected"), [("/e/llm", "/"), ("/e/llm/", "/"), ("/e/llm?q=1", "/?q=1")])
async def test_an_endpoint_without_a_path_is_its_root(rig: Rig, target: str, expected: str) -> None:
    worker = await rig.worker()
    rig.publish(worker)

    await rig.get(target)

    assert worker.seen[0].target == expected


async def test_keys_are_asked_for_and_never_shown_to_workers(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)

    refused = await rig.get("/e/llm/", token=None)
    assert refused.status == 401
    assert refused.header("WWW-Authenticate")
    assert (await rig.get("/e/llm/", token="wrong")).status == 401
    assert (await rig.get("/e/llm/")).status == 200
    assert (await rig.get("/e/llm/", token=None, headers=(f"X-API-Key: {TOKEN}",))).status == 200
    rig.keys.scopes = {"invoke:other"}
    assert (await rig.get("/e/llm/")).status == 403
    rig.publish(worker, public=True)
    assert (await rig.get("/e/llm/", token=None)).status == 200
    for seen in worker.seen:
        assert seen.header("Authorization") is None
        assert TOKEN not in str(seen.headers)


async def test_unknown_endpoints_are_not_found_and_need_a_key_to_learn_that(rig: Rig) -> None:
    rig.publish()

    assert (await rig.get("/e/other/", token=None)).status == 401
    reply = await rig.get("/e/other/")
    assert reply.status == 404
    assert json.loads(reply.body)["type"] == "/problems/not-found"


async def test_answers_tell_who_gave_them_and_how_long_it_took(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)

    reply = await rig.get("/e/llm/")

    assert reply.header("X-Gpud-Worker") == worker.worker_id
    assert reply.header("X-Gpud-Cold-Start") == "false"
    assert reply.header("X-Gpud-Queue-Ms") == "0"
    assert (reply.header("X-Gpud-Request-Id") or "").startswith("req_")
    assert "first_byte;dur=" in (reply.header("Server-Timing") or "")
    assert reply.header("Gpud-Origin") is None


async def test_a_workers_own_errors_pass_untouched(rig: Rig) -> None:
    async def answer(_worker: ScriptedWorker, _seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Busy Model\r\nX-Why: loading\r\nContent-Length: 4\r\n\r\nbusy")

    rig.publish(await rig.worker(answer=answer))

    reply = await rig.get("/e/llm/")

    assert (reply.status, reply.body, reply.header("X-Why")) == (503, b"busy", "loading")
    assert reply.header("Gpud-Origin") is None


async def test_chunks_arrive_one_by_one_as_the_worker_sends_them(rig: Rig) -> None:
    step = asyncio.Semaphore(0)

    async def answer(_worker: ScriptedWorker, _seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(5):
            await step.acquire()
            event = b"data: %d\n\n" % i
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    rig.publish(await rig.worker(answer=answer))
    client = await rig.client()
    client.send("GET", "/e/llm/")
    assert (await client.head()).status == 200
    for i in range(5):
        step.release()
        async with asyncio.timeout(5):
            await client.reader.readuntil(b"data: %d\n\n" % i)


async def test_an_upload_streams_to_the_worker_before_it_has_ended(rig: Rig) -> None:
    async def answer(worker: ScriptedWorker, seen: Seen, reader: StreamReader, writer: StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n")
        seen.body = await reader.readexactly(int(line, 16))
        await reader.readexactly(2)
        await worker.note()
        await read_body_of(seen, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    worker = await rig.worker(answer=answer, read_body=False)
    rig.publish(worker)
    client = await rig.client()
    client.send("POST", "/e/llm/", headers=("Transfer-Encoding: chunked",))
    client.writer.write(b"5\r\nfirst\r\n")
    await worker.until(lambda: bool(worker.seen) and worker.seen[0].body == b"first")
    client.writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    assert (await client.reply()).status == 200
    assert worker.seen[0].body == b"firstsecond"


async def test_a_slow_reader_stops_the_reading_of_its_worker(rig: Rig) -> None:
    sent = 0

    async def answer(worker: ScriptedWorker, _seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 << 20))
        for _ in range(256):
            writer.write(b"x" * (1 << 20))
            await writer.drain()
            sent += 1
            await worker.note()

    worker = await rig.worker(answer=answer)
    rig.publish(worker)
    client = await rig.client()
    client.send("GET", "/e/llm/")
    await client.head()
    before = -1
    while sent != before:  # stands still once every buffer on the way is full
        before = sent
        await asyncio.sleep(0.3)

    assert sent < 64
    client.leave()
    await worker.until(lambda: worker.gone == 1)


async def test_a_large_body_goes_both_ways_unchanged(rig: Rig) -> None:
    async def answer(_worker: ScriptedWorker, seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(seen.body))
        writer.write(seen.body)

    rig.publish(await rig.worker(answer=answer))
    body = bytes(range(256)) * 4000

    reply = await rig.get("/e/llm/", method="POST", body=body)

    assert reply.body == body


async def test_a_body_that_is_too_large_is_refused(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    client = await rig.client()
    client.send("POST", "/e/llm/", headers=(f"Content-Length: {(1 << 20) + 1}",))

    reply = await client.reply()

    assert reply.status == 413
    assert worker.seen == []


async def test_a_client_that_leaves_while_the_worker_thinks_frees_its_slot(rig: Rig) -> None:
    worker = await rig.worker(answer=_never)
    rig.publish(worker)
    client = await rig.client()
    client.send("GET", "/e/llm/")
    await worker.until(lambda: len(worker.seen) == 1)

    client.leave()

    await worker.until(lambda: worker.gone == 1)
    await rig.until(lambda: rig.in_flight() == 0)


async def test_a_client_that_leaves_mid_stream_cancels_the_worker(rig: Rig) -> None:
    async def answer(
        _worker: ScriptedWorker, _seen: Seen, reader: StreamReader, writer: StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await reader.read()

    worker = await rig.worker(answer=answer)
    rig.publish(worker)
    client = await rig.client()
    client.send("GET", "/e/llm/")
    await client.reader.readuntil(b"one")

    client.leave()

    await worker.until(lambda: worker.gone == 1)
    await rig.until(lambda: rig.in_flight() == 0)


async def test_a_client_that_leaves_during_its_upload_cancels_the_worker(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    client = await rig.client()
    client.send("POST", "/e/llm/", headers=("Content-Length: 100",))
    client.writer.write(b"half")
    await rig.until(lambda: worker.connections == 1)

    client.leave()

    await worker.until(lambda: worker.gone == 1)
    await rig.until(lambda: rig.in_flight() == 0)


@pytest.mark.parametrize(
    "beginning",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30\r\none",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\none",
    ],
)
async def test_a_worker_that_dies_mid_stream_is_an_error_to_the_client(rig: Rig, beginning: bytes) -> None:
    async def answer(_worker: ScriptedWorker, _seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        writer.write(beginning)
        await writer.drain()
        writer.close()

    rig.publish(await rig.worker(answer=answer))

    reply = await rig.get("/e/llm/")

    assert reply.status == 200
    assert not reply.whole
    await rig.until(lambda: rig.in_flight() == 0)


async def test_a_worker_that_dies_before_answering_is_a_clear_502(rig: Rig) -> None:
    async def answer(_worker: ScriptedWorker, _seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        writer.close()

    rig.publish(await rig.worker(answer=answer))

    reply = await rig.get("/e/llm/", method="POST", body=b"x")

    assert reply.status == 502
    assert json.loads(reply.body)["type"] == "/problems/worker-unreachable"


async def test_a_worker_that_takes_too_long_is_a_504(rig: Rig) -> None:
    worker = await rig.worker(answer=_never)
    rig.publish(worker, request_timeout_s=0.2)

    reply = await rig.get("/e/llm/")

    assert reply.status == 504
    assert json.loads(reply.body)["type"] == "/problems/request-timeout"
    await worker.until(lambda: worker.gone == 1)


async def test_head_and_empty_answers_have_no_body(rig: Rig) -> None:
    async def answer(_worker: ScriptedWorker, seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        writer.write(
            {
                "/none": b"HTTP/1.1 204 No Content\r\n\r\n",
                "/same": b"HTTP/1.1 304 Not Modified\r\nETag: 1\r\n\r\n",
                "/head": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            }[seen.target]
        )

    rig.publish(await rig.worker(answer=answer))
    client = await rig.client()

    statuses = []
    for method, target in (("GET", "/e/llm/none"), ("GET", "/e/llm/same"), ("HEAD", "/e/llm/head")) * 2:
        client.send(method, target)
        statuses.append((await client.reply(method)).status)

    assert statuses == [204, 304, 200] * 2


async def test_one_connection_serves_endpoints_and_the_control_api_in_turn(rig: Rig) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    client = await rig.client()

    for _ in range(3):
        client.send("GET", "/e/llm/x")
        assert (await client.reply()).body == f"{worker.worker_id} GET /x".encode()
        client.send("POST", "/v1/echo", body=b"to the api")
        assert (await client.reply()).body == b"to the api"
        client.send("GET", "/v1/stream")
        assert (await client.reply()).body.count(b"line") == 5
        client.send("GET", "/nowhere")
        assert (await client.reply()).status == 404


async def test_a_large_body_reaches_the_control_api(rig: Rig) -> None:
    body = bytes(range(256)) * 12_000

    assert (await rig.get("/v1/echo", method="POST", body=body)).body == body


async def test_openai_requests_go_where_their_model_says(rig: Rig) -> None:
    worker = await rig.worker()
    name = EndpointName("llm")
    rig.dispatcher.publish(RoutingTable({name: route(worker)}, {"org/Model-1": name}))
    padding = json.dumps({"messages": ["x" * 200_000], "model": "late"}).encode()

    for model in ("org/Model-1", "llm"):
        body = json.dumps({"messages": [{"model": "decoy"}], "model": model}).encode()
        reply = await rig.get("/openai/v1/chat/completions?a=1", method="POST", body=body)
        assert reply.body == f"{worker.worker_id} POST /v1/chat/completions?a=1".encode()
        assert worker.seen[-1].body == body
    unknown = await rig.get("/openai/v1/embeddings", method="POST", body=b'{"model": "nope"}')
    assert unknown.status == 404
    assert json.loads(unknown.body)["error"]["code"] == "model_not_found"
    assert (await rig.get("/openai/v1/embeddings", method="POST", body=padding)).status == 400
    early = json.dumps({"model": "llm", "input": "y" * 400_000}).encode()
    assert (await rig.get("/openai/v1/embeddings", method="POST", body=early)).status == 200
    assert worker.seen[-1].body == early


async def test_openai_models_are_listed_without_waking_anything(rig: Rig) -> None:
    name = EndpointName("llm")
    rig.dispatcher.publish(RoutingTable({name: route()}, {"org/Model-1": name}))

    reply = await rig.get("/openai/v1/models")

    assert [model["id"] for model in json.loads(reply.body)["data"]] == ["org/Model-1"]
    assert rig.waiting() == 0
    assert (await rig.get("/openai/v1/models", token=None)).status == 401


async def _echo_worker_port(runners: list[web.AppRunner]) -> int:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=["v1.echo"])
        await ws.prepare(request)
        async for message in ws:
            if message.data == "bye":
                await ws.close(code=4001)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await ws.send_bytes(message.data)
            else:
                await ws.send_str(message.data)
        return ws

    app = web.Application()
    app.router.add_get("/ws", echo)
    runner = web.AppRunner(app)
    runners.append(runner)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return int(runner.addresses[0][1])


async def test_a_websocket_goes_through_in_both_directions(rig: Rig) -> None:
    runners: list[web.AppRunner] = []
    worker = await rig.worker()
    worker_port = worker.port
    worker.port = await _echo_worker_port(runners)
    rig.publish(worker)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
        session.ws_connect(f"ws://127.0.0.1:{rig.port}/e/llm/ws", protocols=["v1.echo"]) as ws,
    ):
        assert ws.protocol == "v1.echo"
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
        await ws.send_bytes(b"\0" * 100_000)
        assert await ws.receive_bytes() == b"\0" * 100_000
        assert rig.in_flight() == 1
        await ws.send_str("bye")
        closing = await ws.receive()
        assert closing.data == 4001
    await rig.until(lambda: rig.in_flight() == 0)
    worker.port = worker_port
    await runners[0].cleanup()


async def test_a_websocket_reaches_the_control_api(rig: Rig) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"ws://127.0.0.1:{rig.port}/v1/ws") as ws,
    ):
        await ws.send_str("hello")
        assert await ws.receive_str() == "api hello"


async def test_stopping_lets_running_requests_finish(rig: Rig) -> None:
    release = asyncio.Event()

    async def answer(_worker: ScriptedWorker, _seen: Seen, _in: StreamReader, writer: StreamWriter) -> None:
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    worker = await rig.worker(answer=answer)
    rig.publish(worker)
    client: RawClient = await rig.client()
    client.send("GET", "/e/llm/")
    await worker.until(lambda: len(worker.seen) == 1)
    assert rig.gateway is not None

    stopping = asyncio.create_task(rig.gateway.stop(5.0))
    await asyncio.sleep(0)
    release.set()

    assert (await client.reply()).body == b"ok"
    await stopping

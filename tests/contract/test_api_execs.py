"""Sessions in workers over the API's WebSocket: what passes, who may, and how each side's end is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError

from gpud.api import execs
from gpud.api.services import SERVICES
from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.worker import Cause, WorkerState
from gpud.errors import DependencyDown
from gpud.settings import ExecSettings, Settings
from tests.contract.api_site import ApiSite, running_api, unix_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fakes.execs import FakeExec

WORKER = WorkerId("wk_aaaaaaaaaaaaaaaa")
PATH = f"/v1/workers/{WORKER}/exec"


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiSite]:
    monkeypatch.setattr(execs, "_LOOK_S", 0.05)
    async with running_site() as site:
        yield site


@contextlib.asynccontextmanager
async def running_site(idle_timeout_s: float = 600) -> AsyncIterator[ApiSite]:
    settings = Settings(exec=ExecSettings(idle_timeout_s=idle_timeout_s, worker_sessions=2))
    async with running_api(settings) as site:
        await site.control.deploy(EndpointSpec(name=EndpointName("llm"), image="a/b"))
        site.control.add_worker(WORKER, "llm", address="172.30.0.2")
        yield site


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is about what another task does in its time
            await asyncio.sleep(0.01)


async def opened(site: ApiSite, count: int) -> FakeExec:
    """The last of so many commands."""
    await until(lambda: len(site.execs.opened) >= count)
    return site.execs.opened[count - 1]


@contextlib.asynccontextmanager
async def session(
    site: ApiSite, *command: str, headers: dict[str, str] | None = None, **opening: Any
) -> AsyncIterator[ClientWebSocketResponse]:
    """A session whose first message is sent; by an administrator unless said otherwise."""
    sent = site.admin if headers is None else headers
    async with site.client.ws_connect(PATH, headers=sent) as socket:
        if command:
            await socket.send_str(json.dumps({"command": command, **opening}))
        yield socket


async def ending(socket: ClientWebSocketResponse) -> dict[str, Any]:
    """The last message before the server closes, after any output."""
    last: dict[str, Any] = {}
    async with asyncio.timeout(20):
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                last = json.loads(message.data)
    return last


async def refused(socket: ClientWebSocketResponse) -> tuple[int, str]:
    problem = (await ending(socket))["problem"]
    return problem["status"], problem["detail"]


async def audited(site: ApiSite) -> list[dict[str, Any]]:
    async with site.client.get("/v1/audit-log?operation=exec_worker", headers=site.admin) as response:
        found: list[dict[str, Any]] = (await response.json())["items"]
        return found[::-1]


async def test_bytes_pass_both_ways_and_the_exit_code_comes_last(site: ApiSite) -> None:
    async with session(site, "cat", "-u", tty=True, rows=30, cols=90) as socket:
        await socket.send_bytes(b"\x00\xffwhatever")
        assert await socket.receive_bytes(timeout=20) == b"\x00\xffwhatever"
        await socket.send_str('{"resize": {"rows": 10, "cols": 20}}')
        await socket.send_str('{"eof": true}')
        assert await ending(socket) == {"exit_code": 0}
    (ran,) = site.execs.opened
    assert ran.request.command == ("cat", "-u")
    assert ran.sizes == [(30, 90), (10, 20)]
    assert ran.closed


async def test_without_a_terminal_each_piece_says_its_stream(site: ApiSite) -> None:
    async with session(site, "both") as socket:
        assert await socket.receive_bytes(timeout=20) == b"\x01out\xff"
        assert await socket.receive_bytes(timeout=20) == b"\x02err\x00"
        assert await ending(socket) == {"exit_code": 0}
    async with session(site, "exit", "7") as socket:
        assert await ending(socket) == {"exit_code": 7}


async def test_a_key_may_come_first_of_all_or_in_the_header(site: ApiSite) -> None:
    token = (await site.headers("exec"))["Authorization"].removeprefix("Bearer ")
    async with session(site, "exit", "0", headers={}, token=token) as socket:
        assert await ending(socket) == {"exit_code": 0}
    async with session(site, "exit", "0", headers={}) as socket:
        assert (await refused(socket))[0] == 401
    reader = (await site.headers("read", "write", "invoke:*"))["Authorization"].removeprefix("Bearer ")
    async with session(site, "exit", "0", headers={}, token=reader) as socket:
        status, detail = await refused(socket)
    assert (status, "this needs exec" in detail) == (403, True)
    async with session(site, "exit", "0", token=reader) as socket:  # The one that is sent last counts.
        assert (await refused(socket))[0] == 403
    for wrong in ({"Authorization": "Bearer nonsense"}, await site.headers("read")):
        with pytest.raises(WSServerHandshakeError):
            await site.client.ws_connect(PATH, headers=wrong)
    assert len(site.execs.opened) == 1


async def test_the_daemons_own_user_needs_no_key_on_the_unix_socket(site: ApiSite, tmp_path: Path) -> None:
    async with (
        unix_client(site, tmp_path / "api.sock") as local,
        local.ws_connect(PATH) as socket,
    ):
        await socket.send_str('{"command": ["exit", "3"]}')
        assert await ending(socket) == {"exit_code": 3}
    began, ended = await audited(site)
    assert began["caller"] == ended["caller"] == "local"
    assert began["source"].startswith("uid ")


NO_OPENINGS: tuple[str | bytes, ...] = (
    "nonsense",
    "{}",
    '{"command": []}',
    '{"command": [""]}',
    '{"command": ["a\\u0000"]}',
    '{"command": "ls"}',
    '{"command": ["ls"], "rows": 0}',
    '{"command": ["ls"], "root": true}',
    b"ls",
)


async def test_a_first_message_that_is_none_is_refused(site: ApiSite) -> None:
    for first in NO_OPENINGS:
        async with session(site) as socket:
            await (socket.send_bytes(first) if isinstance(first, bytes) else socket.send_str(first))
            assert (await refused(socket))[0] == 400, first
    assert site.execs.opened == []
    assert await audited(site) == []


async def test_nonsense_later_ends_the_session(site: ApiSite) -> None:
    for nonsense in ('{"resize": {"rows": -1, "cols": 1}}', '{"signal": 9}', "x"):
        async with session(site, "cat") as socket:
            await socket.send_str(nonsense)
            assert (await refused(socket))[0] == 400
    assert all(one.closed for one in site.execs.opened)


async def test_only_a_worker_that_runs_takes_a_command(site: ApiSite) -> None:
    states = {
        WorkerState.PULLING: "does not run yet",
        WorkerState.PAUSED: "frozen",
        WorkerState.STOPPING: "gpud worker ls --endpoint llm",
    }
    for state, words in states.items():
        site.control.workers[WORKER] = replace(site.control.workers[WORKER], state=state)
        async with session(site, "cat") as socket:
            status, detail = await refused(socket)
        assert (status, words in detail) == (409, True), detail
    del site.control.workers[WORKER]
    async with session(site, "cat") as socket:
        assert (await refused(socket))[0] == 404
    assert site.execs.opened == []


async def test_a_program_that_is_not_there_and_an_engine_that_is_away_are_told(site: ApiSite) -> None:
    async with session(site, "/no/such") as socket:
        problem = (await ending(socket))["problem"]
    assert (problem["type"], problem["exit_code"]) == ("/problems/command-not-started", 127)
    for error, status in ((DependencyDown("The engine is away."), 503), (RuntimeError("a bug"), 500)):
        site.execs.raises = error
        async with session(site, "cat") as socket:
            assert (await refused(socket))[0] == status
    assert [one["status"] for one in await audited(site)] == [101, 422, 101, 503, 101, 500]


async def test_who_leaves_takes_the_command_along_and_nothing_typed_is_recorded(site: ApiSite) -> None:
    async with session(site, "cat", "--flag", tty=True) as socket:
        await socket.send_bytes(b"my-password\n")
        await socket.receive_bytes(timeout=20)
    await until(lambda: site.execs.opened[0].closed)
    while len(found := await audited(site)) < 2:  # noqa: ASYNC110 - it is written a moment after
        await asyncio.sleep(0.01)
    began, ended = found
    assert began["detail"] == 'began with a terminal: ["cat", "--flag"]'
    assert ended["detail"].endswith("s: the client left")
    assert began["subject"] == ended["subject"] == f"workers/{WORKER}"
    assert began["request_id"] == ended["request_id"]
    assert (began["status"], ended["status"]) == (101, 200)
    assert "my-password" not in json.dumps([began, ended])


async def test_a_client_that_reads_nothing_holds_the_command_up(site: ApiSite) -> None:
    async with session(site, "flood") as socket:
        running = await opened(site, 1)
        seen = -1
        async with asyncio.timeout(20):
            while seen != running.written or not seen:
                seen = running.written
                await asyncio.sleep(0.2)
        assert seen < 64 << 20
        socket._response.close()  # Gone, and nobody reads what waits.
        await until(lambda: running.closed)


async def test_a_worker_has_so_many_sessions_and_no_more(site: ApiSite) -> None:
    async with session(site, "cat"), session(site, "cat"):
        await opened(site, 2)
        async with session(site, "cat") as third:
            status, detail = await refused(third)
        assert (status, "exec.worker_sessions" in detail) == (503, True)
    await until(lambda: all(one.closed for one in site.execs.opened))
    async with session(site, "exit", "0") as socket:
        assert await ending(socket) == {"exit_code": 0}


async def test_a_session_ends_with_its_key_its_worker_and_the_daemon(site: ApiSite) -> None:
    token = (await site.headers("exec"))["Authorization"].removeprefix("Bearer ")
    async with session(site, "cat", headers={}, token=token) as socket:
        await opened(site, 1)
        key = next(key for key in site.keyring.list_keys() if key.scopes == ("exec",))
        await site.keyring.disable(key.id)
        assert (await refused(socket))[0] == 401
    ready = site.control.workers[WORKER]
    async with session(site, "cat") as socket:
        running = await opened(site, 2)
        site.control.workers[WORKER] = replace(ready, state=WorkerState.STOPPING, cause=Cause.IDLE)
        running.end(137)
        status, detail = await refused(socket)
        assert (status, "does not keep a worker" in detail) == (409, True)
    site.control.workers[WORKER] = ready
    async with session(site, "cat") as socket:
        await opened(site, 3)
        site.control.workers[WORKER] = replace(ready, state=WorkerState.PAUSED)
        status, detail = await refused(socket)
        assert (status, "paused" in detail) == (409, True)
    site.control.workers[WORKER] = ready
    async with session(site, "cat") as socket:
        await opened(site, 4)
        site.app[SERVICES].stopping.set()
        status, detail = await refused(socket)
        assert (status, "gpud is stopping" in detail) == (409, True)
    assert all(one.closed for one in site.execs.opened)


async def test_a_session_in_which_nothing_happens_ends() -> None:
    async with running_site(idle_timeout_s=1) as site, session(site, "cat") as socket:
        status, detail = await refused(socket)
        assert (status, "exec.idle_timeout_s" in detail) == (409, True)


async def test_a_plain_request_is_told_to_open_a_websocket(site: ApiSite) -> None:
    async with site.client.get(PATH, headers=site.admin) as response:
        assert response.status == 400
        assert "WebSocket" in (await response.json(content_type=None))["detail"]

"""Commands inside a worker's container, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gpud.adapters.docker_runtime import DockerRuntime
from gpud.adapters.threads import Threads
from gpud.core.ids import WorkerId, container_name
from gpud.errors import CommandNotStarted, Conflict
from gpud.ports.execs import ExecRequest, OutputStream
from gpud.settings import DockerSettings
from tests.contract.test_docker_runtime import (  # noqa: F401 - fixtures
    INSTALL,
    NETWORK,
    WORKER,
    image,
    launch_of,
    runtime,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gpud.core.endpoint import PinnedImage
    from gpud.ports.execs import Exec
    from tests.rig.engine import Engine

pytestmark = pytest.mark.engine

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR
_EVERY_BYTE = bytes(range(256))


def asked(*command: str, tty: bool = False, **changes: Any) -> ExecRequest:
    return ExecRequest(command=command, tty=tty, **changes)


async def everything(running: Exec) -> dict[OutputStream, bytes]:
    read = {OUT: b"", ERR: b""}
    while (piece := await running.read()) is not None:
        read[piece[0]] += piece[1]
    return read


async def until_read(running: Exec, wanted: bytes) -> bytes:
    read = b""
    async with asyncio.timeout(20):
        while wanted not in read:
            piece = await running.read()
            assert piece is not None, read
            read += piece[1]
    return read


async def test_commands_run_with_and_without_a_terminal(
    runtime: DockerRuntime,  # noqa: F811
    engine: Engine,
    image: PinnedImage,  # noqa: F811
) -> None:
    await runtime.start_worker(launch_of(image))
    await _plain(runtime)
    await _binary(runtime)
    await _terminal(runtime)
    await _refusals(runtime)
    await _left_behind(runtime)
    await _abandoned(runtime, engine)
    async with _over_tcp(engine) as remote:
        await _left_behind(remote)
    await _worker_ends(runtime)


async def _plain(runtime: DockerRuntime) -> None:  # noqa: F811
    running = await runtime.execs.open(WORKER, asked("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert await everything(running) == {OUT: b"out\n", ERR: b"err\n"}
    assert await running.exit_code() == 7
    assert await running.close()


async def _binary(runtime: DockerRuntime) -> None:  # noqa: F811
    """Every byte passes both ways, however many come; nothing is read ahead of what is taken."""
    running = await runtime.execs.open(WORKER, asked("cat"))
    sent = _EVERY_BYTE * 32_768

    async def send() -> None:
        await running.write(sent)
        await running.write_eof()

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.3)
    assert not sending.done(), "a command whose output nobody reads takes no more input"
    read = await everything(running)
    await sending
    assert read[OUT] == sent
    assert await running.exit_code() == 0
    assert await running.close()


async def _terminal(runtime: DockerRuntime) -> None:  # noqa: F811
    running = await runtime.execs.open(WORKER, asked("sh", tty=True, rows=33, cols=99))
    await running.write(b"stty size; echo $TERM\n")
    assert b"33 99" in await until_read(running, b"xterm-256color\r\n")
    await running.resize(20, 40)
    await running.write(b"stty size\n")
    await until_read(running, b"20 40")
    await running.write(b"exit 3\n")
    await everything(running)
    assert await running.exit_code() == 3
    assert await running.close()
    await running.resize(1, 1)
    await running.write(b"late")


async def _refusals(runtime: DockerRuntime) -> None:  # noqa: F811
    for tty in (True, False):
        with pytest.raises(CommandNotStarted, match="has no /bin/zsh") as absent:
            await runtime.execs.open(WORKER, asked("/bin/zsh", tty=tty))
        assert absent.value.extra == {"exit_code": 127}
    with pytest.raises(CommandNotStarted, match="may not run /etc/passwd") as denied:
        await runtime.execs.open(WORKER, asked("/etc/passwd"))
    assert denied.value.extra == {"exit_code": 126}


async def _left_behind(runtime: DockerRuntime) -> None:  # noqa: F811
    """Who leaves takes along all that was started, though it would not hear of a hang-up."""
    before = set(await runtime.pids(WORKER))
    script = "trap '' HUP; sleep 3001 & sleep 3002"
    opened = [await runtime.execs.open(WORKER, asked("sh", "-c", script, tty=tty)) for tty in (True, False)]
    opened.append(await runtime.execs.open(WORKER, asked("sh", tty=True)))
    await _until_more(runtime, before, 7)
    assert await asyncio.gather(*(running.close() for running in opened)) == [True] * 3
    await _until_more(runtime, before, 0)
    assert before <= set(await runtime.pids(WORKER)), "the worker itself goes on"


async def _abandoned(runtime: DockerRuntime, engine: Engine) -> None:  # noqa: F811
    """A daemon that was killed leaves its commands; the next one ends them, and nobody else's."""
    before = set(await runtime.pids(WORKER))
    api = engine.client.api
    by_hand = api.exec_create(container_name(WORKER), ["sleep", "3004"])["Id"]
    api.exec_start(by_hand, detach=True)
    killed = await runtime.execs.open(WORKER, asked("sh", "-c", "sleep 3005 & sleep 3006", tty=True))
    runtime.execs.open_ids.clear()
    in_use = await runtime.execs.open(WORKER, asked("sleep", "3007"))
    await _until_more(runtime, before, 5)
    await runtime.execs.end_abandoned((WORKER, WorkerId("wk_" + "z" * 16)))
    await _until_more(runtime, before, 2)
    assert api.exec_inspect(by_hand)["Running"]
    assert await in_use.close()
    assert await killed.close()
    os.kill(api.exec_inspect(by_hand)["Pid"], signal.SIGKILL)
    await _until_more(runtime, before, 0)


@asynccontextmanager
async def _over_tcp(engine: Engine) -> AsyncIterator[DockerRuntime]:
    """The same engine as one on another machine, whose processes are not ours to signal."""
    path, served = engine.socket_url.removeprefix("unix://"), set[asyncio.Task[None]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        its_reader, its_writer = await asyncio.open_unix_connection(path)
        try:
            await asyncio.gather(carry(reader, its_writer), carry(its_reader, writer))
        finally:
            writer.close()
            its_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    threads = Threads(4)
    settings = DockerSettings(host=f"tcp://127.0.0.1:{port}", network=NETWORK)
    remote = DockerRuntime(settings, INSTALL, threads)
    assert not remote.execs.local
    async with server:
        yield remote
        await remote.close()
        await threads.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def _until_more(runtime: DockerRuntime, before: set[int], count: int) -> None:  # noqa: F811
    async with asyncio.timeout(20):
        while len(set(await runtime.pids(WORKER)) - before) != count:  # noqa: ASYNC110 - others' processes
            await asyncio.sleep(0.02)


async def _worker_ends(runtime: DockerRuntime) -> None:  # noqa: F811
    running = await runtime.execs.open(WORKER, asked("sleep", "3003"))
    await runtime.stop_worker(WORKER, grace_s=1)
    assert await everything(running) == {OUT: b"", ERR: b""}
    assert await running.exit_code() in (137, None)
    assert await running.close()
    with pytest.raises(Conflict):
        await runtime.execs.open(WORKER, asked("true"))
    await runtime.remove_worker(WORKER)
    with pytest.raises(Conflict):
        await runtime.execs.open(WORKER, asked("true"))

"""Commands inside a worker's container, on a real engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gpud.errors import CommandNotStarted, Conflict
from gpud.ports.execs import ExecRequest, OutputStream
from tests.contract.test_docker_runtime import (  # noqa: F401 - fixtures
    WORKER,
    image,
    launch_of,
    runtime,
    runtime_on,
)

if TYPE_CHECKING:
    from gpud.adapters.docker_runtime import DockerRuntime
    from gpud.core.endpoint import PinnedImage
    from gpud.ports.execs import Exec

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
    image: PinnedImage,  # noqa: F811
) -> None:
    await runtime.start_worker(launch_of(image))
    await _plain(runtime)
    await _binary(runtime)
    await _terminal(runtime)
    await _refusals(runtime)
    for local in (True, False):
        runtime.execs.local = local
        await _left_behind(runtime)
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

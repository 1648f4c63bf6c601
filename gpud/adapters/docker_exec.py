"""Runs commands inside workers' containers, over a connection that becomes their input and output.

The connection is our own and not the SDK's, whose reader may swallow output that comes with the head.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from docker.errors import APIError, DockerException, NotFound

from gpud.adapters.abandoned_execs import MARK, end_abandoned
from gpud.adapters.docker_errors import engine_errors
from gpud.adapters.process_sessions import end_session, session_members
from gpud.errors import CommandNotStarted, Conflict, DependencyDown, GpudError
from gpud.ports.containers import ContainerStatus
from gpud.ports.execs import Exec, ExecRequest, OutputStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gpud.adapters.docker_client import DockerClients
    from gpud.adapters.threads import Threads
    from gpud.core.ids import WorkerId
    from gpud.ports.containers import SeenContainer

log = structlog.get_logger()

_CALL_TIMEOUT_S = 30.0
_PIECE_BYTES = 64 * 1024
_SAID_BYTES = 1000
_LOOK_S, _LOOK_S_MAX = 0.01, 0.2
_START_S_MAX = 30.0
_END_S_MAX = 5.0
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_NO_DETACH = "ctrl-@,ctrl-_,ctrl-@,ctrl-_,ctrl-^"
"""Instead of ctrl-p ctrl-q, which the engine would keep from the command: what nobody types."""
_SWEEP = (
    'for f in $(grep -ls "{mark}={value}" /proc/[0-9]*/environ 2>/dev/null); do '
    "p=${{f#/proc/}}; kill -9 ${{p%/environ}} 2>/dev/null; done; :"
)
"""Kills, from inside, every process that has the mark in its environment."""


class ContainerExecs:
    """Of the containers of one engine (port `ExecRunner`).

    Args:
        clients: Of the engine.
        threads: For its calls.
        find: The engine's id and look of a worker's container; called on a thread.
        local: The engine's processes are this machine's.
    """

    def __init__(
        self,
        clients: DockerClients,
        threads: Threads,
        find: Callable[[WorkerId], tuple[str, SeenContainer] | None],
        *,
        local: bool,
    ) -> None:
        self.clients = clients
        self.threads = threads
        self.local = local
        self.open_ids: set[str] = set()
        """The engine's names for the commands that somebody is connected to."""
        self._find = find

    async def open(self, worker_id: WorkerId, request: ExecRequest) -> Exec:
        """Start a command; see the port."""
        with engine_errors(self.clients):
            found = await self.threads.run(self._find, worker_id, timeout_s=_CALL_TIMEOUT_S)
            if found is None or found[1].status is not ContainerStatus.RUNNING:
                raise Conflict(f"The container of {worker_id} does not run.")
            if found[1].paused:
                raise Conflict(f"The container of {worker_id} is paused: its processes are frozen.")
            container_id, mark = found[0], os.urandom(12).hex()
            exec_id, version = await self._call(self._create, container_id, request, mark)
            try:
                reader, writer = await self._attach(exec_id, version, tty=request.tty)
            except BaseException:
                self.open_ids.discard(exec_id)
                raise
        running = DockerExec(
            self, container_id, exec_id, mark=mark, reader=reader, writer=writer, tty=request.tty
        )
        try:
            await running.begin(request)
        except BaseException:
            await running.close()
            raise
        return running

    async def end_abandoned(self, worker_ids: Iterable[WorkerId]) -> None:
        """End the commands that a daemon before this one left in workers when it was killed."""
        if not self.local:
            return
        for worker_id in worker_ids:
            try:
                ended = await self.threads.run(self._end_abandoned, worker_id)
            except (GpudError, DockerException, OSError) as error:
                log.warning("exec.abandoned_not_looked_for", worker=worker_id, error=str(error))
                continue
            if ended:
                log.info("exec.abandoned_ended", worker=worker_id, commands=ended)

    def _end_abandoned(self, worker_id: WorkerId) -> int:
        found = self._find(worker_id)
        return end_abandoned(self.clients.get(), found[0], self.open_ids) if found is not None else 0

    async def _call(self, call: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - the call's own
        try:
            return await self.threads.run(call, *args, timeout_s=_CALL_TIMEOUT_S)
        except NotFound as error:
            raise Conflict("The worker's container has ended.") from error
        except APIError as error:
            if error.status_code != 409:
                raise
            raise Conflict(
                f"The engine runs no command in this container now: {error.explanation}"
            ) from error

    def _create(self, container_id: str, request: ExecRequest, mark: str) -> tuple[str, str]:
        client = self.clients.get()
        environment = {MARK: mark}
        if request.tty:
            environment["TERM"] = "xterm-256color"
        made = client.exec_create(
            container_id,
            list(request.command),
            stdin=True,
            tty=request.tty,
            environment=environment,
            detach_keys=_NO_DETACH,
        )
        exec_id = str(made["Id"])
        self.open_ids.add(exec_id)
        return exec_id, str(client.api_version)

    async def _attach(
        self, exec_id: str, version: str, *, tty: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Start the command and take the connection over."""
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            reader, writer = await self._connect()
            try:
                writer.write(_start_request(exec_id, version, tty=tty))
                await writer.drain()
                await _check_taken_over(reader)
            except BaseException:
                writer.close()
                raise
        return reader, writer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = self.clients.host
        if host.startswith("unix://"):
            return await asyncio.open_unix_connection(host.removeprefix("unix://"), limit=_PIECE_BYTES)
        address = urlsplit(host)
        if address.scheme in ("tcp", "http") and address.hostname:
            port = address.port or 2375
            return await asyncio.open_connection(address.hostname, port, limit=_PIECE_BYTES)
        raise DependencyDown(
            f"Commands in workers need an engine at unix://… or tcp://…, and docker.host is {host}."
        )


def _start_request(exec_id: str, version: str, *, tty: bool) -> bytes:
    body = json.dumps({"Detach": False, "Tty": tty})
    lines = (
        f"POST /v{version}/exec/{exec_id}/start HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", body)).encode()


async def _check_taken_over(reader: asyncio.StreamReader) -> None:
    """Read the head of the engine's answer, after which the command's output follows."""
    try:
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (EOFError, asyncio.LimitOverrunError) as error:
        raise DependencyDown(f"The engine broke off the start of a command: {error}.") from error
    status = answer.split(" ", 2)[1]
    if status not in ("101", "200"):
        said = (await reader.read(_SAID_BYTES)).decode(errors="replace").strip()
        raise Conflict(f"The engine did not run the command ({status}): {said}")


class DockerExec:
    """One command (port `Exec`).

    Args:
        execs: What all of them share.
        container_id: Where it runs.
        exec_id: The engine's name for it.
        mark: Value of the variable that it and all it starts have in their environment.
        reader: Its output.
        writer: Its input.
        tty: It has a terminal.
    """

    def __init__(
        self,
        execs: ContainerExecs,
        container_id: str,
        exec_id: str,
        *,
        mark: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tty: bool,
    ) -> None:
        self._execs = execs
        self._container_id = container_id
        self._exec_id = exec_id
        self._mark = mark
        self._reader = reader
        self._writer = writer
        self._tty = tty
        self._pid = 0
        self._stream = OutputStream.STDOUT
        self._left = 0
        self._ended = False

    async def begin(self, request: ExecRequest) -> None:
        """Wait until the command runs, or has run.

        Raises:
            CommandNotStarted: It never did.
        """
        limit_s, wait_s = time.monotonic() + _START_S_MAX, _LOOK_S
        while True:
            state = await self._inspect()
            if state is None:
                raise Conflict("The worker's container ended before the command began.")
            if state["Pid"]:
                self._pid = int(state["Pid"])
                break
            if not state["Running"] and state["ExitCode"] is not None:
                if state["ExitCode"] in (_NOT_FOUND, _NOT_RUNNABLE):
                    await self._tell_not_started(request)
                return
            if time.monotonic() > limit_s:
                raise DependencyDown(f"The engine did not begin a command within {_START_S_MAX:g} s.")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LOOK_S_MAX)
        if self._tty:
            await self.resize(request.rows, request.cols)

    async def _tell_not_started(self, request: ExecRequest) -> None:
        """Raise what the engine wrote into the output instead of running the command, if it did."""
        found = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S_MAX):
                found = await self.read()
        said = "" if found is None else found[1].decode(errors="replace").strip()
        program = request.command[0]
        absent = "no such file or directory" in said or "executable file not found" in said
        why = f"The engine said: {said or 'nothing'}."
        if absent and program.rpartition("/")[2] in ("sh", "bash", "ash", "dash", "zsh"):
            what = (
                f"The worker's image has no {program}. Images without a shell have only their own programs."
            )
        elif absent:
            what = f"The worker's image has no {program}. It is looked for in the PATH of the image."
        else:
            what = f"The worker's container may not run {program}."
        self._ended = True
        code = _NOT_FOUND if absent else _NOT_RUNNABLE
        raise CommandNotStarted(f"{what} {why}", extra={"exit_code": code})

    async def read(self) -> tuple[OutputStream, bytes] | None:
        """The next piece of output; None after the last."""
        try:
            if self._tty:
                data = await self._reader.read(_PIECE_BYTES)
            else:
                while not self._left:
                    head = await self._reader.readexactly(8)
                    self._stream = (
                        OutputStream.STDERR if head[0] == OutputStream.STDERR else OutputStream.STDOUT
                    )
                    self._left = int.from_bytes(head[4:], "big")
                data = await self._reader.read(min(self._left, _PIECE_BYTES))
                self._left -= len(data)
        except (OSError, EOFError):
            return None
        return (self._stream, data) if data else None

    async def write(self, data: bytes) -> None:
        """Type something; waits until there is room for it."""
        with suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def write_eof(self) -> None:
        """Say that no more will be typed."""
        with suppress(OSError, RuntimeError):
            self._writer.write_eof()

    async def resize(self, rows: int, cols: int) -> None:
        """Change the size of the terminal."""
        with suppress(APIError), engine_errors(self._execs.clients):
            await self._execs.threads.run(self._resize, rows, cols, timeout_s=_CALL_TIMEOUT_S)

    def _resize(self, rows: int, cols: int) -> None:
        with suppress(APIError):  # It has ended.
            self._execs.clients.get().exec_resize(self._exec_id, height=rows, width=cols)

    async def exit_code(self) -> int | None:
        """How the command ended; None when that is not known."""
        if not await self._stopped():
            return None
        state = await self._inspect()
        self._ended = True
        return None if state is None else int(state["ExitCode"])

    async def _stopped(self) -> bool:
        """Wait a while for the engine to say that it has ended; False when it does not."""
        limit_s = time.monotonic() + _END_S_MAX
        while time.monotonic() < limit_s:
            state = await self._inspect()
            if state is None:
                return False
            if not state["Running"] and state["ExitCode"] is not None:
                return True
            await asyncio.sleep(_LOOK_S)
        return False

    async def close(self) -> bool:
        """End what still runs of it."""
        self._writer.close()
        self._execs.open_ids.discard(self._exec_id)
        if self._ended:
            return True
        try:
            self._ended = await self._end()
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller is told that it goes on
            log.warning("exec.not_ended", exec_id=self._exec_id, error=str(error))
        return self._ended

    async def _end(self) -> bool:
        state = await self._inspect()
        if state is None:
            return True  # Its container is gone, and all that was in it.
        pid = self._pid or int(state["Pid"] or 0)
        if pid and self._execs.local and await self._seen_here(pid):
            with suppress(PermissionError):
                return await self._execs.threads.run(end_session, pid, self._container_id)
        await self._execs.threads.run(self._sweep, timeout_s=_CALL_TIMEOUT_S)
        return await self._stopped() or await self._inspect() is None

    async def _seen_here(self, pid: int) -> bool:
        """Whether the engine's processes are this machine's; one that has ended tells nothing."""
        return bool(await self._execs.threads.run(session_members, pid, self._container_id))

    def _sweep(self) -> None:
        client = self._execs.clients.get()
        script = _SWEEP.format(mark=MARK, value=self._mark)
        made = client.exec_create(self._container_id, ["/bin/sh", "-c", script])
        client.exec_start(made["Id"])

    async def _inspect(self) -> dict[str, Any] | None:
        """How the engine sees it; None when its container is gone."""
        with engine_errors(self._execs.clients):
            return await self._execs.threads.run(self._look, timeout_s=_CALL_TIMEOUT_S)

    def _look(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._execs.clients.get().exec_inspect(self._exec_id)
        except NotFound:
            return None
        return found

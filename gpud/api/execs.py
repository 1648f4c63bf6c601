"""Sessions in workers: a WebSocket on one side, a command in a container on the other.

What passes is in docs/howto/exec.md. Nothing is kept of it: the audit log has who, from where, the
command and how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from aiohttp import WSMsgType, web

from gpud.api.auditing import record
from gpud.api.following import rest
from gpud.api.identity import CALLER, caller_of, is_websocket
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import document_from
from gpud.api.problems import REQUEST_ID
from gpud.api.schemas.execs import ExecControl, ExecOpening
from gpud.api.services import SERVICES
from gpud.core.execs import ending_of, exec_refusal
from gpud.core.problem import problem_document
from gpud.errors import (
    CommandNotStarted,
    Conflict,
    ExecEnded,
    GpudError,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from gpud.ports.execs import ExecRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.api.services import Services
    from gpud.core.ids import WorkerId
    from gpud.ports.execs import Exec

MESSAGE_BYTES_MAX = 1 << 20
"""Largest message of a client."""
OPENING_S_MAX = 10.0
"""How long a client may take to say what is to be run."""
_LOOK_S = 1.0
_PING_S = 15.0
_CLOSE_S = 2.0
_KILLED = 137

SESSIONS = web.AppKey("SESSIONS", Counter[str])
"""How many each worker has."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class _Session:
    """One of them, while it lasts.

    Args:
        worker_id: Where.
        token: Of the key, if it came in the first message.
        last_s: When something passed last, either way.
        pinged_s: When the client was last sent anything.
    """

    request: web.Request
    socket: web.WebSocketResponse
    worker_id: WorkerId
    opening: ExecOpening
    running: Exec
    token: str | None
    last_s: float
    pinged_s: float = 0.0
    tasks: list[asyncio.Task[int | None]] = field(default_factory=list)

    @property
    def services(self) -> Services:
        return self.request.app[SERVICES]

    async def converse(self) -> int | None:
        """Pass bytes both ways until one side ends.

        Returns:
            The exit code; None when the client left.

        Raises:
            GpudError: gpud ended it.
        """
        self.tasks = [asyncio.create_task(one) for one in (self._out(), self._in(), self._watch())]
        try:
            ended, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
        return next(task for task in self.tasks if task in ended).result()

    async def _out(self) -> int | None:
        while (piece := await self.running.read()) is not None:
            stream, data = piece
            try:
                await self.socket.send_bytes(data if self.opening.tty else bytes((stream,)) + data)
            except ConnectionError:
                return None
            self.last_s = self.pinged_s = self.services.clock.now_s()
        code = await self.running.exit_code()
        if code in (None, _KILLED):
            await self._await_workers_end()
        if code is None:
            raise ExecEnded("The worker's container ended, and the command with it.")
        return code

    async def _await_workers_end(self) -> None:
        """Who kills a command is the worker's end, as a rule, of which the fleet hears a moment later."""
        for _ in range(10):
            self._check_worker()
            await asyncio.sleep(_LOOK_S / 10)

    def _check_worker(self) -> None:
        try:
            why = ending_of(self.services.control.worker(self.worker_id))
        except NotFound:
            why = f"The worker {self.worker_id} has ended."
        if why:
            raise ExecEnded(why)

    async def _in(self) -> int | None:
        while True:
            message = await self.socket.receive()
            self.last_s = self.services.clock.now_s()
            if message.type is WSMsgType.BINARY:
                await self.running.write(message.data)
            elif message.type is WSMsgType.TEXT:
                told = document_from(message.data.encode(), ExecControl, what="The message")
                if told.resize is not None and self.opening.tty:
                    await self.running.resize(told.resize.rows, told.resize.cols)
                if told.eof:
                    await self.running.write_eof()
            else:
                return None

    async def _watch(self) -> int | None:
        """Look once a second whether the session may go on."""
        services = self.services
        while self.request.transport is not None:
            await rest(services.stopping, _LOOK_S)
            if services.stopping.is_set():
                raise ExecEnded(
                    "gpud is stopping. The worker goes on; open another session when gpud is back."
                )
            caller_of(self.request, Scope.EXEC, token=self.token)  # Its key may have been disabled.
            self._check_worker()
            now_s, idle_s = services.clock.now_s(), services.settings.exec.idle_timeout_s
            if now_s - self.last_s > idle_s:
                raise ExecEnded(
                    f"Nothing was typed and nothing written for {idle_s:g} s (exec.idle_timeout_s)."
                )
            if now_s - self.pinged_s > _PING_S:
                self.pinged_s = now_s
                with contextlib.suppress(ConnectionError):
                    await self.socket.ping()  # So that nobody in between takes the connection for dead.
        return None


async def exec_worker(request: web.Request) -> web.StreamResponse:
    """Run a command inside a worker, for as long as the client is connected."""
    if not is_websocket(request):
        raise InvalidRequest("This path is a WebSocket: open it as one. docs/howto/exec.md says what passes.")
    socket = web.WebSocketResponse(
        compress=False, max_msg_size=MESSAGE_BYTES_MAX, timeout=_CLOSE_S, autoclose=True
    )
    await socket.prepare(request)
    ending: dict[str, object] | None = None
    try:
        code = await _run(request, socket)
        ending = None if code is None else {"exit_code": code}
    except GpudError as error:
        ending = {"problem": problem_document(error, request_id=request[REQUEST_ID])}
    except Exception:  # noqa: BLE001 - the head is sent, so this is the last that can be told
        _log.exception("exec.failed", request_id=request[REQUEST_ID], path=request.path)
        unknown = GpudError(f"gpud failed. Its log tells more under request {request[REQUEST_ID]}.")
        ending = {"problem": problem_document(unknown, request_id=request[REQUEST_ID])}
    with contextlib.suppress(ConnectionError):
        if ending is not None:
            await socket.send_str(json.dumps(ending))
        await socket.close()
    return socket


async def _run(request: web.Request, socket: web.WebSocketResponse) -> int | None:
    opening = await _opening(socket)
    if opening is None:
        return None
    token = opening.token or None
    if CALLER not in request or token is not None:
        request[CALLER] = caller_of(request, Scope.EXEC, token=token)
    services = request.app[SERVICES]
    worker = services.control.worker(request.match_info["id"])
    if why := exec_refusal(worker):
        raise Conflict(why)
    with _place(request, worker.id):
        return await _audited(request, socket, opening, worker.id)


async def _opening(socket: web.WebSocketResponse) -> ExecOpening | None:
    """What is to be run; None when the client left instead."""
    try:
        message = await socket.receive(timeout=OPENING_S_MAX)
    except TimeoutError as error:
        why = f"Nothing said within {OPENING_S_MAX:g} s what is to be run."
        raise InvalidRequest(f"{why} The first message is that, in JSON.") from error
    if message.type is WSMsgType.TEXT:
        return document_from(message.data.encode(), ExecOpening, what="The first message")
    if message.type is WSMsgType.BINARY:
        raise InvalidRequest("The first message must be text: JSON that says what is to be run.")
    return None


@contextlib.contextmanager
def _place(request: web.Request, worker_id: WorkerId) -> Iterator[None]:
    sessions, most = request.app[SESSIONS], request.app[SERVICES].settings.exec.worker_sessions
    if sessions[worker_id] >= most:
        raise Unavailable(
            f"The worker {worker_id} has {most} sessions already (exec.worker_sessions). End one first.",
            retry_after_s=30,
        )
    sessions[worker_id] += 1
    try:
        yield
    finally:
        sessions[worker_id] -= 1
        if not sessions[worker_id]:
            del sessions[worker_id]


async def _audited(
    request: web.Request, socket: web.WebSocketResponse, opening: ExecOpening, worker_id: WorkerId
) -> int | None:
    """Run it between two entries of the audit log: none begins without one."""
    services = request.app[SERVICES]
    subject, began_s = f"workers/{worker_id}", services.clock.now_s()
    how = " with a terminal" if opening.tty else ""
    command = json.dumps(opening.command, ensure_ascii=False)
    await record(request, "exec_worker", subject, 101, detail=f"began{how}: {command}")
    status, outcome = 500, "failed"
    try:
        code, outcome = await _conversed(request, socket, opening, worker_id)
        status = 200
    except GpudError as error:
        status, outcome = error.status, error.detail
        raise
    except asyncio.CancelledError:
        stopping = services.stopping.is_set()
        status, outcome = (503, "gpud stopped") if stopping else (200, "the client left")
        raise
    finally:
        took_s = services.clock.now_s() - began_s
        with contextlib.suppress(GpudError):  # It is in the journal then.
            await record(
                request, "exec_worker", subject, status, detail=f"ended after {took_s:.1f} s: {outcome}"
            )
    return code


async def _conversed(
    request: web.Request, socket: web.WebSocketResponse, opening: ExecOpening, worker_id: WorkerId
) -> tuple[int | None, str]:
    services = request.app[SERVICES]
    running = await services.execs.open(
        worker_id,
        ExecRequest(command=opening.command, tty=opening.tty, rows=opening.rows, cols=opening.cols),
    )
    try:
        now_s, token = services.clock.now_s(), opening.token or None
        session = _Session(
            request=request,
            socket=socket,
            worker_id=worker_id,
            opening=opening,
            running=running,
            token=token,
            last_s=now_s,
            pinged_s=now_s,
        )
        code = await session.converse()
        outcome = f"exit code {code}" if code is not None else "the client left"
    finally:
        ended = await running.close()
    return code, outcome if ended else f"{outcome}; its processes could not be ended"


OPERATIONS_HERE = (
    Operation(
        name="exec_worker",
        method="GET",
        path="/v1/workers/{id}/exec",
        handler=exec_worker,
        scope=Scope.EXEC,
        summary="Run a command inside a worker, over a WebSocket",
        tag="workers",
        statuses=((101, "A WebSocket; what passes is in docs/howto/exec.md"),),
        problems=(NotFound, Conflict, CommandNotStarted, InvalidRequest, Unavailable),
        key_may_follow=True,
    ),
)

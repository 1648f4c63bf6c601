"""Turns a Python function into a gpud worker: copy this one file into your image; it needs nothing else.

    import gpud_worker

    def handler(job):
        return {"echo": job.input}

    gpud_worker.serve(handler)

The handler may be plain, `async def`, a generator or an async generator; what a generator yields is
streamed. It runs on Python 3.8 and later and imports only what it uses, so it starts in milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import FrameType
    from typing import Any

__all__ = ["Cancelled", "Job", "JobFailed", "TryAgain", "serve"]

BODY_BYTES_MAX = 256 << 20
"""A larger request is refused."""

_HEAD_BYTES_MAX = 64 << 10
_READ_BYTES = 256 << 10
_SEND_TIMEOUT_S = 600.0
_IDLE_TIMEOUT_S = 600.0
_PROGRESS_TIMEOUT_S = 5.0
_ROOM_TIMEOUT_S = 1.0
"""How long a job waits for one that is being answered, or is just being stopped."""
_HANG_UP = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
_KEPT_MAX, _KEPT_BYTES_MAX = 64, 64 << 20
"""Answers kept for whoever asks later, beside the newest."""
_COROUTINE, _GENERATOR, _ASYNC_GENERATOR = 0x80, 0x20, 0x200
_REASONS = {200: "OK", 503: "Service Unavailable", 500: "Internal Server Error"}


class Cancelled(BaseException):
    """Raised in a plain handler when nobody waits for its result any more.

    Let it pass. It is no `Exception`, so that `except Exception` does not stop it.
    """


class JobFailed(Exception):
    """Raise it when trying the same input again cannot help: the job fails at once."""


class TryAgain(Exception):
    """Raise it when the job did not fail but cannot run now; it is not counted as an attempt.

    Args:
        after_s: When to try again.
    """

    def __init__(self, after_s: float = 5.0, why: str = "The worker cannot run the job now.") -> None:
        super().__init__(why)
        self.after_s = after_s


class Job:
    """What a handler gets.

    Args:
        request: The request's JSON; bytes when it is of another type.
        headers: Of the request, with names in lower case.

    Attributes:
        input: The member `input` of a job's request; of a plain request all of it.
        id: Of the job; empty when the request is no job.
        attempt: From 1 on; counts what the job itself was to blame for.
        delivery: From 1 on; counts every time it was handed to a worker.
        deadline_ms: Unix time by which it is stopped; 0 when nothing was said.
    """

    def __init__(self, request: Any, headers: dict[str, str]) -> None:
        self.request = request
        self.headers = headers
        self.id = headers.get("x-gpud-job-id", "")
        inner = self.id and isinstance(request, dict) and "input" in request
        self.input = request["input"] if inner else request
        self.attempt = _whole(headers.get("x-gpud-attempt", ""), 1)
        self.delivery = _whole(headers.get("x-gpud-delivery", ""), 1)
        self.deadline_ms = _whole(headers.get("x-gpud-deadline", ""), 0)
        self._cancelled = threading.Event()
        self._progress: _Progress | None = None

    def __repr__(self) -> str:
        return f"Job(id={self.id!r}, attempt={self.attempt}, delivery={self.delivery})"

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more; ask it between long steps."""
        return self._cancelled.is_set()

    def progress(self, value: Any) -> None:
        """Say how far the job is; JSON-ready. Returns at once: the newest value wins, none is waited for."""
        url = self.headers.get("x-gpud-progress-url", "")
        token = self.headers.get("x-gpud-job-token", "")
        if not url or self.cancelled:
            return
        if self._progress is None:
            self._progress = _Progress(url, token)
        self._progress.put(json.dumps(value).encode())

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.end()


def serve(
    handler: Callable[[Job], Any],
    *,
    port: int | None = None,
    host: str = "0.0.0.0",  # noqa: S104 - a container's own network
    path: str = "/",
    health_path: str = "/health",
    cancel_path: str = "/cancel",
    status_path: str = "",
    concurrency: int = 1,
) -> None:
    """Serve jobs until SIGTERM, then finish those that run, and return.

    Load models before the call: the worker counts as ready once it answers.

    Args:
        handler: Gets a `Job`; what it returns, or yields, must be JSON-ready. What it raises fails the
            attempt, and gpud tries again as the endpoint says.
        port: Where to listen; the environment's PORT, else 8000.
        host: The address to listen on.
        path: Where jobs are posted: the endpoint's `job_path`.
        health_path: Answers 200 while the worker serves.
        cancel_path: Where gpud asks for a job to be stopped: the endpoint's `cancel_path`. A caller that
            hangs up has its job stopped too, unless there is a `status_path`.
        status_path: Where gpud asks, after a restart of its own, what became of a job: the endpoint's
            `status_path`. With it a job goes on when its caller hangs up, and its answer is kept for a while.
        concurrency: Jobs at once; more are answered 503 and come again.
    """
    chosen = int(os.environ.get("PORT", "8000")) if port is None else port
    paths = {path: "run", health_path: "health", cancel_path: "cancel"}
    _Server(handler, paths, concurrency, status_path.rstrip("/")).run(host, chosen)


def _whole(text: str, default: int) -> int:
    return int(text) if text.isdigit() else default


# -- connections -----------------------------------------------------------------------------------


class _BadRequest(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Server:
    """Listens in the main thread, which also sees callers hang up; each connection has a thread."""

    def __init__(
        self, handler: Callable[[Job], Any], paths: dict[str, str], concurrency: int, status_path: str = ""
    ) -> None:
        self.handler = handler
        self.running: dict[str, _Run] = {}
        self.outcomes = _Outcomes() if status_path else None
        self._status_path = f"{status_path}/"
        self._paths = paths
        self.room = threading.Semaphore(concurrency)
        self.stopping = False
        self._watched: dict[int, Callable[[], None]] = {}
        self._idle: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, host: str, port: int) -> None:
        """Serve until told to stop; then wait for what runs."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, self._stop)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
        listening.settimeout(0.0)
        self._poll.register(listening, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        while not self.stopping:
            if self._turn(listening.fileno()):
                self._accept(listening)
        self._poll.unregister(listening)
        listening.close()
        self._finish()

    def stop(self) -> None:
        """End `run` once what runs has ended; from any thread."""
        self.stopping = True
        os.write(self._wake_write, b"x")

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self.stop()

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _peer = listening.accept()
        except OSError:
            return
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=self._converse, args=(connection,), daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _finish(self) -> None:
        with self._lock:
            idle, threads = list(self._idle), list(self._threads)
        for connection in idle:
            _shut(connection)
        poller = threading.Thread(target=self._watch_on, daemon=True)
        poller.start()
        for thread in threads:
            thread.join()

    def _watch_on(self) -> None:
        while True:
            self._turn(-1)

    def _turn(self, listening: int) -> bool:
        """Wait for something to happen; True when somebody connected."""
        ready = [fd for fd, _what in self._poll.poll()]
        for fd in ready:
            if fd == self._wake_read:
                os.read(fd, 4096)
            elif fd != listening:
                self._hung_up(fd)
        return listening in ready

    def _hung_up(self, fd: int) -> None:
        with self._lock:
            told = self._watched.get(fd)
            again = select.poll()
            again.register(fd, _HANG_UP)
            if told is None or not again.poll(0):  # it ended meanwhile, and the number is another's
                return
            del self._watched[fd]
            self._poll.unregister(fd)
        told()

    def watch(self, connection: socket.socket, told: Callable[[], None]) -> None:
        """Have `told` called, in the main thread, when the other end hangs up."""
        fd = connection.fileno()
        with self._lock:
            self._watched[fd] = told
            self._poll.register(fd, _HANG_UP)
        os.write(self._wake_write, b"x")

    def unwatch(self, connection: socket.socket) -> None:
        """Forget a watched connection."""
        with self._lock:
            if self._watched.pop(connection.fileno(), None) is not None:
                self._poll.unregister(connection.fileno())

    def _converse(self, connection: socket.socket) -> None:
        wire = _Wire(connection)
        try:
            while not self.stopping and self._one(wire):
                pass
        except (OSError, Cancelled):
            pass
        finally:
            with self._lock:
                self._idle.discard(connection)
                self._threads.discard(threading.current_thread())
            _shut(connection)  # a poll under way keeps it open otherwise
            connection.close()

    def _one(self, wire: _Wire) -> bool:
        """Answer one request; False ends the connection."""
        with self._lock:
            self._idle.add(wire.connection)
        if self.stopping:
            return False
        try:
            request = wire.read_request(self._begun)
        except _BadRequest as fault:
            wire.answer(fault.status, _problem("BadRequest", str(fault)), keep=False)
            return False
        if request is None:
            return False
        method, target, headers, body = request
        keep = headers.get("connection", "").lower() != "close"
        what = self._paths.get(target.split("?", 1)[0], "")
        if what == "health" and method in ("GET", "HEAD"):
            wire.answer(200, b'{"status":"ok"}', keep=keep, head=method == "HEAD")
        elif self.outcomes is not None and target.startswith(self._status_path) and method == "GET":
            self._tell_outcome(wire, target[len(self._status_path) :].split("?", 1)[0], keep=keep)
        elif not what:
            wire.answer(404, _problem("NotFound", f"Known here are {', '.join(self._paths)}."), keep=keep)
        elif method != "POST":
            wire.answer(405, _problem("MethodNotAllowed", "Jobs are posted."), keep=keep)
        elif what == "cancel":
            run = self.running.get(headers.get("x-gpud-job-id", ""))
            if run is not None:
                run.cancel()
            wire.answer(200, b"{}", keep=keep)
        else:
            return self._run_job(wire, headers, body, keep=keep)
        return keep

    def _run_job(self, wire: _Wire, headers: dict[str, str], body: bytes, *, keep: bool) -> bool:
        """Run a job if there is room for it; False ends the connection."""
        if not self.room.acquire(timeout=_ROOM_TIMEOUT_S):
            busy = _problem("Busy", "The worker runs as many jobs as it takes.")
            wire.answer(503, busy, keep=keep, more=("Retry-After: 1",))
            return keep
        try:
            return _Run(self, wire, headers, body).answer() and keep
        finally:
            self.room.release()

    def _tell_outcome(self, wire: _Wire, job_id: str, *, keep: bool) -> None:
        """Say what became of a job: what its caller was, or would have been, answered."""
        run = self.running.get(job_id)
        if run is not None and not run.told:
            wire.answer(202, b'{"status":"running"}', keep=keep)
            return
        kept = None if self.outcomes is None else self.outcomes.get(job_id)
        if kept is None:
            wire.answer(404, _problem("NotFound", "No such job is known here."), keep=keep)
            return
        status, body, more = kept
        wire.answer(status, body, keep=keep, more=more)

    def _begun(self, connection: socket.socket) -> None:
        """A request's first byte came: the connection is not idle, so stopping waits for it."""
        with self._lock:
            self._idle.discard(connection)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of async handlers, in a thread of its own; made when the first of them runs."""
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
            return self._loop


class _Outcomes:
    """The newest answers to jobs, bounded in number and bytes."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, bytes, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def put(self, job: Job, status: int, body: bytes, more: tuple[str, ...]) -> None:
        """Keep an answer, with the delivery it is of."""
        with self._lock:
            self._kept.pop(job.id, None)
            self._kept[job.id] = (status, body, (*more, f"X-Gpud-Delivery: {job.delivery}"))
            size = sum(len(kept[1]) for kept in self._kept.values())
            while len(self._kept) > 1 and (len(self._kept) > _KEPT_MAX or size > _KEPT_BYTES_MAX):
                size -= len(self._kept.pop(next(iter(self._kept)))[1])

    def get(self, job_id: str) -> tuple[int, bytes, tuple[str, ...]] | None:
        """The answer to a job: status, body, further headers."""
        with self._lock:
            return self._kept.get(job_id)


class _Wire:
    """One connection: requests in, answers out."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def read_request(
        self, begun: Callable[[socket.socket], None]
    ) -> tuple[str, str, dict[str, str], bytes] | None:
        """Read a request; None when the other end is done."""
        self.connection.settimeout(_IDLE_TIMEOUT_S)
        data = self._rest or self._receive()
        if not data:
            return None
        begun(self.connection)
        while b"\r\n\r\n" not in data:
            if len(data) > _HEAD_BYTES_MAX:
                raise _BadRequest(431, "The head is too large.")
            more = self._receive()
            if not more:
                return None
            data += more
        head, _, self._rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise _BadRequest(400, "The request line is none.")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise _BadRequest(400, "A header line has no colon.")
            headers[name.strip().lower()] = value.strip()
        if words[2] == "HTTP/1.0":
            headers["connection"] = "close"
        return words[0], words[1], headers, self._read_body(headers)

    def _read_body(self, headers: dict[str, str]) -> bytes:
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit():
            raise _BadRequest(411, "A body needs a Content-Length.")
        size = int(length)
        if size > BODY_BYTES_MAX:
            raise _BadRequest(413, f"At most {BODY_BYTES_MAX} bytes are read.")
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts = [self._rest]
        have = len(self._rest)
        while have < size:
            parts.append(self._receive())
            have += len(parts[-1])
            if not parts[-1]:
                raise ConnectionResetError("The request ended too early.")
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]

    def _receive(self) -> bytes:
        try:
            return self.connection.recv(_READ_BYTES)
        except (socket.timeout, ConnectionError):
            return b""

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.connection.settimeout(_SEND_TIMEOUT_S)
        self.connection.sendall(data)

    def answer(
        self, status: int, body: bytes, *, keep: bool, more: tuple[str, ...] = (), head: bool = False
    ) -> None:
        """Send a whole answer."""
        lines = (
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Refused')}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
            *more,
            "",
            "",
        )
        self.send("\r\n".join(lines).encode("latin-1") + (b"" if head else body))

    def begin_stream(self) -> None:
        """Send the head of an answer in chunks."""
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    def chunk(self, data: bytes) -> None:
        """Send one chunk."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        """End an answer in chunks."""
        self.send(b"0\r\n\r\n")


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _problem(kind: str, message: str, trace: str = "") -> bytes:
    said = {"error_type": kind, "error_message": message}
    if trace:
        said["error_traceback"] = trace
    return json.dumps({"error": said}).encode()


# -- running a handler -----------------------------------------------------------------------------


class _Run:
    """One job at its handler."""

    def __init__(self, server: _Server, wire: _Wire, headers: dict[str, str], body: bytes) -> None:
        self._server = server
        self._wire = wire
        self._headers = headers
        self._body = body
        self._streaming = False
        self._outcomes = server.outcomes if headers.get("x-gpud-job-id") else None
        self._lines: list[bytes] = []
        self._alone = False
        self.told = False
        self._job: Job
        self._stop: Callable[[], None] | None = None

    def answer(self) -> bool:
        """Run it and send what came of it; False when the connection is of no more use."""
        try:
            self._job = Job(self._read_input(), self._headers)
        except ValueError as fault:
            self._wire.answer(
                422, _problem("InvalidInput", str(fault)), keep=True, more=("X-Gpud-Retry: no",)
            )
            return True
        self._server.running[self._job.id] = self
        left = self.cancel if self._outcomes is None else self._go_on_alone
        self._server.watch(self._wire.connection, left)
        try:
            return self._answer()
        except Cancelled:
            return not self._streaming and self._failed(409, Cancelled("The job was cancelled."))
        except OSError:
            return False
        finally:
            self._server.unwatch(self._wire.connection)
            if self._server.running.get(self._job.id) is self:
                del self._server.running[self._job.id]

    def _answer(self) -> bool:
        try:
            value = self._run()
            body = b"" if self._streaming else _json(value)
            self._job._end()
        except Cancelled:
            raise
        except TryAgain as wish:
            return self._failed(503, wish, f"Retry-After: {max(1, round(wish.after_s))}")
        except JobFailed as failure:
            return self._failed(422, failure, "X-Gpud-Retry: no")
        except Exception as error:
            if self._job.cancelled:
                raise Cancelled from error
            return self._failed(500, error)
        if self._job.cancelled:
            raise Cancelled
        self._keep(200, b"[" + b",".join(self._lines) + b"]" if self._streaming else body)
        if self._alone:
            return False
        if self._streaming:
            self._wire.end_stream()
        else:
            self._wire.answer(200, body, keep=True)
        return True

    def _go_on_alone(self) -> None:
        """The caller is gone, and will ask later what became of the job."""
        self._alone = True

    def _keep(self, status: int, body: bytes, *more: str) -> None:
        if self._outcomes is not None:
            self._outcomes.put(self._job, status, body, more)
            self.told = True

    def _failed(self, status: int, error: BaseException, *more: str) -> bool:
        import traceback

        self._job._end()
        trace = "" if status != 500 else traceback.format_exc()
        if trace:
            sys.stderr.write(trace)
            sys.stderr.flush()
        said = _problem(type(error).__name__, str(error), trace)
        self._keep(status, said, *more)
        if self._alone:
            return False
        if self._streaming:  # the status is sent already, so the last line says it
            self._wire.chunk(b'{"gpud_error":' + said[len(b'{"error": ') :] + b"\n")
            self._wire.end_stream()
        else:
            self._wire.answer(status, said, keep=True, more=more)
        return True

    def _read_input(self) -> Any:
        kind = self._headers.get("content-type", "application/json").split(";", 1)[0].strip().lower()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            return self._body
        if not self._body.strip():
            return None
        try:
            return json.loads(self._body)
        except ValueError as fault:
            raise ValueError(f"The input is not JSON: {fault}.") from None

    def _run(self) -> Any:
        handler = self._server.handler
        called = handler if hasattr(handler, "__code__") else type(handler).__call__
        code = getattr(called, "__code__", None)
        flags = 0 if code is None else code.co_flags
        if flags & (_COROUTINE | _ASYNC_GENERATOR):
            return self._run_async(handler, streams=bool(flags & _ASYNC_GENERATOR))
        with self._interruptible():
            value = handler(self._job)
            if flags & _GENERATOR or _is_generator(value):
                return self._stream(iter(value))
        if hasattr(value, "__await__") or hasattr(value, "__anext__"):  # of a plain function that returns one
            return self._run_async(lambda _job: value, streams=hasattr(value, "__anext__"))
        return value

    def _stream(self, values: Iterator[Any]) -> None:
        try:
            for value in values:
                self._put(value)
            self._begin()
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    def _begin(self) -> None:
        if not self._streaming:
            self._streaming = True
            self._send(self._wire.begin_stream)

    def _put(self, value: Any) -> None:
        line = _json(value) + b"\n"
        if self._job.cancelled:
            raise Cancelled
        self._begin()
        if self._outcomes is not None:
            self._lines.append(line[:-1])
        self._send(lambda: self._wire.chunk(line))

    def _send(self, send: Callable[[], None]) -> None:
        """Send a part of a stream, if somebody is there."""
        if self._alone:
            return
        try:
            send()
        except OSError:
            if self._outcomes is None:
                raise
            self._alone = True

    # -- cancellation ------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Nobody wants the result any more: gpud said so, or the caller hung up. From any thread."""
        self._job._cancelled.set()
        stop = self._stop
        if stop is not None:
            stop()

    def _interruptible(self) -> _Interruptible:
        return _Interruptible(self)

    def set_stop(self, stop: Callable[[], None] | None) -> None:
        """Say how to stop what runs now; stops it at once when the caller is gone already."""
        self._stop = stop
        if stop is not None and self._job.cancelled:
            stop()

    # -- async handlers ----------------------------------------------------------------------------

    def _run_async(self, handler: Callable[[Job], Any], *, streams: bool) -> Any:
        """Run it as a task of the loop, and wait until that has ended, cancelled or not."""
        loop = self._server.event_loop()
        ended = threading.Event()
        tasks: list[asyncio.Task[Any]] = []

        def begin() -> None:
            tasks.append(loop.create_task(self._drain(handler) if streams else self._await(handler)))
            tasks[0].add_done_callback(lambda _task: ended.set())
            self.set_stop(cancel)

        def cancel() -> None:
            loop.call_soon_threadsafe(tasks[0].cancel)

        loop.call_soon_threadsafe(begin)
        ended.wait()
        self.set_stop(None)
        if self._job.cancelled:
            tasks[0].cancelled() or tasks[0].exception()
            raise Cancelled
        return tasks[0].result()

    async def _await(self, handler: Callable[[Job], Awaitable[Any]]) -> Any:
        return await handler(self._job)

    async def _drain(self, handler: Callable[[Job], AsyncIterator[Any]]) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        values: Any = handler(self._job)
        try:
            async for value in values:
                # A slow reader holds this handler back and no other.
                await loop.run_in_executor(None, self._put, value)
            self._begin()
        finally:
            await values.aclose()


class _Interruptible:
    """While it lasts, a caller that hangs up has `Cancelled` raised in this thread."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._thread_id = threading.get_ident()
        self._lock = threading.Lock()
        self._over = False
        self._sent = False

    def __enter__(self) -> None:
        self._run.set_stop(self._interrupt)

    def __exit__(self, *_: object) -> None:
        self._run.set_stop(None)
        with self._lock:
            self._over = True
        if self._sent:
            time.sleep(0.01)  # what was sent is raised here at the latest, and not in what follows

    def _interrupt(self) -> None:
        import ctypes

        # An exception that arrives while a lock is taken may leave it taken: never wait for it for long.
        if not self._lock.acquire(timeout=1.0):
            return
        if not self._over and not self._sent:
            self._sent = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(Cancelled)
            )
        self._lock.release()


def _is_generator(value: object) -> bool:
    return hasattr(value, "send") and hasattr(value, "__next__")


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError) as fault:
        raise JobFailed(f"What the handler gave cannot be written as JSON: {fault}") from None


# -- progress --------------------------------------------------------------------------------------


class _Progress:
    """Posts the newest value in a thread of its own."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._newest: bytes | None = None
        self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._post_all, daemon=True)
        self._thread.start()

    def put(self, value: bytes) -> None:
        """Replace what was not posted yet."""
        with self._changed:
            self._newest = value
            self._changed.notify()

    def end(self) -> None:
        """Post what is left, so that no progress comes after the result."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join(2 * _PROGRESS_TIMEOUT_S)

    def _post_all(self) -> None:
        while True:
            with self._changed:
                while self._newest is None and not self._over:
                    self._changed.wait()
                value, self._newest = self._newest, None
            if value is None:
                return
            self._post(value)

    def _post(self, value: bytes) -> None:
        from http.client import HTTPConnection, HTTPException
        from urllib.parse import urlsplit

        parts = urlsplit(self._url)
        connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_PROGRESS_TIMEOUT_S)
        headers = {"Content-Type": "application/json", "X-Gpud-Job-Token": self._token}
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("POST", target, value, headers)
            connection.getresponse().read()
        except (OSError, HTTPException) as error:
            sys.stderr.write(f"gpud_worker: progress was not taken: {error}\n")
        finally:
            connection.close()

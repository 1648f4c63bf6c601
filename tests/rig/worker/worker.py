"""Serves HTTP as a worker image would, and misbehaves on command: the image the tests deploy.

Standard library only. Knobs are environment variables at the start, JSON posted to /control later:

BOOT_DELAY_S           wait this long before listening
NEVER_LISTEN=1         run, but never listen
EXIT_AT_START=CODE     exit with this code at once
PORT                   port to listen on (8000)
HEALTH_AFTER_S         answer /health with 503 until this long after the start
REFUSE_HEALTH=1        answer /health with 503
HANG_HEALTH=1          never answer /health
RESPONSE_DELAY_S       wait this long before each answer (/health, /stats and /control excepted)
FAIL_REQUESTS=1        answer 500 (those three not counted)
CRASH_ON_REQUEST=N     exit with code N at the Nth request (those three not counted)
IGNORE_SIGTERM=1       go on after SIGTERM; else finish what is in flight and exit with 0
ALLOCATE_MIB           hold this much memory
LOG_FLOOD_LINES_PER_S  write this many lines a second to standard output
SLEEP_STATUS, WAKE_STATUS  answer /sleep and /wake_up with this status and do nothing else
SLEEP_HANGS=1, WAKE_HANGS=1  never answer them
CRASH_AT_WAKE=1        exit with code 1 when woken; =2 a moment after the answer

Routes: /health /stats /control /echo /delay/SECONDS /block/SECONDS /stream/COUNT/INTERVAL_MS /bytes/COUNT
/status/CODE /upload /crash /hang /ws, and /sleep /wake_up /is_sleeping as vLLM has them. A request header
X-Delay-S delays any of its answers.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import os
import signal
import socket
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

STARTED_S = time.monotonic()
HEAD_BYTES_MAX = 64 * 1024
CHUNK_BYTES = 64 * 1024
WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
UNCOUNTED_PATHS = ("/health", "/stats", "/control", "/sleep", "/wake_up", "/is_sleeping")
DRAIN_TIMEOUT_S = 30.0


@dataclasses.dataclass
class Knobs:
    """How this worker behaves; the field names are the variables' names in lower case."""

    port: int = 8000
    boot_delay_s: float = 0.0
    never_listen: int = 0
    exit_at_start: int = -1
    health_after_s: float = 0.0
    refuse_health: int = 0
    hang_health: int = 0
    response_delay_s: float = 0.0
    fail_requests: int = 0
    crash_on_request: int = 0
    ignore_sigterm: int = 0
    allocate_mib: int = 0
    log_flood_lines_per_s: int = 0
    sleep_status: int = 0
    wake_status: int = 0
    sleep_hangs: int = 0
    wake_hangs: int = 0
    crash_at_wake: int = 0
    asleep: int = 0

    def change(self, values: dict[str, str]) -> None:
        """Sets the knobs named in `values`, whatever their case; other names are left alone."""
        kinds = {field.name: type(getattr(self, field.name)) for field in dataclasses.fields(self)}
        for name, value in values.items():
            if kind := kinds.get(name.lower()):
                setattr(self, name.lower(), kind(value))


@dataclasses.dataclass
class Stats:
    """What this worker has done so far."""

    requests: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    finished: int = 0
    cancelled: int = 0
    connections: int = 0
    health_requests: int = 0
    bytes_received: int = 0


KNOBS = Knobs()
STATS = Stats()
HELD: list[bytearray] = []


@dataclasses.dataclass
class Request:
    """One request, its body still unread."""

    method: str
    target: str
    version: str
    path: str
    query: dict[str, list[str]]
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body_read: bool = False
    answered: bool = False

    def header(self, name: str, default: str = "") -> str:
        """The last header of that name (given in lower case)."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name), default)

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may carry another request after this one."""
        wish = self.header("connection").lower()
        return wish == "keep-alive" if self.version == "HTTP/1.0" else wish != "close"

    async def body(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, framed by length or in chunks."""
        if self.body_read:
            return
        self.body_read = True
        if self.header("expect").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in self.header("transfer-encoding").lower():
            while count := int((await self.reader.readline()).split(b";")[0], 16):
                async for piece in self._exactly(count):
                    yield piece
                await self.reader.readexactly(2)
            while (await self.reader.readline()).strip():
                pass  # Trailers end with an empty line.
        else:
            async for piece in self._exactly(int(self.header("content-length", "0"))):
                yield piece

    async def _exactly(self, count: int) -> AsyncIterator[bytes]:
        while count > 0:
            piece = await self.reader.read(min(count, CHUNK_BYTES))
            if not piece:
                raise ConnectionResetError
            count -= len(piece)
            STATS.bytes_received += len(piece)
            yield piece

    async def whole_body(self) -> bytes:
        """The whole body in memory."""
        return b"".join([piece async for piece in self.body()])

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Sends the head of an answer."""
        self.answered = True
        reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Status"
        lines = [f"HTTP/1.1 {status} {reason}", f"X-Worker: {socket.gethostname()}"]
        if self.version == "HTTP/1.0" and self.keeps_alive:
            lines.append("Connection: keep-alive")  # Clients of that version wait for the end unless told.
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def answer(self, content: object, *, status: int = 200) -> None:
        """Sends a whole JSON answer."""
        body = json.dumps(content).encode() + b"\n"
        if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.head(status, {})
            return
        self.head(status, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.method != "HEAD":
            self.writer.write(body)


def says(text: str) -> None:
    """Writes one line to the worker's log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def health(request: Request) -> None:
    STATS.health_requests += 1
    while KNOBS.hang_health:  # noqa: ASYNC110 -- the knob is a plain value, turned seldom.
        await asyncio.sleep(0.05)
    if KNOBS.refuse_health or time.monotonic() - STARTED_S < KNOBS.health_after_s:
        request.answer({"status": "unhealthy"}, status=503)
    else:
        request.answer({"status": "ok"})


async def stats(request: Request) -> None:
    request.answer(dataclasses.asdict(STATS) | {"hostname": socket.gethostname(), "pid": os.getpid()})


async def control(request: Request) -> None:
    values = json.loads(await request.whole_body() or b"{}")
    KNOBS.change(
        {name: str(int(value) if isinstance(value, bool) else value) for name, value in values.items()}
    )
    hold_memory()
    request.answer(dataclasses.asdict(KNOBS))


async def sleep(request: Request) -> None:
    while KNOBS.sleep_hangs:  # noqa: ASYNC110 -- as above.
        await asyncio.sleep(0.05)
    if not KNOBS.sleep_status:
        KNOBS.asleep = 1
    request.answer({"asleep": bool(KNOBS.asleep)}, status=KNOBS.sleep_status or 200)


async def wake_up(request: Request) -> None:
    while KNOBS.wake_hangs:  # noqa: ASYNC110 -- as above.
        await asyncio.sleep(0.05)
    if KNOBS.crash_at_wake == 1:
        os._exit(1)
    if not KNOBS.wake_status:
        KNOBS.asleep = 0
    request.answer({"asleep": bool(KNOBS.asleep)}, status=KNOBS.wake_status or 200)
    if KNOBS.crash_at_wake:
        asyncio.get_running_loop().call_later(0.02, os._exit, 1)


async def is_sleeping(request: Request) -> None:
    request.answer({"is_sleeping": bool(KNOBS.asleep)})


async def echo(request: Request, *_: str) -> None:
    body = await request.whole_body()
    request.answer(
        {
            "method": request.method,
            "target": request.target,
            "path": request.path,
            "query": request.query,
            "headers": request.headers,
            "body_bytes": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "hostname": socket.gethostname(),
            "nvidia_visible_devices": os.environ.get("NVIDIA_VISIBLE_DEVICES"),
            "request_number": STATS.requests,
        }
    )


async def delay(request: Request, seconds: str) -> None:
    await asyncio.sleep(float(seconds))
    request.answer({"delayed_s": float(seconds), "hostname": socket.gethostname()})


async def block(request: Request, seconds: str) -> None:
    # The event loop itself stands still, health included, as in a worker whose model hogs its thread.
    time.sleep(float(seconds))  # noqa: ASYNC251
    request.answer({"blocked_s": float(seconds)})


async def stream(request: Request, count: str, interval_ms: str) -> None:
    request.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
    for index in range(int(count)):
        event = f'data: {{"index": {index}, "hostname": "{socket.gethostname()}"}}\n\n'.encode()
        request.writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await request.writer.drain()
        await asyncio.sleep(int(interval_ms) / 1000)
    request.writer.write(b"0\r\n\r\n")


async def send_bytes(request: Request, count: str) -> None:
    left = int(count)
    request.head(200, {"Content-Type": "application/octet-stream", "Content-Length": str(left)})
    piece = b"x" * CHUNK_BYTES
    while left > 0 and request.method != "HEAD":
        request.writer.write(piece[: min(left, CHUNK_BYTES)])
        left -= CHUNK_BYTES
        await request.writer.drain()


async def status(request: Request, code: str) -> None:
    request.answer({"status": int(code)}, status=int(code))


async def upload(request: Request) -> None:
    digest, count = hashlib.sha256(), 0
    async for piece in request.body():
        digest.update(piece)
        count += len(piece)
    request.answer({"bytes": count, "sha256": digest.hexdigest()})


async def crash(_: Request) -> None:
    os._exit(1)


async def hang(_: Request) -> None:
    await asyncio.Event().wait()


async def websocket(request: Request) -> None:
    """Echoes WebSocket messages until the client closes."""
    key = request.header("sec-websocket-key")
    if not key:
        request.answer({"error": "not a WebSocket request"}, status=400)
        return
    accept = base64.b64encode(hashlib.sha1((key + WEBSOCKET_GUID).encode()).digest()).decode()  # noqa: S324
    request.head(101, {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept})
    request.headers.append(("connection", "close"))  # Nothing but frames may follow on this connection.
    while True:
        first, second = await request.reader.readexactly(2)
        length = second & 0x7F
        if length >= 126:  # 126 and 127 announce a length of two and eight bytes.
            length = int.from_bytes(await request.reader.readexactly(2 if length == 126 else 8), "big")
        mask = await request.reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
        masked = await request.reader.readexactly(length)
        pattern = (mask * (length // 4 + 1))[:length]
        payload = (int.from_bytes(masked, "big") ^ int.from_bytes(pattern, "big")).to_bytes(length, "big")
        opcode = first & 0x0F
        answer_opcode = {0x9: 0xA}.get(
            opcode, opcode
        )  # A ping is answered with a pong, the rest with itself.
        if length < 126:
            size = bytes([length])
        elif length < 65536:
            size = b"\x7e" + length.to_bytes(2, "big")
        else:
            size = b"\x7f" + length.to_bytes(8, "big")
        request.writer.write(bytes([(first & 0xF0) | answer_opcode]) + size + payload)
        await request.writer.drain()
        if opcode == 0x8:  # Close.
            return


ROUTES: dict[str, Callable[..., object]] = {
    "health": health,
    "stats": stats,
    "control": control,
    "echo": echo,
    "delay": delay,
    "block": block,
    "stream": stream,
    "bytes": send_bytes,
    "status": status,
    "upload": upload,
    "crash": crash,
    "hang": hang,
    "ws": websocket,
    "sleep": sleep,
    "wake_up": wake_up,
    "is_sleeping": is_sleeping,
}


async def respond(request: Request) -> None:
    """Finds the route and answers; unknown paths are 404, arguments that do not fit are 400."""
    first, *arguments = request.path.strip("/").split("/")
    route = ROUTES.get(first)
    if request.path not in UNCOUNTED_PATHS:
        if STATS.requests == KNOBS.crash_on_request:
            says(f"crashing at request {STATS.requests}")
            os._exit(KNOBS.crash_on_request & 0xFF)
        await asyncio.sleep(KNOBS.response_delay_s)
        if KNOBS.fail_requests:
            request.answer({"error": "told to fail"}, status=500)
            return
    await asyncio.sleep(float(request.header("x-delay-s", "0")))
    if route is None:
        request.answer({"error": f"no route {request.path}"}, status=404)
        return
    try:
        await route(request, *arguments)  # type: ignore[misc]  # Every route is a coroutine function.
    except (TypeError, ValueError) as error:
        if request.answered:
            raise
        request.answer({"error": str(error)}, status=400)


class Connection(asyncio.StreamReaderProtocol):
    """One client connection: request after request, and a request whose client went away is cancelled."""

    def __init__(self) -> None:
        super().__init__(asyncio.StreamReader(limit=HEAD_BYTES_MAX), self._serve)
        self._serving: asyncio.Task[None] | None = None

    def eof_received(self) -> bool | None:
        self._client_left()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._client_left()
        super().connection_lost(error)

    def _client_left(self) -> None:
        if self._serving is not None:
            self._serving.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        STATS.connections += 1
        try:
            while request := await read_head(reader, writer):
                self._serving = asyncio.create_task(self._answer(request))
                try:
                    await self._serving
                finally:
                    self._serving = None
                if not request.keeps_alive:
                    break
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass  # The client is gone or does not speak HTTP/1.1: either way there is nobody to tell.
        finally:
            STATS.connections -= 1
            writer.close()

    async def _answer(self, request: Request) -> None:
        count = int(request.path not in UNCOUNTED_PATHS)
        STATS.requests += count
        STATS.in_flight += count
        STATS.in_flight_max = max(STATS.in_flight_max, STATS.in_flight)
        try:
            await respond(request)
            async for _ in request.body():
                pass  # What a route left unread would be taken for the next request.
            await request.writer.drain()
            STATS.finished += count
        except asyncio.CancelledError:
            STATS.cancelled += count
            raise
        finally:
            STATS.in_flight -= count


async def read_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Reads the head of the next request; None when the client has closed instead."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *rest = raw.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ", 2)
    split = urlsplit(target)
    headers = []
    for line in filter(None, rest):
        name, _, value = line.partition(":")
        headers.append((name.strip(), value.strip()))
    return Request(
        method, target, version, unquote(split.path), parse_qs(split.query), headers, reader, writer
    )


def hold_memory() -> None:
    """Allocates, touches and keeps ALLOCATE_MIB of memory."""
    wanted_bytes = KNOBS.allocate_mib * 1024 * 1024
    HELD.clear()
    if wanted_bytes:
        HELD.append(bytearray(b"\1") * wanted_bytes)


async def flood_log() -> None:
    """Writes LOG_FLOOD_LINES_PER_S lines a second, in ten bursts."""
    line_number = 0
    while True:
        for _ in range(KNOBS.log_flood_lines_per_s // 10):
            line_number += 1
            sys.stdout.write(f"flood line {line_number}\n")
        sys.stdout.flush()
        await asyncio.sleep(0.1)


async def finish_and_exit(server: asyncio.Server) -> None:
    """Stops listening, lets requests in flight finish, and exits with 0."""
    server.close()
    deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
    while STATS.in_flight and time.monotonic() < deadline_s:  # noqa: ASYNC110 -- a count, read while draining.
        await asyncio.sleep(0.01)
    says("exiting after SIGTERM")
    os._exit(0)


async def serve() -> None:
    """Listens and serves until told to stop."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "0.0.0.0", KNOBS.port, backlog=4096)  # noqa: S104
    tasks = {asyncio.create_task(flood_log())}

    def on_sigterm() -> None:
        says("SIGTERM ignored" if KNOBS.ignore_sigterm else "SIGTERM received")
        if not KNOBS.ignore_sigterm:
            tasks.add(asyncio.create_task(finish_and_exit(server)))

    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    says(f"listening on port {KNOBS.port}")
    await asyncio.Event().wait()


def main() -> None:
    """Starts as the knobs say."""
    KNOBS.change(dict(os.environ))
    if KNOBS.exit_at_start >= 0:
        says(f"exiting at start with {KNOBS.exit_at_start}")
        sys.exit(KNOBS.exit_at_start)
    if KNOBS.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        # The first process of a container gets no default action for a signal.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    hold_memory()
    time.sleep(KNOBS.boot_delay_s)
    while KNOBS.never_listen:
        time.sleep(3600)
    asyncio.run(serve())


if __name__ == "__main__":
    main()

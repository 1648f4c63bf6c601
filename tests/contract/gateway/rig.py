"""A gateway on loopback with workers that tests script byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.core.ids import EndpointName, KeyId, WorkerId
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.errors import Forbidden, TooManyAttempts, Unauthenticated
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.server import Gateway
from gpud.ports.store import ApiKey
from gpud.settings import ServerSettings

if TYPE_CHECKING:
    import ssl

DEADLINE_S = 10.0
TOKEN = "gpud_test_key"


class LoopClock:
    boot_id = "boot"

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def at_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def wall_ns(self) -> int:
        return time.time_ns()

    def boot_ns(self) -> int:
        return time.monotonic_ns()


class CountingIds:
    def __init__(self) -> None:
        self._last = 0

    def new_id(self, prefix: str) -> str:
        self._last += 1
        return f"{prefix}_{self._last:016d}"

    def fraction(self) -> float:
        return 0.5


class OneKey:
    """Knows one key; `scopes` may be changed by a test."""

    def __init__(self) -> None:
        self.scopes = {"invoke:*"}
        self.failures: dict[str, int] = {}
        self.failures_max = 1_000_000

    def authorize(self, token: str | None, scope: str) -> ApiKey:
        if token != TOKEN:
            raise Unauthenticated("No such key. Make one with `gpud key create`.")
        if scope not in self.scopes and not (scope.startswith("invoke:") and "invoke:*" in self.scopes):
            raise Forbidden(f"The key lacks {scope}.")
        return ApiKey(
            id=KeyId("key_1"),
            label="test",
            secret_sha256=b"",
            scopes=tuple(self.scopes),
            created_at_ms=0,
        )

    def note_failure(self, peer: str) -> None:
        self.failures[peer] = self.failures.get(peer, 0) + 1
        if self.failures[peer] > self.failures_max:
            raise TooManyAttempts("Too many keys that are not valid.", retry_after_s=60)


class RecordingWatcher:
    def __init__(self) -> None:
        self.told: list[str] = []

    def load_changed(self) -> None:
        self.told.append("load")

    def worker_busy(self, worker_id: WorkerId) -> None:
        self.told.append(f"busy {worker_id}")

    def worker_idle(self, worker_id: WorkerId) -> None:
        self.told.append(f"idle {worker_id}")

    def worker_unreachable(self, worker_id: WorkerId, detail: str) -> None:
        assert detail
        self.told.append(f"unreachable {worker_id}")

    def worker_worn_out(self, worker_id: WorkerId, detail: str) -> None:
        assert detail
        self.told.append(f"worn out {worker_id}")

    def start_answered(self, worker_id: WorkerId, first_byte_s: float) -> None:
        assert first_byte_s >= 0
        self.told.append(f"answered {worker_id}")


@dataclass
class Seen:
    """One request as a worker got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    raw_body: bytes = b""

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return found[0] if found else None


Answer = Callable[["ScriptedWorker", Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer_ok(
    worker: ScriptedWorker, seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    body = f"{worker.worker_id} {seen.method} {seen.target}".encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    if seen.method != "HEAD":
        writer.write(body)


@dataclass
class ScriptedWorker:
    """An HTTP server that does as told, and remembers."""

    worker_id: WorkerId
    answer: Answer = answer_ok
    read_body: bool = True
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    gone: int = 0
    port: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> ScriptedWorker:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        async with asyncio.timeout(DEADLINE_S):
            while self._writers:  # noqa: ASYNC110 - whoever serves one notices, and ends before its loop does
                await asyncio.sleep(0.001)

    @property
    def open_connections(self) -> int:
        return len(self._writers)

    @property
    def route(self) -> RouteWorker:
        return RouteWorker(worker_id=self.worker_id, address="127.0.0.1", port=self.port)

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self.changed:
            await self.changed.wait_for(met)

    async def note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (seen := await read_request(reader, read_body=self.read_body)) is not None:
                self.seen.append(seen)
                await self.note()
                await self.answer(self, seen, reader, writer)
                await writer.drain()
                if writer.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass  # The last is a malformed body that another proxy has passed on.
        finally:
            self.gone += 1
            self._writers.discard(writer)
            with contextlib.suppress(Exception):
                writer.close()
            await self.note()


async def read_request(reader: asyncio.StreamReader, *, read_body: bool = True) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target = rest.rpartition(" ")[0] or rest
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    seen = Seen(method, target, headers)
    if read_body:
        await read_body_of(seen, reader)
    return seen


async def read_body_of(seen: Seen, reader: asyncio.StreamReader) -> None:
    if (seen.header("Transfer-Encoding") or "").lower() == "chunked":
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            seen.raw_body += line
            if size == 0:
                while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
                    seen.raw_body += trailer
                seen.raw_body += b"\r\n"
                return
            data = await reader.readexactly(size + 2)
            seen.raw_body += data
            seen.body += data[:-2]
    elif seen.header("Content-Length"):
        seen.body = seen.raw_body = await reader.readexactly(int(seen.header("Content-Length") or 0))


@dataclass
class Reply:
    """A response as the client got it; `whole` is False when the connection ended inside it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return found[0] if found else None


class RawClient:
    """One client connection, driven by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(
        self,
        method: str,
        target: str,
        *,
        headers: tuple[str, ...] = (),
        body: bytes | None = None,
        token: str | None = TOKEN,
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: gpud.test", *headers]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b""))

    async def head(self) -> Reply:
        async with asyncio.timeout(DEADLINE_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Reply(int(first.split(" ")[1]), headers, b"", whole=True)

    async def reply(self, method: str = "GET") -> Reply:
        reply = await self.head()
        if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
            return reply
        async with asyncio.timeout(DEADLINE_S):
            try:
                if (reply.header("Transfer-Encoding") or "").lower() == "chunked":
                    fake = Seen("", "", [("Transfer-Encoding", "chunked")])
                    try:
                        await read_body_of(fake, self.reader)
                    finally:
                        reply.body = fake.body
                elif reply.header("Content-Length") is not None:
                    reply.body = await self.reader.readexactly(int(reply.header("Content-Length") or 0))
                else:
                    reply.body = await self.reader.read()
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                reply.body += getattr(error, "partial", b"")
                reply.whole = False
        return reply

    def leave(self) -> None:
        self.writer.transport.abort()

    async def closed(self) -> bytes:
        """Read to the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Rig:
    """A started gateway, its dispatcher, and helpers."""

    def __init__(self, settings: ServerSettings | None = None) -> None:
        self.watcher = RecordingWatcher()
        self.keys = OneKey()
        self.clock = LoopClock()
        self.dispatcher = Dispatcher(self.clock)
        self.dispatcher.watch(self.watcher)
        self.settings = settings or ServerSettings()
        self.port = 0
        self._workers: list[ScriptedWorker] = []
        self._clients: list[RawClient] = []
        self._runner: web.AppRunner | None = None
        self.gateway: Gateway | None = None

    async def start(self, app: web.Application | None = None, tls: ssl.SSLContext | None = None) -> Rig:
        self._runner = web.AppRunner(app or control_app(), handler_cancellation=True)
        await self._runner.setup()
        assert self._runner.server is not None
        self.gateway = Gateway(
            dispatcher=self.dispatcher,
            settings=self.settings,
            keys=self.keys,
            control=self._runner.server,
            clock=self.clock,
            ids=CountingIds(),
        )
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        listening.settimeout(0)
        self.port = listening.getsockname()[1]
        await self.gateway.start([listening], tls)
        return self

    async def stop(self) -> None:
        for client in self._clients:
            client.leave()
        for worker in self._workers:
            await worker.stop()
        if self.gateway is not None:
            await self.gateway.stop(1.0)
        if self._runner is not None:
            await self._runner.cleanup()

    async def worker(
        self, number: int = 1, answer: Answer = answer_ok, *, read_body: bool = True
    ) -> ScriptedWorker:
        worker = ScriptedWorker(WorkerId(f"wk_{number:016d}"), answer=answer, read_body=read_body)
        self._workers.append(worker)
        return await worker.start()

    def publish(self, *workers: ScriptedWorker | RouteWorker, name: str = "llm", **facts: object) -> None:
        self.dispatcher.publish(RoutingTable({EndpointName(name): route(*workers, name=name, **facts)}))

    async def client(self) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self._clients.append(client)
        return client

    async def get(self, target: str, *, method: str = "GET", **request: object) -> Reply:
        client = await self.client()
        client.send(method, target, **request)  # type: ignore[arg-type]
        return await client.reply(method)

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait for a state that only the event loop brings about."""
        async with asyncio.timeout(DEADLINE_S):
            while not met():  # noqa: ASYNC110 - the state has no event of its own
                await asyncio.sleep(0.002)

    def waiting(self, name: str = "llm") -> int:
        return self.dispatcher.take_load(EndpointName(name)).waiting

    def in_flight(self, name: str = "llm") -> int:
        return self.dispatcher.take_load(EndpointName(name)).in_flight


def route(*workers: ScriptedWorker | RouteWorker, name: str = "llm", **facts: object) -> Route:
    known: dict[str, object] = {
        "concurrency": 8,
        "max_queue": 100,
        "hold_timeout_s": 30.0,
        "request_timeout_s": 30.0,
    }
    return Route(
        endpoint=EndpointName(name),
        workers=tuple(worker.route if isinstance(worker, ScriptedWorker) else worker for worker in workers),
        **{**known, **facts},  # type: ignore[arg-type]
    )


def refusing_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def control_app() -> web.Application:
    app = web.Application(client_max_size=1 << 26)

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), headers={"X-Peer": str(request.remote)})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for i in range(5):
            await response.write(f"line {i}\n".encode())
        return response

    async def socket_echo(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str("api " + str(message.data))
        return ws

    app.router.add_route("*", "/v1/echo", echo)
    app.router.add_get("/v1/stream", stream)
    app.router.add_get("/v1/ws", socket_echo)
    return app

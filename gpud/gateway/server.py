"""Serves one TCP port: endpoints through the dispatcher, everything else through the control API.

Build order in the composition root (the fleet and the gateway know each other, so one is told late)::

    dispatcher = Dispatcher(clock)                   # implements ports.traffic.Traffic
    reconciler = Reconciler(traffic=dispatcher, ...)
    dispatcher.watch(reconciler)                     # a ports.traffic.TrafficWatcher
    runner = aiohttp.web.AppRunner(app); await runner.setup()
    gateway = Gateway(dispatcher=dispatcher, settings=settings.server, keys=keyring,
                      control=runner.server, clock=clock, ids=ids, log_requests=settings.log.requests)
    await gateway.start(sockets)                     # bound, listening, non-blocking or not
    ...
    await gateway.stop(settings.server.shutdown_timeout_s)

`control` is whatever makes one protocol object per connection, such as `AppRunner.server`; its
transports have the client's `peername` and no `socket`, so a request that came by TCP is never
mistaken for one that came by the Unix socket.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import structlog
import yarl
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, MultiMapping

from gpud.errors import BodyTooLarge, GpudError, InvalidRequest, RequestTimeout, WorkerUnreachable
from gpud.gateway.credentials import allowed_model, allowed_route, callable_models, token_of
from gpud.gateway.memory import join
from gpud.gateway.problems import openai_body, problem_body, problem_headers
from gpud.gateway.routing import (
    MODEL_BODY_BYTES_MAX,
    ByModel,
    ModelList,
    ToControl,
    ToEndpoint,
    choose_upstream,
    model_in_body,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Sequence

    from gpud.core.routing import Route
    from gpud.gateway.dispatch import Dispatcher
    from gpud.gateway.lane import Slot
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import KeyRing
    from gpud.settings import ServerSettings

_log = structlog.get_logger()
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te")
) | frozenset(("trailer", "transfer-encoding", "upgrade"))
_CREDENTIALS = frozenset(("authorization", "x-api-key"))
_CONNECT_TIMEOUT_S = 5.0
_CHUNK_BYTES = 64 * 1024


class _MemoryConnector(aiohttp.BaseConnector):
    """Connects an aiohttp client to a server protocol in this process."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        super().__init__(limit=0, force_close=True)
        self._factory_of_server = factory

    async def _create_connection(self, req: object, traces: object, timeout: object) -> ResponseHandler:  # noqa: ARG002, ASYNC109
        protocol = ResponseHandler(asyncio.get_running_loop())
        join(protocol, self._factory_of_server, ("127.0.0.1", 0))
        return protocol


class Gateway:
    """The data plane; see the module's text for how it is built.

    Args:
        dispatcher: Gives slots; the fleet publishes routes to it.
        settings: Body limit and times.
        keys: Who may call what.
        control: Makes the control API's protocol, one for each connection.
        clock: Loop time.
        ids: Request ids.
        log_requests: Write `request.finished` for each request.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        settings: ServerSettings,
        keys: KeyRing,
        control: Callable[[], asyncio.BaseProtocol],
        clock: Clock,
        ids: IdSource,
        log_requests: bool = False,
    ) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._keys = keys
        self._control = control
        self._clock = clock
        self._ids = ids
        self._log_requests = log_requests
        self._web: web.Server | None = None
        self._servers: list[asyncio.Server] = []
        self._workers: aiohttp.ClientSession | None = None
        self._api: aiohttp.ClientSession | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on sockets that are bound and listening."""
        loop = asyncio.get_running_loop()
        self._workers = _session(aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, force_close=False))
        self._api = _session(_MemoryConnector(self._control))
        self._web = web.Server(self._handle, handler_cancellation=True, access_log=None)
        for listening in sockets:
            self._servers.append(await loop.create_server(self._web, sock=listening))

    async def stop(self, drain_s: float) -> None:
        """Stop accepting, refuse who waits, give running requests `drain_s`, then cut them."""
        for server in self._servers:
            server.close()
        self._dispatcher.stop()
        try:
            async with asyncio.timeout(drain_s):
                await self._dispatcher.drained()
        except TimeoutError:
            _log.warning("gateway.requests_cut", in_flight=self._dispatcher.total_in_flight())
        if self._web is not None:
            await self._web.shutdown(1.0)
        for session in (self._workers, self._api):
            if session is not None:
                await session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = self._ids.new_id("req")
        target = request._message.path  # noqa: SLF001 - the target as it was sent
        try:
            upstream = choose_upstream(request.method, target)
            match upstream:
                case ToControl():
                    return await self._forward_control(request, target)
                case ToEndpoint(name, path):
                    route = allowed_route(self._keys, self._dispatcher.table, name, _token(request))
                    return await self._forward(request, route, path, request_id, b"")
                case ModelList():
                    models = callable_models(self._keys, self._dispatcher.table, _token(request))
                    return _model_list(models, request_id)
                case ByModel(path):
                    head = await _read_up_to(request, MODEL_BODY_BYTES_MAX)
                    model = model_in_body(head, request.headers.get("Content-Type", ""))
                    if model is None:
                        raise InvalidRequest("The body names no `model` in its first 128 KiB; add one.")
                    route = allowed_model(self._keys, self._dispatcher.table, model, _token(request))
                    return await self._forward(request, route, path, request_id, head)
        except GpudError as error:
            openai = target.startswith("/openai/")
            body = openai_body(error) if openai else problem_body(error, request_id)
            return web.Response(
                status=error.status,
                body=body,
                headers=CIMultiDict(problem_headers(error, request_id, openai=openai)),
            )

    async def _forward_control(self, request: web.BaseRequest, target: str) -> web.StreamResponse:
        assert self._api is not None  # noqa: S101 - set by start
        url = yarl.URL("http://" + (request.headers.get("Host") or "gpud") + target, encoded=True)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _tunnel(request, self._api, url)
        headers = _end_to_end(request.headers, drop=frozenset())
        body = request.content if request.body_exists else None
        async with self._api.request(request.method, url, headers=headers, data=body) as answer:
            return await self._send_back(request, answer, [])

    async def _forward(
        self, request: web.BaseRequest, route: Route, path: str, request_id: str, head: bytes
    ) -> web.StreamResponse:
        length = request.content_length
        if length is not None and length > self._settings.body_bytes_max:
            raise BodyTooLarge(
                f"The body has {length} bytes; server.body_bytes_max is {self._settings.body_bytes_max}."
            )
        slot = await self._dispatcher.acquire(route.endpoint)
        try:
            while True:
                try:
                    return await self._exchange(request, route, slot, path, request_id, head)
                except aiohttp.ClientConnectorError as error:
                    detail = f"Worker {slot.worker.worker_id} took no connection: {error.strerror or error}"
                    slot = await self._dispatcher.acquire_other(route.endpoint, slot, detail)
        finally:
            slot.release()

    async def _exchange(  # noqa: PLR0917
        self, request: web.BaseRequest, route: Route, slot: Slot, path: str, request_id: str, head: bytes
    ) -> web.StreamResponse:
        assert self._workers is not None  # noqa: S101 - set by start
        worker = slot.worker
        extra = [
            ("X-Gpud-Request-Id", request_id),
            ("X-Gpud-Worker", worker.worker_id),
            ("X-Gpud-Cold-Start", "true" if slot.cold else "false"),
            ("X-Gpud-Queue-Ms", str(int(slot.queue_s * 1000))),
        ]
        if request.headers.get("Upgrade", "").lower() == "websocket":
            url = yarl.URL(f"http://{worker.address}:{worker.port}{path}", encoded=True)
            return await _tunnel(request, self._workers, url)
        url = yarl.URL(f"http://{worker.address}:{worker.port}{path}", encoded=True)
        headers = _end_to_end(request.headers, drop=_CREDENTIALS)
        body = _body(request, head) if request.body_exists else None
        began_s = self._clock.now_s()
        try:
            async with (
                asyncio.timeout(route.request_timeout_s),
                self._workers.request(request.method, url, headers=headers, data=body) as answer,
            ):
                waited_ms = (self._clock.now_s() - began_s) * 1000
                timing = f"queue;dur={slot.queue_s * 1000:.1f}, first_byte;dur={waited_ms:.1f}"
                return await self._send_back(request, answer, [*extra, ("Server-Timing", timing)])
        except TimeoutError as error:
            raise RequestTimeout(
                f"Worker {worker.worker_id} did not finish within {route.request_timeout_s:g} s "
                "(limits.request_timeout_s)."
            ) from error
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientError as error:
            raise WorkerUnreachable(
                f"Worker {worker.worker_id} broke the connection before answering: {error}."
            ) from error

    async def _send_back(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, extra: list[tuple[str, str]]
    ) -> web.StreamResponse:
        headers = _end_to_end(answer.headers, drop=frozenset(name.lower() for name, _ in extra))
        headers.extend(extra)
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        await response.prepare(request)
        try:
            async for data in answer.content.iter_any():
                await response.write(data)
        except BaseException:
            if request.transport is not None:
                request.transport.abort()  # no final chunk: the client must not take it for whole
            answer.close()
            raise
        await response.write_eof()
        return response


_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _tunnel(
    request: web.BaseRequest, session: aiohttp.ClientSession, url: yarl.URL
) -> web.StreamResponse:
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    protocols = [word.strip() for word in offered.split(",") if word.strip()]
    async with session.ws_connect(url, protocols=protocols, max_msg_size=0) as far:
        near = web.WebSocketResponse(max_msg_size=0, protocols=[far.protocol] if far.protocol else [])
        await near.prepare(request)
        tasks = (asyncio.create_task(_relay(near, far)), asyncio.create_task(_relay(far, near)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return near


async def _relay(source: _Socket, sink: _Socket) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)
    await sink.close(code=source.close_code or 1000)


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=_CHUNK_BYTES,
    )


def _token(request: web.BaseRequest) -> str | None:
    return token_of(request.headers.get("Authorization"), request.headers.get("X-API-Key"))


def _end_to_end(source: MultiMapping[str], drop: frozenset[str]) -> CIMultiDict[str]:
    named = {word.strip().lower() for value in source.getall("Connection", ()) for word in value.split(",")}
    gone = _HOP_BY_HOP | drop | named | {"host"}
    kept = CIMultiDict((name, value) for name, value in source.items() if name.lower() not in gone)
    if "Host" in source:
        kept["Host"] = source["Host"]
    return kept


async def _read_up_to(request: web.BaseRequest, limit: int) -> bytes:
    head = bytearray()
    while len(head) < limit and not request.content.at_eof():
        head += await request.content.read(limit - len(head))
    return bytes(head)


async def _body(request: web.BaseRequest, head: bytes) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for data in request.content.iter_any():
        yield data


def _model_list(models: list[str], request_id: str) -> web.Response:
    listed = [{"id": model, "object": "model", "created": 0, "owned_by": "gpud"} for model in models]
    return web.Response(
        body=json.dumps({"object": "list", "data": listed}).encode(),
        content_type="application/json",
        headers={"X-Gpud-Request-Id": request_id},
    )

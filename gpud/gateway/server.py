"""Serves one TCP port: endpoints through the dispatcher, everything else through the control API.

Build order in the composition root (the fleet and the gateway know each other, so one is told late)::

    dispatcher = Dispatcher(clock)                   # implements ports.traffic.Traffic
    reconciler = Reconciler(traffic=dispatcher, ...)
    dispatcher.watch(reconciler)                     # a ports.traffic.TrafficWatcher
    runner = aiohttp.web.AppRunner(app, handler_cancellation=True); await runner.setup()
    gateway = Gateway(dispatcher=dispatcher, settings=settings.server, keys=keyring,
                      control=runner.server, clock=clock, ids=ids, log_share=share_of_requests_logged)
    await gateway.start(sockets)                     # bound and listening
    ...
    await gateway.stop(settings.server.shutdown_timeout_s)

`control` is whatever makes one protocol object per connection, such as `AppRunner.server`; its
transports have the client's `peername` and no `socket`, so a request that came by TCP is never
mistaken for one that came by the Unix socket.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import structlog

from gpud.gateway.client_side import ClientConnection
from gpud.gateway.loop_lag import LoopLag
from gpud.gateway.overstaying import HEAD_S_MAX
from gpud.gateway.plane import Plane
from gpud.ports.traffic import GatewayReading

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from gpud.gateway.dispatch import Dispatcher
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import KeyRing
    from gpud.settings import ServerSettings

SWEEP_S = 1.0
"""How often idle and slow connections are looked for."""
_BACKLOG = 1024
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))
"""Two minutes after it went silent a client whose machine is gone counts as one that has left."""
_log = structlog.get_logger()


class Gateway:
    """The data plane; see the module's text for how it is built.

    Args:
        dispatcher: Gives slots; the fleet publishes routes to it.
        settings: Body limit and domain.
        keys: Who may call what.
        control: Makes the control API's protocol, one for each connection.
        clock: Loop time.
        ids: Request ids.
        log_share: Of the requests that ended well, how many get a `request.finished` line; None for no lines.
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
        log_share: float | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._plane = Plane(
            dispatcher=dispatcher,
            keys=keys,
            control=control,
            clock=clock,
            ids=ids,
            body_bytes_max=settings.body_bytes_max,
            domain=settings.domain,
            log_share=log_share,
        )
        self._servers: list[asyncio.Server] = []
        self._sweeping: asyncio.TimerHandle | None = None
        self._lag = LoopLag()

    @property
    def connections(self) -> int:
        """Client connections now."""
        return len(self._plane.clients)

    def reading(self) -> GatewayReading:
        """Say how the gateway is."""
        return GatewayReading(
            connections=len(self._plane.clients),
            requests=self._plane.exchanges,
            statuses=dict(self._plane.statuses),
            loop_lag_s=self._lag.last_s,
            loop_lag_s_max=self._lag.worst_s,
        )

    async def start(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on sockets that are bound and listening.

        Args:
            sockets: TCP and Unix sockets.
            tls: What TCP connections are encrypted with; None for plain HTTP.
        """
        loop = asyncio.get_running_loop()
        self._plane.now_s = loop.time  # what the clock would ask for, without the way to it
        self._plane.departures.start()
        self._plane.tls = tls is not None
        for listening in sockets:
            encrypted = tls is not None and listening.family != socket.AF_UNIX
            _notice_lost_clients(listening)
            server = await loop.create_server(
                lambda: ClientConnection(self._plane),
                sock=listening,
                backlog=_BACKLOG,
                ssl=tls if encrypted else None,
                ssl_handshake_timeout=HEAD_S_MAX if encrypted else None,
            )
            self._servers.append(server)
        self._lag.start()
        self._sweep_next()

    async def stop(self, drain_s: float) -> None:
        """Stop accepting, refuse who waits, give running requests `drain_s`, then cut them."""
        for server in self._servers:
            server.close()
        self._plane.stopping = True
        self._dispatcher.stop()
        for client in list(self._plane.clients):
            client.close_if_idle()
        try:
            async with asyncio.timeout(drain_s):
                await self._plane.drained()
        except TimeoutError:
            _log.warning("gateway.requests_cut", requests=self._plane.exchanges)
        for client in list(self._plane.clients):
            client.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
            self._plane.departures.stop()
            self._lag.stop()
        if self._plane.access_log is not None:
            self._plane.access_log.close()
        self._plane.pools.close()
        self._plane.control.close()
        await asyncio.sleep(0)  # transports tell their protocols in the next turn

    def _sweep_next(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._plane.sweep(asyncio.get_running_loop().time())
        self._sweep_next()


def _notice_lost_clients(listening: socket.socket) -> None:
    """Have the kernel ask silent clients whether they are there; accepted connections inherit this."""
    if listening.family == socket.AF_UNIX:
        return
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        listening.setsockopt(socket.IPPROTO_TCP, option, value)

"""What all connections of the gateway share."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

from gpud.gateway import answers
from gpud.gateway.access_log import AccessLog, Line
from gpud.gateway.local import LocalKeys, administrators
from gpud.gateway.overstaying import sweep
from gpud.gateway.pool import MemoryPool, Pools
from gpud.gateway.recall import RequestHeads, ResponseHeads

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.gateway.client_side import ClientConnection
    from gpud.gateway.dispatch import Dispatcher
    from gpud.gateway.exchange import Exchange
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import KeyRing

_RESET = struct.pack("ii", 1, 0)


class Departures:
    """Notices that a client leaves while nothing is read from it.

    A paused transport does not see the end of its connection, because the bytes before the end have
    not been read. The kernel tells all the same (EPOLLRDHUP), through a poll of our own that the loop
    watches like any descriptor.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._watched: dict[int, ClientConnection] = {}
        self._descriptors: dict[ClientConnection, int] = {}

    def start(self) -> None:
        """Begin to watch."""
        asyncio.get_running_loop().add_reader(self._poll.fileno(), self._look)

    def stop(self) -> None:
        """Watch no more."""
        asyncio.get_running_loop().remove_reader(self._poll.fileno())
        self._poll.close()

    def watch(self, client: ClientConnection) -> None:
        """Tell this client's connection when its other end closes."""
        peer = client.transport.get_extra_info("socket")
        descriptor = peer.fileno() if peer is not None else -1
        self._descriptors[client] = descriptor
        if descriptor >= 0:
            self._watched[descriptor] = client
            self._poll.register(descriptor, select.EPOLLRDHUP | select.EPOLLET)

    def ignore(self, client: ClientConnection) -> bool:
        """Stop watching a client; False when it was not watched."""
        descriptor = self._descriptors.pop(client, None)
        if descriptor is None:
            return False
        if self._watched.pop(descriptor, None) is not None:
            try:
                self._poll.unregister(descriptor)
            except (OSError, ValueError):
                return True  # the descriptor was closed first
        return True

    def _look(self) -> None:
        for descriptor, _ in self._poll.poll(0):
            client = self._watched.get(descriptor)
            if client is not None:
                client.departed()


class Plane:
    """See the module's text.

    Args:
        dispatcher: Gives slots.
        keys: Who may call what.
        control: Makes the control API's protocol.
        clock: Loop time.
        ids: Request ids.
        body_bytes_max: Longest request body that is forwarded.
        domain: Under which endpoints have host names; empty for none.
        log_share: Of the requests that ended well, how many get a `request.finished` line; None for no lines.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        keys: KeyRing,
        control: Callable[[], asyncio.BaseProtocol],
        clock: Clock,
        ids: IdSource,
        body_bytes_max: int,
        log_share: float | None,
        domain: str = "",
    ) -> None:
        self.dispatcher = dispatcher
        self.keys = keys
        self.local_keys: KeyRing = LocalKeys(keys)
        self.administrators = administrators()
        self.pools = Pools()
        self.control = MemoryPool(control)
        self.request_heads = RequestHeads(domain)
        self.response_heads = ResponseHeads()
        self.now_s = clock.now_s
        self.body_bytes_max = body_bytes_max
        self.clients: set[ClientConnection] = set()
        self.departures = Departures()
        self.exchanges = 0
        self.stopping = False
        self.tls = False
        self.statuses: dict[int, int] = {}
        """Answers by status code; 499 counts clients that left before one."""
        self.no_peer = answers.peer_of(None, tls=False)
        self._peers: dict[object, answers.Peer] = {}
        self.new_request_id: Callable[[], str] = partial(ids.new_id, "req")
        self.access_log = AccessLog(log_share) if log_share is not None else None
        self._drained: list[asyncio.Future[None]] = []

    def peer_of(self, peername: object) -> answers.Peer:
        """Describe a client; the same address is described once."""
        address = peername[0] if isinstance(peername, tuple) and peername else None
        peer = self._peers.get(address)
        if peer is None:
            if len(self._peers) > 1024:
                self._peers.clear()
            peer = self._peers[address] = answers.peer_of(peername, tls=self.tls and address is not None)
        return peer

    def exchange_ended(self) -> None:
        """One request fewer is under way."""
        self.exchanges -= 1
        if not self.exchanges:
            self.all_ended()

    def all_ended(self) -> None:
        """No request is under way: tell who waited for that."""
        if self._drained:
            for future in self._drained:
                if not future.done():
                    future.set_result(None)
            self._drained.clear()

    async def drained(self) -> None:
        """Wait until no request is under way."""
        while self.exchanges:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(future)
            await future

    def note_request(self, exchange: Exchange, status: int) -> None:
        """Count an answer, and keep what its log line says."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if self.access_log is not None:
            head, route = exchange.head, exchange.route
            self.access_log.note(
                Line(
                    exchange.request_id,
                    head.method,
                    head.target,
                    status,
                    route.endpoint if route is not None else None,
                    exchange.began_s,
                    self.now_s(),
                    exchange.upload.total,
                )
            )

    def sweep(self, now_s: float) -> None:
        """Do what is done once a second, for every connection in turn."""
        for client in list(self.clients):
            sweep(client, self, now_s)
        self.pools.sweep(now_s)
        self.control.sweep(now_s)

    def reset(self, transport: asyncio.Transport) -> None:
        """Close a connection with a reset, which no reader takes for a normal end."""
        peer = transport.get_extra_info("socket")
        if peer is not None:
            with contextlib.suppress(OSError):  # it may be closed already
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

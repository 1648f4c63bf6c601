"""Keeps connections to workers for the next request, and opens new ones."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Protocol

from gpud.gateway.memory import MemoryTransport, join
from gpud.gateway.worker_side import WorkerConnection

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_MAX = 1024
"""Idle connections kept for one worker. When hundreds of answers end in one turn of the loop, as many rest
for a moment; a limit below that opens a connection for each third request. Unused ones go after a while."""
IDLE_S_MAX = 30.0
"""How long an idle connection is kept."""
CONNECT_TIMEOUT_S = 5.0
"""Longest wait for a worker to take a connection."""
_CHECKED_IDLE_S = 0.25


class Opener(Protocol):
    """Whoever needs a connection; told exactly one of the two, unless it cancels."""

    def connected(self, connection: WorkerConnection) -> None:
        """A connection is there."""
        ...

    def connect_failed(self, detail: str) -> None:
        """The worker took none."""
        ...


class Pool:
    """Idle connections to one upstream.

    Args:
        address: Of the worker.
        port: Of the worker.
    """

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self.retired = False
        """Nobody takes from it any more, so it keeps nothing."""
        self._idle: dict[WorkerConnection, None] = {}  # the one used last is the last
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def empty(self) -> bool:
        """Nothing is kept or being opened."""
        return not self._idle and not self._opening

    def take(self, now_s: float) -> WorkerConnection | None:
        """Take the connection that was used last, or None; ones the worker has closed are dropped."""
        while self._idle:
            connection = self._idle.popitem()[0]
            if not connection.closed and not (
                now_s - connection.idle_since_s > _CHECKED_IDLE_S and _has_input(connection)
            ):
                return connection
            connection.abort()
        return None

    def give(self, connection: WorkerConnection, now_s: float) -> None:
        """Keep a connection for the next request."""
        if connection.closed:
            return
        if self.retired or len(self._idle) >= IDLE_MAX:
            connection.abort()
            return
        connection.idle_since_s = now_s
        self._idle[connection] = None

    def forget(self, connection: WorkerConnection) -> None:
        """An idle connection was closed by the worker."""
        self._idle.pop(connection, None)

    def open(self, opener: Opener) -> asyncio.Task[None]:
        """Open a connection; cancelling the task gives it up."""
        task = asyncio.get_running_loop().create_task(self._open(opener))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    async def _open(self, opener: Opener) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: WorkerConnection(self), self._address, self._port
                )
        except TimeoutError:
            opener.connect_failed(f"took no connection within {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            opener.connect_failed(f"took no connection: {error.strerror or error}")
        else:
            opener.connected(connection)

    def sweep(self, now_s: float) -> None:
        """Close what was idle for long."""
        for connection in list(self._idle):
            if now_s - connection.idle_since_s <= IDLE_S_MAX:
                return  # those after it rested later
            del self._idle[connection]
            connection.abort()

    def close(self) -> None:
        """Close everything."""
        for task in list(self._opening):
            task.cancel()
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        self.retired = True


class MemoryPool(Pool):
    """Connections to a server protocol in this process.

    Args:
        factory: Makes the server's protocol, one for each connection.
    """

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        super().__init__("memory", 0)
        self._factory = factory

    def connect(self, peername: object, now_s: float) -> WorkerConnection:
        """Take a connection at once; the server sees `peername` as its peer."""
        connection = self.take(now_s)
        if connection is None:
            connection = WorkerConnection(self)
            join(connection, self._factory, peername)
        elif isinstance(connection.transport, MemoryTransport):
            connection.transport.tell_peername(peername)
        return connection

    def take(self, now_s: float) -> WorkerConnection | None:  # noqa: ARG002 - as its base
        """Take the connection that was used last, or None."""
        while self._idle:
            connection = self._idle.popitem()[0]
            if not connection.closed:
                return connection
        return None


class Pools:
    """A pool for each worker's address."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, int], Pool] = {}

    def of(self, address: str, port: int) -> Pool:
        """The pool of one worker, made on first use."""
        pool = self._pools.get((address, port))
        if pool is None:
            pool = self._pools[address, port] = Pool(address, port)
        return pool

    def sweep(self, now_s: float) -> None:
        """Close what was idle for long, and forget pools without connections."""
        for key, pool in list(self._pools.items()):
            pool.sweep(now_s)
            if pool.empty:
                pool.retired = True  # a connection of it may still be in use
                del self._pools[key]

    def close(self) -> None:
        """Close everything."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


def _has_input(connection: WorkerConnection) -> bool:
    """Whether an idle connection has something to read, which can only be its end."""
    descriptor = connection.descriptor
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))

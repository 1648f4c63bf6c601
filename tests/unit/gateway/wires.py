"""A gateway's plane without sockets: transports that remember what was written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from gpud.core.ids import EndpointName, WorkerId
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.gateway.client_side import ClientConnection
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.plane import Plane
from gpud.gateway.pool import Pool
from gpud.gateway.worker_side import WorkerConnection
from tests.contract.gateway.rig import CountingIds, OneKey

if TYPE_CHECKING:
    from typing import Any

    from gpud.gateway.pool import Opener

WORKER = RouteWorker(worker_id=WorkerId("wk_0000000000000001"), address="10.0.0.1", port=80)
REMOTE = ("198.51.100.7", 4242)


class StandingClock:
    """Stands still unless told."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s

    def at_ms(self) -> int:
        return 0

    def wall_ns(self) -> int:
        return 0

    def boot_ns(self) -> int:
        return 0


class Wire(asyncio.Transport):
    """Remembers what was written and asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False
        self.closed = False
        self.aborted = False
        self.reading = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return REMOTE if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not (self.closed or self.aborted or self.ended):
            self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is None

    def taken(self) -> bytes:
        written, self.written = self.written, b""
        return written


class WiredPool(Pool):
    """Opens connections at once, over wires the test holds."""

    def __init__(self) -> None:
        super().__init__("10.0.0.1", 80)
        self.connections: list[WorkerConnection] = []
        self.wires: list[Wire] = []

    def open(self, opener: Opener) -> asyncio.Task[None]:
        connection, wire = WorkerConnection(self), Wire()
        connection.connection_made(wire)
        self.connections.append(connection)
        self.wires.append(wire)
        opener.connected(connection)
        return cast("asyncio.Task[None]", None)  # nothing is left to cancel


class Bench:
    """One client connection and its worker, driven by hand; needs a running loop."""

    def __init__(self, *, concurrency: int = 8, ready: bool = True, body_bytes_max: int = 1 << 30) -> None:
        self.clock = StandingClock()
        self.dispatcher = Dispatcher(self.clock)
        self.plane = Plane(
            dispatcher=self.dispatcher,
            keys=OneKey(),
            control=asyncio.Protocol,
            clock=self.clock,
            ids=CountingIds(),
            body_bytes_max=body_bytes_max,
            log_share=None,
        )
        self.pool = WiredPool()
        self.plane.pools._pools["10.0.0.1", 80] = self.pool
        self.concurrency = concurrency
        self.publish(ready=ready)
        self.client, self.wire = self.connect()

    def publish(self, *, ready: bool, **changes: Any) -> None:
        name = EndpointName("llm")
        route = Route(
            endpoint=name,
            concurrency=self.concurrency,
            max_queue=10,
            hold_timeout_s=30,
            request_timeout_s=600,
            public=True,
            workers=(WORKER,) if ready else (),
        )
        route = replace(route, **changes)
        self.dispatcher.publish(RoutingTable({name: route}, {"gpt": name}))

    def connect(self) -> tuple[ClientConnection, Wire]:
        client, wire = ClientConnection(self.plane), Wire()
        client.connection_made(wire)
        return client, wire

    @property
    def worker(self) -> WorkerConnection:
        return self.pool.connections[-1]

    @property
    def worker_wire(self) -> Wire:
        return self.pool.wires[-1]

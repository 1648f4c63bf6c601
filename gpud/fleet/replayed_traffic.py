"""Counts the requests of a replay as the gateway counts those of its clients."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.ports.traffic import EndpointLoad

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.routing import RoutingTable


@dataclass(frozen=True, slots=True)
class ReplayedRequest:
    """A request of the record.

    Args:
        at_s: Loop time of its arrival.
        service_s: How long it was at its worker.
    """

    at_s: float
    service_s: float


class ReplayedTraffic:
    """What the gateway would have counted; implements the part of `Traffic` that the fleet's state reads."""

    def __init__(self) -> None:
        self.queue: deque[ReplayedRequest] = deque()
        self.by_worker: dict[WorkerId, int] = {}
        self.in_flight = 0
        self.now_s = 0.0
        self._peak = 0
        self._arrivals = 0
        self._last_busy_s = 0.0
        self._exchanges: list[tuple[float, float, float]] = []

    @property
    def load(self) -> int:
        """Waiting plus in flight."""
        return len(self.queue) + self.in_flight

    def arrived(self) -> bool:
        """Count an arrival; True when the load reached a new peak."""
        self._arrivals += 1
        if self.load > self._peak:
            self._peak = self.load
            return True
        return False

    def ended(self, request: ReplayedRequest, since_s: float) -> None:
        """Count an end; a dispatch at minus one is none."""
        self._exchanges.append((request.at_s, since_s, self.now_s))
        if not self.load:
            self._last_busy_s = self.now_s

    def publish(self, table: RoutingTable) -> None:
        """Nobody routes here."""

    def take_load(self, endpoint: EndpointName) -> EndpointLoad:  # noqa: ARG002 - there is one
        """What came since the last look."""
        load, now_s = self.load, self.now_s
        self._last_busy_s = now_s if load else self._last_busy_s
        taken = EndpointLoad(
            waiting=len(self.queue),
            in_flight=self.in_flight,
            peak=max(self._peak, load),
            oldest_wait_s=now_s - self.queue[0].at_s if self.queue else 0.0,
            last_busy_s=self._last_busy_s,
            arrivals=self._arrivals,
            exchanges=tuple(self._exchanges),
        )
        self._peak, self._arrivals = load, 0
        self._exchanges.clear()
        return taken

    def worker_in_flight(self, worker_id: WorkerId) -> int:
        """Requests at a worker."""
        return self.by_worker.get(worker_id, 0)

    def take_shares(self, worker_id: WorkerId) -> dict[str, float]:  # noqa: ARG002 - the port's
        """Nobody's: what is replayed has no keys."""
        return {}

"""Counts load per endpoint and worker, and tells the fleet when it changes in a way that matters."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gpud.gateway.sharing import Desks
from gpud.ports.traffic import EndpointLoad

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, WorkerId
    from gpud.gateway.sharing import Desk
    from gpud.ports.time import Clock
    from gpud.ports.traffic import TrafficWatcher


_EXCHANGES_MAX = 16_384
"""Between two looks of the fleet, which are a second apart under load; of more the newest are kept."""
NO_DISPATCH = -1.0


class NobodyWatches:
    """Stands in until a watcher is set, and in tests that need none."""

    def load_changed(self) -> None:
        """Ignore."""

    def worker_busy(self, worker_id: WorkerId) -> None:
        """Ignore."""

    def worker_idle(self, worker_id: WorkerId) -> None:
        """Ignore."""

    def worker_unreachable(self, worker_id: WorkerId, detail: str) -> None:
        """Ignore."""

    def worker_worn_out(self, worker_id: WorkerId, detail: str) -> None:
        """Ignore."""

    def start_answered(self, worker_id: WorkerId, first_byte_s: float) -> None:
        """Ignore."""


class EndpointCount:
    """Load of one endpoint."""

    __slots__ = ("answers", "arrivals", "exchanges", "in_flight", "last_busy_s", "peak", "waiting")

    def __init__(self, now_s: float) -> None:
        self.waiting = 0
        self.in_flight = 0
        self.peak = 0
        self.last_busy_s = now_s
        self.arrivals = 0
        self.exchanges: deque[tuple[float, float, float]] = deque(maxlen=_EXCHANGES_MAX)
        self.answers: dict[WorkerId, list[int]] = {}

    @property
    def at_rest(self) -> bool:
        """Nothing is under way, and nothing was since it was last taken."""
        return not (
            self.in_flight or self.waiting or self.peak or self.arrivals or self.exchanges or self.answers
        )

    def answered(self, worker_id: WorkerId, *, failed: bool) -> None:
        """A worker answered, or broke off."""
        tally = self.answers.get(worker_id)
        if tally is None:
            tally = self.answers[worker_id] = [0, 0]
        tally[0] += 1
        tally[1] += failed


class LoadBook:
    """Every count the gateway keeps. All methods are synchronous and run on the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._endpoints: dict[EndpointName, EndpointCount] = {}
        self.by_worker: dict[WorkerId, int] = {}
        """Requests at each worker that has any."""
        self._desks = Desks()
        self.watcher: TrafficWatcher = NobodyWatches()

    def endpoint(self, name: EndpointName) -> EndpointCount:
        """The counts of an endpoint, made on first use."""
        count = self._endpoints.get(name)
        if count is None:
            count = self._endpoints[name] = EndpointCount(self._clock.now_s())
        return count

    def forget(self, name: EndpointName) -> None:
        """Drop an endpoint's counts, unless requests of it are still running."""
        count = self._endpoints.get(name)
        if count is not None and not count.waiting and not count.in_flight:
            del self._endpoints[name]

    def held(self, count: EndpointCount) -> None:
        """A request began to wait."""
        count.waiting += 1
        count.arrivals += 1
        self._note_peak(count)
        self.watcher.load_changed()

    def unheld(self, count: EndpointCount, now_s: float, *, since_s: float) -> None:
        """A request stopped waiting, since `since_s`, without reaching a worker."""
        count.waiting -= 1
        count.exchanges.append((since_s, NO_DISPATCH, now_s))
        self._note_end(count, now_s)

    def dispatched(
        self, count: EndpointCount, worker_id: WorkerId, key: str, now_s: float, *, was_held: bool
    ) -> float:
        """A slot of a worker was taken for a key; returns where the worker's clock stands."""
        count.in_flight += 1
        if was_held:
            count.waiting -= 1
        else:
            count.arrivals += 1
            if count.waiting + count.in_flight > count.peak:
                self._note_peak(count)
                self.watcher.load_changed()
        return self._enter(worker_id, key, now_s)

    def job_began(self, count: EndpointCount, worker_id: WorkerId, key: str, now_s: float) -> float:
        """A job took a slot of a worker; it was load before, and is counted as such by its queue."""
        count.in_flight += 1
        return self._enter(worker_id, key, now_s)

    def _enter(self, worker_id: WorkerId, key: str, now_s: float) -> float:
        at_worker = self.by_worker.get(worker_id, 0)
        self.by_worker[worker_id] = at_worker + 1
        began_s = self._desks.of(worker_id, now_s, at_worker).enter(key)
        if at_worker == 0:
            self.watcher.worker_busy(worker_id)
        return began_s

    def desk(self, worker_id: WorkerId, now_s: float) -> Desk:
        """The clock of a worker that has a request, moved to now."""
        return self._desks.of(worker_id, now_s, self.by_worker.get(worker_id, 0))

    def take_shares(self, worker_id: WorkerId, now_s: float) -> dict[str, float]:
        """What each key had of a worker's time since this was last asked, in seconds."""
        return self._desks.take(worker_id, now_s, self.by_worker.get(worker_id, 0))

    def released(self, count: EndpointCount, worker_id: WorkerId, key: str, now_s: float) -> None:
        """A slot of a worker that a key had was given back."""
        count.in_flight -= 1
        at_worker = self.by_worker[worker_id] - 1
        self._desks.of(worker_id, now_s, at_worker + 1).leave(key)
        if at_worker:
            self.by_worker[worker_id] = at_worker
        else:
            del self.by_worker[worker_id]
            self.watcher.worker_idle(worker_id)
        if not count.in_flight:
            self._note_end(count, now_s)

    def take(self, name: EndpointName, oldest_wait_s: float) -> EndpointLoad:
        """Read an endpoint's load and start a new peak."""
        count = self._endpoints.get(name)
        if count is None:
            return EndpointLoad()
        total = count.waiting + count.in_flight
        if total:
            count.last_busy_s = self._clock.now_s()
        load = EndpointLoad(
            waiting=count.waiting,
            in_flight=count.in_flight,
            peak=max(count.peak, total),
            oldest_wait_s=oldest_wait_s,
            last_busy_s=count.last_busy_s,
            arrivals=count.arrivals,
            exchanges=tuple(count.exchanges),
            answers=tuple((worker_id, all_, bad) for worker_id, (all_, bad) in count.answers.items()),
        )
        count.peak = total
        count.arrivals = 0
        count.exchanges.clear()
        count.answers.clear()
        return load

    def _note_peak(self, count: EndpointCount) -> None:
        count.peak = max(count.peak, count.waiting + count.in_flight)

    def _note_end(self, count: EndpointCount, now_s: float) -> None:
        if count.waiting + count.in_flight == 0:
            count.last_busy_s = now_s
            self.watcher.load_changed()

"""Shows the fleet jobs as load: what waits, beside what requests the gateway holds.

Jobs that run occupy slots or places, so the gateway counts them already. Jobs of low priority wait without
being load.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.routing import RoutingTable
    from gpud.jobs.queue import JobQueue
    from gpud.ports.time import Clock
    from gpud.ports.traffic import EndpointLoad, Traffic


class LoadWithJobs:
    """The gateway's load and the queue's in one (port `Traffic`).

    Args:
        requests: The gateway.
        queue: The jobs.
        clock: Loop time.
        published: Called after each change of the routing table.
    """

    def __init__(
        self,
        requests: Traffic,
        queue: JobQueue,
        clock: Clock,
        *,
        published: Callable[[], None] = lambda: None,
    ) -> None:
        self._requests = requests
        self._queue = queue
        self._clock = clock
        self._published = published

    def publish(self, table: RoutingTable) -> None:
        """Swap the routing table."""
        self._requests.publish(table)
        self._published()

    def worker_in_flight(self, worker_id: WorkerId) -> int:
        """Requests and jobs at one worker now."""
        return self._requests.worker_in_flight(worker_id)

    def take_shares(self, worker_id: WorkerId) -> Mapping[str, float]:
        """What each key had of a worker's time since this was last asked, in seconds."""
        return self._requests.take_shares(worker_id)

    def take_load(self, endpoint: EndpointName) -> EndpointLoad:
        """Load of an endpoint; resets its peak."""
        load = self._requests.take_load(endpoint)
        lane = self._queue.peek(endpoint)
        if lane is None or not (lane.counted or lane.peak or lane.arrivals):
            return load
        # Jobs that wait for a retry are not work that could be done now.
        later = len(lane.scheduled)
        waiting = max(0, lane.counted - later)
        peak, lane.peak = max(lane.peak - later, waiting), lane.counted
        arrivals, lane.arrivals = lane.arrivals, 0
        first = lane.ready.first
        oldest_s = 0.0
        if waiting and first is not None:
            oldest_s = max(0.0, (self._queue.now_ms() - first.available_at_ms) / 1000)
        return replace(
            load,
            waiting=load.waiting + waiting,
            jobs=waiting,
            peak=max(load.peak + waiting, peak + load.in_flight),
            oldest_wait_s=max(load.oldest_wait_s, oldest_s),
            last_busy_s=self._clock.now_s() if waiting else load.last_busy_s,
            arrivals=load.arrivals + arrivals,
        )

"""Gives each request a slot of a worker, now or later, or says why not.

The `Dispatcher` is the gateway as the fleet sees it (`ports.traffic.Traffic`) and the one owner of
the routing table, the held requests and the counts. It knows nothing of HTTP or sockets, and every
method is synchronous on the event loop, so that no two decisions interleave.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core import ejection
from gpud.core.admission import Admission, admit, giving_way
from gpud.core.routing import RoutingTable
from gpud.errors import NotFound, WorkerUnreachable
from gpud.gateway import refusals
from gpud.gateway.hold import Held, HoldState, Waiter
from gpud.gateway.inflight import LoadBook
from gpud.gateway.lane import RETRY_BUDGET, Lane, QuietSlot, Slot, WholeWorker
from gpud.gateway.places import Place
from gpud.ports.traffic import AT_REST

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.routing import RouteWorker
    from gpud.errors import GpudError
    from gpud.gateway.sharing import Desk
    from gpud.ports.time import Clock
    from gpud.ports.traffic import EndpointLoad, TrafficWatcher
    from gpud.ports.work import JobSlot

_log = structlog.get_logger()
RETRIES_MAX = 2
"""Workers a request may be moved to after it could not reach the one it was given."""
RETRY_EARNED = 0.2
LAST_WORKER_WAIT_S = 5.0
"""How long a request that could reach no worker waits for the fleet to replace it."""
_SERVICE_WEIGHT = 0.05
_WORN_OUT = (
    f"Requests to it failed so often that it was left out {ejection.EJECTIONS_MAX} times within "
    f"{ejection.RECYCLE_WINDOW_S / 60:g} minutes. Its log says why; a fresh worker takes its place."
)


class Dispatcher:
    """Admits, holds, balances and counts; implements `ports.traffic.Traffic`.

    Args:
        clock: `now_s` is the event loop's time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._book = LoadBook(clock)
        self._lanes: dict[EndpointName, Lane] = {}
        self._stopping = False
        self._emptied: list[asyncio.Future[None]] = []
        self._slot_freed: Callable[[EndpointName], None] | None = None
        self.table = RoutingTable()

    def watch(self, watcher: TrafficWatcher) -> None:
        """Set who is told of load; until then nobody is."""
        self._book.watcher = watcher

    def publish(self, table: RoutingTable) -> None:
        """Swap the routing table; held requests are dispatched or refused accordingly."""
        self.table = table
        for name in [name for name in self._lanes if name not in table.routes]:
            lane = self._lanes.pop(name)
            lane.deleted = True
            for held in lane.held:
                self._refuse(lane, held, refusals.deleted(name))
            self._book.forget(name)
        for name, route in table.routes.items():
            known = self._lanes.get(name)
            if known is None:
                self._lanes[name] = Lane(route, self._book.endpoint(name))
                continue
            if known.route is route and not route.workers and not known.count.waiting:
                continue
            if known.route.workers != route.workers:
                now_s = self._clock.now_s()
                known.ready_changed(route, now_s)
                self._eject(known, now_s)
            known.route = route
            self._dispatch_held(known)
            if route.refusal is not None and not route.workers:
                for held in known.held:
                    self._refuse(known, held, refusals.refused(route.refusal))
            if self._slot_freed is not None and route.workers and not known.count.waiting:
                self._slot_freed(name)

    def watch_slots(self, freed: Callable[[EndpointName], None]) -> None:
        """Set who is told, synchronously, of endpoints that may have a slot no request waits for."""
        self._slot_freed = freed

    def take_job_slot(self, endpoint: EndpointName, *, alone: bool) -> JobSlot | None:
        """Reserve a slot for a job, or the whole of an idle worker; None when requests need them."""
        lane = self._lanes.get(endpoint)
        if lane is None or lane.held or self._stopping:
            return None
        worker = lane.pick(self._book.by_worker, frozenset(self._book.by_worker if alone else ()))
        if worker is None:
            return None
        now_s = self._clock.now_s()
        slots = []
        for _ in range(lane.route.concurrency if alone else 1):
            began_s = self._book.job_began(lane.count, worker.worker_id, "", now_s)
            slots.append(Slot(self, lane, worker, now_s, arrived_s=now_s, began_s=began_s))
        return slots[0] if not alone else WholeWorker(slots)

    def take_place(self, endpoint: EndpointName, worker_id: WorkerId) -> Place | None:
        """Count one more job at a worker that fetches them; None unless the worker is in rotation."""
        lane = self._lanes.get(endpoint)
        if lane is None or self._stopping or all(w.worker_id != worker_id for w in lane.route.workers):
            return None
        return self.count_job(endpoint, worker_id)

    def count_job(self, endpoint: EndpointName, worker_id: WorkerId) -> Place:
        """Count a job that a worker has already, in whatever state it is."""
        return Place(self._book, endpoint, worker_id, self._clock, self._place_freed)

    def desk(self, worker_id: WorkerId) -> Desk:
        """The clock of a worker that has a request."""
        return self._book.desk(worker_id, self._clock.now_s())

    def take_shares(self, worker_id: WorkerId) -> dict[str, float]:
        """What each key had of a worker's time since this was last asked, in seconds."""
        return self._book.take_shares(worker_id, self._clock.now_s())

    def _place_freed(self, endpoint: EndpointName) -> None:
        if endpoint not in self._lanes:
            self._book.forget(endpoint)
        if self._slot_freed is not None:
            self._slot_freed(endpoint)
        self._tell_if_empty()

    def take_load(self, endpoint: EndpointName) -> EndpointLoad:
        """Load of an endpoint; resets its peak."""
        lane = self._lanes.get(endpoint)
        if lane is not None and lane.count.at_rest:
            return AT_REST
        first = lane.held.first if lane is not None else None
        oldest_wait_s = self._clock.now_s() - first.since_s if first is not None else 0.0
        return self._book.take(endpoint, oldest_wait_s)

    def worker_in_flight(self, worker_id: WorkerId) -> int:
        """Requests at one worker now, drained and removed workers included."""
        return self._book.by_worker.get(worker_id, 0)

    async def drained(self) -> None:
        """Wait until no request is at any worker."""
        while self._book.by_worker:
            emptied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._emptied.append(emptied)
            await emptied

    def total_in_flight(self) -> int:
        """Requests at all workers now."""
        return sum(self._book.by_worker.values())

    def stop(self) -> None:
        """Refuse who waits and who comes from now on; running requests are left alone."""
        self._stopping = True
        for lane in self._lanes.values():
            for held in lane.held:
                self._refuse(lane, held, refusals.stopping())

    def acquire_nowait(
        self,
        endpoint: EndpointName,
        waiter: Waiter,
        affinity: bytes = b"",
        now_s: float | None = None,
        key: str = "",
    ) -> Slot | Held:
        """Take a slot, or join those who wait for one.

        Args:
            endpoint: Whose worker.
            waiter: Told when the hold ends; not called for a slot that is returned.
            affinity: Session of the request; empty for none.
            now_s: Loop time, if the caller has just read it.
            key: On whose account it runs.

        Raises:
            NotFound: No such endpoint.
            QueueFull: As many wait as may.
            StartFailed: Or what else the endpoint's refusal says.
            Unavailable: gpud is stopping.
        """
        lane = self._lanes.get(endpoint)
        if lane is None:
            raise NotFound(f"There is no endpoint named {endpoint}. `gpud endpoint ls` lists them.")
        if self._stopping:
            raise refusals.stopping()
        if lane.route.jobs_only:
            raise refusals.jobs_only(endpoint)
        if lane.retry_budget < RETRY_BUDGET:
            lane.retry_budget += RETRY_EARNED
        worker = None if lane.count.waiting else lane.pick(self._book.by_worker, (), affinity)
        now_s = self._clock.now_s() if now_s is None else now_s
        if worker is not None:  # nobody waits and there is room: what `admit` calls PASS
            return self._take(lane, worker, now_s, now_s, key=key)
        if self.table.keys_spent:
            refusals.require_budget(self.table, key, now_s)
        match admit(lane.route, waiting=len(lane.held), free_slot=False):
            case Admission.REFUSE if lane.route.refusal is not None:
                raise refusals.refused(lane.route.refusal)
            case Admission.QUEUE_FULL:
                self._make_room(lane, waiter.party)
            case _:
                pass
        cold = not lane.route.workers
        held = Held(waiter, now_s, cold=cold, affinity=affinity, key=key)
        lane.held.append(held)
        held.timer = self._timer(lane, held, lane.route.hold_timeout_s)
        self._book.held(lane.count)
        return held

    def acquire_quietly(self, endpoint: EndpointName, *, now_s: float) -> Slot | None:
        """Choose a ready worker for a request that is no load; None when there is none.

        It takes no slot and joins no queue: the fleet does not see it, and a worker that drains does not
        wait for it.
        """
        lane = self._lanes.get(endpoint)
        worker = lane.pick({}) if lane is not None and not self._stopping else None
        return QuietSlot(self, lane, worker, now_s, arrived_s=now_s) if lane and worker else None

    def _take(
        self,
        lane: Lane,
        worker: RouteWorker,
        now_s: float,
        arrived_s: float,
        *,
        key: str,
        held: Held | None = None,
        tried: frozenset[WorkerId] = frozenset(),
    ) -> Slot:
        cold, tried = (False, tried) if held is None else (held.cold, held.tried)
        began_s = self._book.dispatched(lane.count, worker.worker_id, key, now_s, was_held=held is not None)
        return Slot(
            self, lane, worker, now_s, arrived_s=arrived_s, cold=cold, tried=tried, key=key, began_s=began_s
        )

    def _make_room(self, lane: Lane, party: str) -> None:
        """Refuse the newest request of whoever holds most of a full queue, or the newcomer."""
        waiting = len(lane.held)
        greedy = giving_way(lane.held.parties, party, lane.route.max_queue)
        newest = lane.held.newest_of(greedy) if greedy is not None else None
        if newest is None:
            raise refusals.queue_full(lane.route, waiting, lane.service_s)
        self._refuse(lane, newest, refusals.gave_way(lane.route, waiting, lane.service_s))

    def abandon(self, endpoint: EndpointName, held: Held) -> None:
        """The client of a held request has left: it is never dispatched. Safe to repeat."""
        lane = self._lanes.get(endpoint)
        if lane is not None and held.swap(HoldState.ABANDONED):
            lane.held.remove(held)
            self._book.unheld(lane.count, self._clock.now_s(), since_s=held.since_s)

    def retry(
        self,
        lane: Lane,
        worker: RouteWorker,
        waiter: Waiter,
        detail: str,
        *,
        tried: frozenset[WorkerId],
        arrived_s: float,
        key: str,
    ) -> Slot | Held:
        """Move a request whose worker could not be reached; see `Slot.unreachable`."""
        self._book.watcher.worker_unreachable(worker.worker_id, detail)
        costs = float(not tried.issuperset(lane.rotation.ids))  # nobody else, nobody burdened
        if len(tried) > RETRIES_MAX or lane.retry_budget < costs or self._stopping:
            text = refusals.unreachable_text(lane.name, detail)
            raise WorkerUnreachable(text, extra={"worker": worker.worker_id})
        if lane.deleted:
            raise refusals.deleted(lane.name)
        lane.retry_budget -= costs
        other = lane.pick(self._book.by_worker, tried)
        if other is not None:
            return self._take(lane, other, self._clock.now_s(), arrived_s, key=key, tried=tried)
        held = Held(waiter, arrived_s, cold=False, tried=tried, key=key)
        lane.held.put_back(held)
        held.timer = self._timer(lane, held, min(LAST_WORKER_WAIT_S, lane.route.hold_timeout_s))
        self._book.held(lane.count)
        return held

    def worker_judged(self, lane: Lane, worker_id: WorkerId, now_s: float, *, failed: bool) -> None:
        """A request went well or not: leave a worker out while too many in a row have not."""
        standing = lane.standings.get(worker_id, ejection.GOOD)
        after = ejection.after_failure if failed else ejection.after_success
        lane.standings[worker_id] = standing = after(standing, now_s)
        if standing == ejection.GOOD:
            del lane.standings[worker_id]
        if standing.ejected_until_s > now_s:
            self._eject(lane, now_s)
            asyncio.get_running_loop().call_later(
                standing.ejected_until_s - now_s, self._ejection_ended, lane
            )

    def _eject(self, lane: Lane, now_s: float) -> None:
        before, lane.ejected = lane.ejected, ejection.ejected(lane.standings, lane.rotation.ids, now_s)
        for worker_id in lane.ejected - before:
            _log.warning("worker.ejected", endpoint=lane.name, worker_id=worker_id)
            if lane.ejected_again(worker_id, now_s):
                self._book.watcher.worker_worn_out(worker_id, _WORN_OUT)

    def _ejection_ended(self, lane: Lane) -> None:
        self._eject(lane, self._clock.now_s())
        self._dispatch_held(lane)

    def worker_failed(self, worker_id: WorkerId, detail: str) -> None:
        """A worker broke a connection before answering; the fleet looks at it."""
        self._book.watcher.worker_unreachable(worker_id, detail)

    def start_answered(self, worker_id: WorkerId, first_byte_s: float) -> None:
        """The first request that waited for a worker's start is being answered."""
        self._book.watcher.start_answered(worker_id, first_byte_s)

    def slot_released(self, lane: Lane, slot: Slot, now_s: float | None, *, arrived_s: float | None) -> None:
        """A slot came back; whoever waits longest gets it.

        Args:
            lane: Of the endpoint.
            slot: Which one.
            now_s: Loop time, if the caller has just read it.
            arrived_s: Loop time at which the request came; None when it goes on elsewhere.
        """
        now_s = self._clock.now_s() if now_s is None else now_s
        if arrived_s is not None:
            lane.service_s += _SERVICE_WEIGHT * (now_s - slot.since_s - lane.service_s)
            lane.count.exchanges.append((arrived_s, slot.since_s, now_s))
        self._book.released(lane.count, slot.worker.worker_id, slot.key, now_s)
        if lane.count.waiting:
            self._dispatch_held(lane)
        elif self._slot_freed is not None:
            self._slot_freed(lane.name)
        if lane.deleted:
            self._book.forget(lane.name)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self._emptied and not self._book.by_worker:
            for emptied in self._emptied:
                if not emptied.done():
                    emptied.set_result(None)
            self._emptied.clear()

    def _dispatch_held(self, lane: Lane) -> None:
        """Hand free slots to waiting requests, longest wait first.

        A waiter may release its slot, or hold another request, while it is told; that only
        leaves more for the loop to do, so an inner call returns and the outer one goes on.
        """
        if lane.dispatching:
            return
        lane.dispatching = True
        try:
            while (found := lane.next_pair(self._book.by_worker)) is not None:
                held, worker = found
                lane.held.remove(held)
                if not held.swap(HoldState.DISPATCHED):
                    continue
                now_s = self._clock.now_s()
                held.waiter.granted(self._take(lane, worker, now_s, held.since_s, key=held.key, held=held))
        finally:
            lane.dispatching = False

    def _refuse(self, lane: Lane, held: Held, error: GpudError) -> None:
        if held.swap(HoldState.REFUSED):
            lane.held.remove(held)
            self._book.unheld(lane.count, self._clock.now_s(), since_s=held.since_s)
            held.waiter.refused(error)

    def _timer(self, lane: Lane, held: Held, after_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(after_s, self._hold_ended, lane, held)

    def _hold_ended(self, lane: Lane, held: Held) -> None:
        held.timer = None
        route = lane.route
        waited_s = self._clock.now_s() - held.since_s
        ready = {worker.worker_id for worker in route.workers}
        left_s = route.hold_timeout_s - waited_s
        if held.tried and not (held.tried & ready) and left_s > 0:
            held.timer = self._timer(lane, held, left_s)  # the fleet replaces them: wait like anyone
            return
        if held.tried & ready:
            self._refuse(lane, held, refusals.none_reached(lane.name, LAST_WORKER_WAIT_S))
            return
        self._refuse(lane, held, refusals.hold_ended(route, waited_s, len(lane.held), lane.service_s))

"""What the dispatcher keeps for each endpoint, and the place at a worker it hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core import ejection
from gpud.core.balancing import Rotation, pick
from gpud.errors import WorkerUnreachable
from gpud.gateway.hold import HoldQueue

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gpud.core.ejection import Standing
    from gpud.core.ids import WorkerId
    from gpud.core.routing import Route, RouteWorker
    from gpud.gateway.dispatch import Dispatcher
    from gpud.gateway.hold import Held, Waiter
    from gpud.gateway.inflight import EndpointCount

RETRY_BUDGET = 10.0
"""Retries an endpoint may spend at once; each request earns a fifth of one."""
_FIRST_SERVICE_S = 10.0
_APP_ERROR = 500


class Slot:
    """A reserved place at a worker: counted from its making until `release`.

    Args:
        lane: The endpoint.
        worker: Where to connect.
        cold: The request was held and no worker was ready when it came.
        queue_s: How long it was held.
        since_s: Loop time at which it was reserved.
        key: On whose account it is: an API key's id, or a word for who needs none.
    """

    __slots__ = (
        "_began_s",
        "_dispatcher",
        "_held_since_s",
        "_lane",
        "_tried",
        "cold",
        "key",
        "queue_s",
        "since_s",
        "worker",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        lane: Lane,
        worker: RouteWorker,
        now_s: float,
        *,
        arrived_s: float,
        cold: bool = False,
        tried: frozenset[WorkerId] = frozenset(),
        key: str = "",
        began_s: float = 0.0,
    ) -> None:
        self._dispatcher = dispatcher
        self.key = key
        self._began_s = began_s
        self._lane: Lane | None = lane
        self.since_s = now_s
        self._held_since_s = arrived_s
        self._tried = tried
        self.worker = worker
        self.cold = cold
        self.queue_s = now_s - arrived_s

    def release(self, now_s: float | None = None) -> None:
        """Give the place back; safe to repeat. `now_s` is loop time, if the caller has just read it."""
        lane, self._lane = self._lane, None
        if lane is not None:
            arrived_s = self._held_since_s
            self._dispatcher.slot_released(lane, self, now_s, arrived_s=arrived_s)

    def charge(self, key: str) -> None:
        """Have another key pay for it, from its beginning."""
        if self._lane is not None:
            self._dispatcher.desk(self.worker.worker_id).move(self.key, key, self._began_s)
            self.key = key

    def used_s(self) -> float:
        """Its part of the worker's time so far; 0 once it is given back."""
        if self._lane is None:
            return 0.0
        return self._dispatcher.desk(self.worker.worker_id).part_s - self._began_s

    @property
    def first(self) -> bool:
        """The worker has not answered anything yet."""
        return self._lane is not None and self.worker.worker_id in self._lane.unproven

    def judge(self, now_s: float, *, failed: bool, status: int = 0) -> None:
        """Say how the request went as far as the worker is concerned; `status` is of its answer, if any."""
        lane = self._lane
        if lane is None:
            return
        lane.count.answered(self.worker.worker_id, failed=failed or status >= _APP_ERROR)
        if lane.unproven and not failed:
            lane.unproven.discard(self.worker.worker_id)
        if self.cold and status:
            self._dispatcher.start_answered(self.worker.worker_id, now_s - self.since_s)
        if failed or self.worker.worker_id in lane.standings:
            self._dispatcher.worker_judged(lane, self.worker.worker_id, now_s, failed=failed)

    def broke(self, now_s: float, detail: str) -> None:
        """The worker broke the connection before answering; the fleet is told."""
        self.judge(now_s, failed=True)
        self._dispatcher.worker_failed(self.worker.worker_id, detail)

    def unreachable(self, waiter: Waiter, detail: str) -> Slot | Held:
        """Give the place back because nothing reached the worker, and ask for another worker's.

        Returns:
            Another slot, or the hold in which the request waits for one.

        Raises:
            WorkerUnreachable: Tried often enough.
        """
        lane = self._lane
        if lane is None:
            raise WorkerUnreachable(detail)
        self.judge(self.since_s, failed=True)
        self._lane = None
        self._dispatcher.slot_released(lane, self, None, arrived_s=None)
        tried = self._tried | {self.worker.worker_id}
        return self._dispatcher.retry(
            lane, self.worker, waiter, detail, tried=tried, arrived_s=self._held_since_s, key=self.key
        )


class QuietSlot(Slot):
    """A worker for a request that counts as nothing; there is no place to give back."""

    __slots__ = ()

    def release(self, now_s: float | None = None) -> None:
        """Nothing was taken."""

    def judge(self, now_s: float, *, failed: bool, status: int = 0) -> None:
        """How a monitor fares says nothing about the requests of others."""

    def broke(self, now_s: float, detail: str) -> None:
        """The health check finds that out by itself."""

    def unreachable(self, waiter: Waiter, detail: str) -> Slot | Held:  # noqa: ARG002 - as its base
        """It is not tried again.

        Raises:
            WorkerUnreachable: Always.
        """
        raise WorkerUnreachable(f"{detail}.")


def spares_of(route: Route) -> frozenset[WorkerId]:
    """Workers that get a request only when no other has a free slot."""
    return frozenset(worker.worker_id for worker in route.workers if worker.spare)


class WholeWorker:
    """Every slot of one worker, for a job that must run alone (port `JobSlot`).

    Args:
        slots: All of them; at least one.
    """

    __slots__ = ("_slots", "worker")

    def __init__(self, slots: list[Slot]) -> None:
        self._slots = slots
        self.worker = slots[0].worker

    def release(self, now_s: float | None = None) -> None:
        """Give all places back; safe to repeat."""
        for slot in self._slots:
            slot.release(now_s)

    def charge(self, key: str) -> None:
        """Have a key pay for it, from its beginning."""
        for slot in self._slots:
            slot.charge(key)

    def used_s(self) -> float:
        """The worker's time so far."""
        return sum(slot.used_s() for slot in self._slots)

    def judge(self, now_s: float, *, failed: bool) -> None:
        """Say how the job went as far as the worker is concerned."""
        self._slots[0].judge(now_s, failed=failed)

    def broke(self, now_s: float, detail: str) -> None:
        """The worker broke the connection before answering; the fleet is told."""
        self._slots[0].broke(now_s, detail)


class Lane:
    """One endpoint: its route, who waits, and who was chosen last."""

    __slots__ = (
        "count",
        "cursor",
        "deleted",
        "dispatching",
        "ejected",
        "ejected_at_s",
        "held",
        "name",
        "retry_budget",
        "rotation",
        "route",
        "service_s",
        "spares",
        "standings",
        "unproven",
    )

    def __init__(self, route: Route, count: EndpointCount) -> None:
        self.name = route.endpoint
        self.route = route
        self.rotation = Rotation.of(route.workers)
        self.spares = spares_of(route)
        self.held = HoldQueue()
        self.count = count
        self.cursor = ""
        self.deleted = False
        self.service_s = _FIRST_SERVICE_S
        self.retry_budget = RETRY_BUDGET
        self.dispatching = False
        self.standings: dict[WorkerId, Standing] = {}
        self.ejected: frozenset[WorkerId] = frozenset()
        self.ejected_at_s: dict[WorkerId, tuple[float, ...]] = {}
        """When workers were left out lately, those not ready now included."""
        self.unproven: set[WorkerId] = set(self.rotation.ids)
        """Ready workers that have not answered anything yet."""

    def ready_changed(self, route: Route, now_s: float) -> None:
        """Take another set of ready workers."""
        before = set(self.rotation.ids)
        self.rotation, self.spares = Rotation.of(route.workers), spares_of(route)
        ready = set(self.rotation.ids)
        self.unproven = (self.unproven & ready) | (ready - before)
        self.standings = {id_: had for id_, had in self.standings.items() if id_ in ready}
        self.ejected_at_s = {
            id_: lately for id_, had in self.ejected_at_s.items() if (lately := ejection.recent(had, now_s))
        }

    def ejected_again(self, worker_id: WorkerId, now_s: float) -> bool:
        """Note that a worker is left out; True when that has happened too often lately."""
        lately = (*ejection.recent(self.ejected_at_s.get(worker_id, ()), now_s), now_s)
        self.ejected_at_s[worker_id] = lately
        return len(lately) >= ejection.EJECTIONS_MAX

    def pick(
        self,
        in_flight: Mapping[WorkerId, int],
        tried: frozenset[WorkerId] | tuple[()] = (),
        affinity: bytes = b"",
    ) -> RouteWorker | None:
        """Choose a worker with a free slot, and note that it was chosen; None when there is none.

        Args:
            in_flight: Requests at each worker that has any.
            tried: Workers to leave out.
            affinity: Session of the request; empty for none.
        """
        skip = self.ejected.union(tried) if self.ejected else tried
        worker = self._pick_but(in_flight, self.spares.union(skip), affinity) if self.spares else None
        worker = worker or self._pick_but(in_flight, skip, affinity)
        if worker is not None:
            self.cursor = worker.worker_id
        return worker

    def _pick_but(
        self, in_flight: Mapping[WorkerId, int], skip: Collection[WorkerId], affinity: bytes
    ) -> RouteWorker | None:
        return pick(
            self.route.balance,
            self.rotation,
            in_flight=in_flight,
            concurrency=self.route.concurrency,
            cursor=self.cursor,
            skip=skip,
            affinity=affinity,
        )

    def next_pair(self, in_flight: Mapping[WorkerId, int]) -> tuple[Held, RouteWorker] | None:
        """Find who is next and where to; a request is passed over only for workers it has tried."""
        first = self.held.first
        if first is None:
            return None
        worker = self.pick(in_flight, first.tried, first.affinity)
        if worker is not None or not first.tried:
            return (first, worker) if worker is not None else None
        for held in self.held:
            worker = self.pick(in_flight, held.tried, held.affinity)
            if worker is not None:
                return held, worker
            if not held.tried:
                return None
        return None

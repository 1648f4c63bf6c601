"""Replays a record of requests against other settings: the fleet's own state, the core's own plan, no world.

Only what carries plans out is simulated: containers start for as long as starts took, requests take as long
as they took, and nothing fails but by its own limits. Time is virtual and goes from event to event.
"""

from __future__ import annotations

from heapq import heappop, heappush
from statistics import median
from typing import TYPE_CHECKING, assert_never

from gpud.core import cold_start
from gpud.core.balancing import Rotation, pick
from gpud.core.history import arrivals_of
from gpud.core.ids import WorkerId
from gpud.core.reconcile import plan
from gpud.core.routing import RouteWorker
from gpud.core.standby import ClaimStandby, DropStandby, NewStandby
from gpud.core.starts import BackoffPolicy, after_failure, after_ready
from gpud.core.whatif import outcome_of, within
from gpud.core.windows import NO_WINDOW
from gpud.core.worker import Cause, Worker, WorkerEvent, WorkerState, advance
from gpud.core.world import NewWorker
from gpud.errors import InvariantBroken
from gpud.fleet.replayed_bill import ReplayedBill
from gpud.fleet.replayed_starts import ReplayedStarts
from gpud.fleet.replayed_traffic import ReplayedRequest, ReplayedTraffic
from gpud.fleet.state import FleetState, StartLimits
from gpud.fleet.windows import WindowWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.endpoint import Endpoint
    from gpud.core.standby import StandbyChange
    from gpud.core.whatif import Outcome, WhatIf
    from gpud.ports.calendar import Calendar

_PASSES_MAX = 200
_TICK_S = 1.0
_PATIENT_TICK_S = 5.0
_PATIENT_AFTER_S = 10.0
_SERVED_TICK_SHARE = 0.1
"""While nobody waits, rounds are this share of a cold start or idle timeout apart: a week of rounds at each
change of the load would take minutes, and move no wait by more."""
_BUCKET_S = 0.1


def replay(question: WhatIf, calendar: Calendar) -> tuple[Outcome, ...]:
    """Say what each of the settings would have come to."""
    arrivals = within(arrivals_of(question.batches), since_ms=question.since_ms, until_ms=question.until_ms)
    known_s = [a.service_ms / 1000 for a in arrivals if a.service_ms is not None]
    usual_s = median(known_s) if known_s else 0.0
    requests = [
        ReplayedRequest(
            at_s=(arrival.at_ms - question.since_ms) / 1000 + _BUCKET_S * number / arrival.requests,
            service_s=usual_s if arrival.service_ms is None else arrival.service_ms / 1000,
        )
        for arrival in arrivals
        for number in range(arrival.requests)
    ]
    requests.sort(key=lambda request: request.at_s)
    return tuple(_Replay(question, endpoint, calendar).run(requests) for endpoint in question.endpoints)


class _Replay:
    """One replay of one endpoint."""

    def __init__(self, question: WhatIf, endpoint: Endpoint, calendar: Calendar) -> None:
        self._question = question
        self._endpoint = endpoint
        self._spec, self._end_s = endpoint.spec, (question.until_ms - question.since_ms) / 1000
        self._limits = StartLimits(box=question.box_starts, endpoint=question.endpoint_starts)
        self._carried = ReplayedStarts(question, endpoint)
        self._bill = ReplayedBill(endpoint.spec.gpus.count)
        self._state = state = FleetState()
        state.engine_up = True
        state.endpoints[endpoint.name] = endpoint
        state.images_present.add(endpoint.image.pin)
        state.gpus = {status.gpu.uuid: status for status in question.gpus}
        self._memory = state.recall(endpoint.name)
        for start in self._carried.cold[-20:]:
            self._memory.note_start(_a_start_of(endpoint, start.setup_s + start.start_s))
        self._memory.wake_times = self._carried.wake_times()
        shortest_s = min(self._memory.cold_start_s, self._spec.scale.idle_timeout_s)
        self._served_tick_s = min(_PATIENT_TICK_S, max(0.1, _SERVED_TICK_SHARE * shortest_s))
        self._windows = WindowWatch(calendar, self, state)
        self._counts = ReplayedTraffic()
        self._rotation = Rotation()
        self._cursor = ""
        self._efforts: dict[WorkerId, WorkerState] = {}
        self._timers: list[tuple[float, int, ReplayedRequest | None, WorkerId, float, Cause]] = []
        self._number = self._sequence = 0
        self._moved = False
        self._woken = False
        self._round_due_s: float | None = 0.0
        self._waits_s: list[float] = []
        self._unserved = self._became_ready = self._wakes = 0

    # -- the clock that the windows look at ------------------------------------------------------

    boot_id = "replay"

    def now_s(self) -> float:
        return self._counts.now_s

    def at_ms(self) -> int:
        return self._question.since_ms + round(self._counts.now_s * 1000)

    def wall_ns(self) -> int:
        return self.at_ms() * 1_000_000

    def boot_ns(self) -> int:
        return round(self._counts.now_s * 1e9)

    # -- the run ---------------------------------------------------------------------------------

    def run(self, requests: Sequence[ReplayedRequest]) -> Outcome:
        """Go through the whole record."""
        counts, timers = self._counts, self._timers
        position, total, endless = 0, len(requests), float("inf")
        while True:
            arrival_s = requests[position].at_s if position < total else endless
            timer_s = timers[0][0] if timers else endless
            round_s = endless if self._round_due_s is None else self._round_due_s
            counts.now_s = now_s = max(counts.now_s, min(arrival_s, timer_s, round_s))
            if now_s > self._end_s:
                break
            while timers and timers[0][0] <= now_s:
                self._fire(*heappop(timers)[2:])
            while position < total and requests[position].at_s <= now_s:
                self._arrive(requests[position])
                position += 1
            if self._woken or round_s <= now_s:
                self._round()
        return self._sum_up()

    def _sum_up(self) -> Outcome:
        now_s = self._counts.now_s = self._end_s
        self._waits_s.extend(now_s - request.at_s for request in self._counts.queue)
        self._bill.close(now_s=now_s)
        return outcome_of(
            self._waits_s,
            unserved=self._unserved + len(self._counts.queue),
            cold_starts=self._became_ready,
            gpu_s=self._bill.gpu_s,
            wakes=self._wakes,
        )

    # -- requests --------------------------------------------------------------------------------

    def _arrive(self, request: ReplayedRequest) -> None:
        counts = self._counts
        worker_id = None if counts.queue else self._pick()
        if worker_id is not None:
            self._begin(request, worker_id)
        elif len(counts.queue) >= self._spec.limits.max_queue:
            self._unserved += 1
            self._waits_s.append(0.0)
            return
        else:
            counts.queue.append(request)
            self._woken = True
        if counts.arrived():
            self._round_soon()

    def _begin(self, request: ReplayedRequest, worker_id: WorkerId) -> None:
        counts, now_s = self._counts, self._counts.now_s
        counts.in_flight += 1
        counts.by_worker[worker_id] = counts.by_worker.get(worker_id, 0) + 1
        self._waits_s.append(now_s - request.at_s)
        self._at(now_s + request.service_s, worker_id, Cause.DRAINED, request)

    def _end(self, request: ReplayedRequest, worker_id: WorkerId, since_s: float) -> None:
        counts = self._counts
        counts.in_flight -= 1
        counts.by_worker[worker_id] -= 1
        if not counts.by_worker[worker_id]:
            del counts.by_worker[worker_id]
            self._state.idle_since_s[worker_id] = counts.now_s
            worker = self._state.workers.get(worker_id)
            self._woken |= worker is not None and worker.state is WorkerState.DRAINING
        self._dispatch()
        counts.ended(request, since_s)
        if not counts.load:
            self._round_soon()

    def _pick(self) -> WorkerId | None:
        scale = self._spec.scale
        found = pick(
            scale.balance,
            self._rotation,
            in_flight=self._counts.by_worker,
            concurrency=scale.concurrency,
            cursor=self._cursor,
        )
        if found is None:
            return None
        self._cursor = found.worker_id
        return found.worker_id

    def _dispatch(self) -> None:
        queue = self._counts.queue
        while queue and (worker_id := self._pick()) is not None:
            self._begin(queue.popleft(), worker_id)

    def _give_up(self) -> None:
        """Refuse who has waited for as long as anyone may."""
        queue, now_s = self._counts.queue, self._counts.now_s
        while queue and now_s - queue[0].at_s >= self._spec.hold_timeout_s:
            request = queue.popleft()
            self._waits_s.append(now_s - request.at_s)
            self._unserved += 1
            self._counts.ended(request, -1.0)

    # -- rounds ----------------------------------------------------------------------------------

    def _round(self) -> None:
        """What the reconciler does in a round, with timers for what its executor would do."""
        counts, state = self._counts, self._state
        now_s, self._woken = counts.now_s, False
        self._give_up()
        state.observe_load(counts, now_s=now_s)
        windows = self._windows.look(self._endpoint.name, self._spec, at_ms=self.at_ms(), now_s=now_s)
        state.windows_open = {} if windows is NO_WINDOW else {self._endpoint.name: windows}
        ask_again_at_s = self._plan_until_settled(now_s)
        moved, self._moved = self._moved, False
        for worker in list(state.workers.values()):
            self._follow(worker)
        if moved:
            ready = [w for w in state.workers.values() if w.state is WorkerState.READY]
            self._rotation = Rotation.of([RouteWorker(worker_id=w.id, address="", port=1) for w in ready])
        self._dispatch()
        due_s = now_s + self._tick_s() if counts.load else None
        if ask_again_at_s is not None and (due_s is None or ask_again_at_s < due_s):
            due_s = max(ask_again_at_s, now_s + 0.001)
        self._round_due_s = due_s

    def _tick_s(self) -> float:
        queue = self._counts.queue
        if not queue:
            return self._served_tick_s
        return _TICK_S if self._counts.now_s - queue[0].at_s < _PATIENT_AFTER_S else _PATIENT_TICK_S

    def _round_soon(self) -> None:
        due_s = self._counts.now_s + self._served_tick_s
        if self._round_due_s is None or due_s < self._round_due_s:
            self._round_due_s = due_s

    def _plan_until_settled(self, now_s: float) -> float | None:
        state = self._state
        for _ in range(_PASSES_MAX):
            world = state.world(
                now_s=now_s,
                in_flight=self._counts.by_worker,
                verify_gpus=False,
                no_shrink_until_s=0.0,
                starts=self._limits,
                standing=self._carried.seen(),
            )
            answer = plan(world)
            state.remember(answer)
            applied = [self._apply(change) for change in answer.changes]
            if not any(applied):
                return answer.ask_again_at_s
        raise InvariantBroken("The plan did not settle: two rules undo each other.")

    def _apply(self, change: NewWorker | WorkerEvent | StandbyChange) -> bool:
        match change:
            case WorkerEvent():
                return self._move(change)
            case NewWorker():
                self._insert(self._new_id())
            case NewStandby():
                made = self._new_id()
                self._carried.make(change, made, now_s=self._counts.now_s)
                self._at(self._counts.now_s + self._carried.prepared_in_s, made, Cause.PROBE_PASSED)
            case DropStandby():
                return self._carried.drop(change.standby_id)
            case ClaimStandby():
                return self._claim(change)
            case _:
                assert_never(change)
        return True

    def _new_id(self) -> WorkerId:
        self._number += 1
        return WorkerId(f"wk_{self._number:016d}")

    def _insert(self, worker_id: WorkerId) -> None:
        self._state.workers[worker_id] = Worker(
            id=worker_id,
            endpoint=self._endpoint.name,
            revision=self._endpoint.revision,
            state=WorkerState.PENDING,
            generation=1,
            since_s=self._counts.now_s,
            created_at_ms=self.at_ms(),
            port=1,
        )
        self._state.made_for[worker_id] = self._endpoint

    def _claim(self, change: ClaimStandby) -> bool:
        """Make a worker of a standby, with the GPUs that its container reaches."""
        standby = self._carried.claim(change.standby_id)
        if standby is None:
            return False
        if change.replaces is not None:
            self._move(WorkerEvent(worker_id=change.replaces, cause=Cause.UNWANTED))
        self._insert(standby.id)
        reserved = WorkerEvent(worker_id=standby.id, cause=Cause.GPUS_RESERVED, gpu_uuids=standby.gpu_uuids)
        return self._move(reserved)

    def _move(self, change: WorkerEvent) -> bool:
        before = self._state.workers.get(change.worker_id)
        after = before and advance(before, change, now_s=self._counts.now_s)
        if before is None or after is None:
            return False
        self._moved = True
        self._state.workers[after.id] = after
        self._note(before, after)
        return True

    def _note(self, before: Worker, after: Worker) -> None:
        now_s = self._counts.now_s
        if after.state is WorkerState.READY and before.state in (WorkerState.STARTING, WorkerState.WAKING):
            self._note_ready(before)
        if after.failed and not before.failed:
            self._memory.starts = after_failure(
                self._memory.starts,
                BackoffPolicy(),
                error=after.detail,
                permanent=False,
                now_s=now_s,
                jitter=0.5,
            )
        self._bill.follow(after, now_s=now_s)

    def _note_ready(self, before: Worker) -> None:
        """It serves: from nothing, from a standby, or again."""
        rung, memory = self._carried.rung_of(before), self._memory
        took_s = self._counts.now_s - before.since_s
        if before.state is WorkerState.STARTING:
            took_s += self._carried.setup_s(before.id)
            self._became_ready += 1
            memory.note_start(_a_start_of(self._endpoint, took_s))
            memory.starts = after_ready()
        else:
            self._wakes += 1
        if rung is not None:
            memory.note_wake(self._endpoint.revision, rung, int(took_s * 1e9))
        self._carried.forget(before.id)

    # -- what the executor would do ----------------------------------------------------------------

    def _follow(self, worker: Worker) -> None:
        """Begin what the worker's state asks for, once."""
        if worker.state is WorkerState.GONE:
            del self._state.workers[worker.id]
            self._efforts.pop(worker.id, None)
            self._carried.forget(worker.id)
            for kept in (self._state.made_for, self._state.idle_since_s):
                kept.pop(worker.id, None)
            return
        if self._efforts.get(worker.id) is worker.state:
            return
        self._efforts[worker.id] = worker.state
        if (effort := self._carried.effort(worker)) is not None:
            takes_s, comes_to = effort
            self._at(self._counts.now_s + takes_s, worker.id, comes_to)

    def _at(
        self, at_s: float, worker_id: WorkerId, cause: Cause, request: ReplayedRequest | None = None
    ) -> None:
        self._sequence += 1
        since_s = self._counts.now_s
        heappush(self._timers, (at_s, self._sequence, request, worker_id, since_s, cause))

    def _fire(
        self, request: ReplayedRequest | None, worker_id: WorkerId, since_s: float, cause: Cause
    ) -> None:
        if request is not None:
            self._end(request, worker_id, since_s)
            return
        if self._carried.prepared(worker_id, now_s=self._counts.now_s):
            self._woken = True
            return
        self._woken |= self._apply(WorkerEvent(worker_id=worker_id, cause=cause, address="replay"))


def _a_start_of(endpoint: Endpoint, took_s: float) -> cold_start.ColdStart:
    """A start of which only the whole time is known."""
    return cold_start.ColdStart(
        worker_id=WorkerId(""),
        endpoint=endpoint.name,
        revision=endpoint.revision,
        at_ms=0,
        phases_ns={cold_start.StartPhase.LISTEN: int(took_s * 1e9)},
    )

"""What applying a plan's changes does to the fleet's state: workers are made, claimed and moved."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, assert_never

from gpud.core.ids import WorkerId
from gpud.core.records import WorkerInserted, WorkerMoved
from gpud.core.standby import ClaimStandby, DropStandby, NewStandby
from gpud.core.wanted import ROLLOUT, Wanted, told
from gpud.core.worker import Cause, Worker, WorkerEvent, WorkerState, advance
from gpud.core.world import NewWorker
from gpud.fleet.state import StartTimeline
from gpud.ports.traffic import AT_REST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.ids import EndpointName
    from gpud.core.pacing import ScaleDecision
    from gpud.core.standby import StandbyChange
    from gpud.fleet.chronicle import Chronicle
    from gpud.fleet.journal import Journal
    from gpud.fleet.meter import Meter
    from gpud.fleet.standbys import Standbys
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import Traffic


class Moves:
    """Applies changes to the state and adds their rows; used by the reconciler's task alone.

    Args:
        state: Of the fleet.
        journal: Takes the rows, written at the end of the round.
        meter: Opens and closes segments with the moves.
        chronicle: Notes what people are told of a move.
        standbys: Made, claimed and dropped here too.
        traffic: Tells how many requests a worker has.
        record: Records an event for people.
    """

    def __init__(
        self,
        *,
        state: FleetState,
        journal: Journal,
        meter: Meter,
        chronicle: Chronicle,
        standbys: Standbys,
        traffic: Traffic,
        clock: Clock,
        ids: IdSource,
        record: Callable[..., None],
    ) -> None:
        self.state = state
        self._journal = journal
        self._meter = meter
        self._chronicle = chronicle
        self.standbys = standbys
        self._traffic = traffic
        self._clock = clock
        self._ids = ids
        self._record = record
        self.decisions: Mapping[EndpointName, ScaleDecision] = {}
        """Of the plan whose changes are being applied."""
        self.closed = False
        """The daemon is going down and takes its workers with it: nothing more is made."""

    def apply(self, change: NewWorker | WorkerEvent | StandbyChange, now_s: float) -> bool:
        """Apply one change of a plan; returns whether it changed anything."""
        match change:
            case WorkerEvent():
                return self.move(change, now_s)
            case DropStandby():
                return self.standbys.drop(change)
            case NewWorker() | NewStandby() | ClaimStandby() if self.closed:
                return False
            case NewWorker():
                wanted = self._wanted(change.endpoint)
                if change.revision is not None:
                    wanted = replace(wanted, why=ROLLOUT)
                self._insert(change, WorkerId(self._ids.new_id("wk")), now_s, wanted)
            case NewStandby():
                self.standbys.make(change)
            case ClaimStandby():
                return self._claim(change, now_s)
            case _:
                assert_never(change)
        return True

    def _claim(self, change: ClaimStandby, now_s: float) -> bool:
        """Make a worker of a standby, with the GPUs that its container reaches."""
        standby = self.standbys.claim(change)
        if standby is None:
            return False
        asked_ns, wanted = self._clock.boot_ns(), self._wanted(standby.endpoint)
        if change.replaces is not None:
            before = self.state.timelines.get(change.replaces)
            if before is not None:
                asked_ns, wanted = before.reached_ns.get(WorkerState.PENDING, asked_ns), before.wanted
            detail = f"{standby.id} starts instead: it stood by {standby.rung}."
            self.move(WorkerEvent(worker_id=change.replaces, cause=Cause.UNWANTED, detail=detail), now_s)
        new = NewWorker(endpoint=standby.endpoint, revision=standby.revision)
        self._insert(new, standby.id, now_s, wanted, standby=standby.rung)
        timeline = self.state.timelines[standby.id]
        timeline.reached_ns[WorkerState.PENDING], timeline.stood_by = asked_ns, standby.rung
        reserved = WorkerEvent(worker_id=standby.id, cause=Cause.GPUS_RESERVED, gpu_uuids=standby.gpu_uuids)
        return self.move(reserved, now_s)

    def move(self, change: WorkerEvent, now_s: float) -> bool:
        """Apply what happened to a worker; returns whether its state allows it."""
        worker = self.state.workers.get(change.worker_id)
        if worker is None:
            return False
        after = advance(worker, change, now_s=now_s)
        if after is None:
            return False
        self.state.workers[worker.id] = after
        in_flight = self._traffic.worker_in_flight(worker.id)
        self._meter.moved(worker, after, in_flight=in_flight)
        moved = WorkerMoved(worker=after, from_state=worker.state, from_generation=worker.generation)
        self._journal.add(moved)
        self._chronicle.note_move(worker, after, change, now_s)
        if after.state is WorkerState.WAKING:
            self.state.wakes[after.id].wanted = self._wanted(after.endpoint)
        self.standbys.follow_worker(after)
        return True

    def _wanted(self, name: EndpointName) -> Wanted:
        """What wants one more worker of an endpoint: the rule whose word the decision is, and the load."""
        decision, load = self.decisions.get(name), self.state.loads.get(name, AT_REST)
        return Wanted(
            why=decision.reason.value if decision is not None else "",
            waiting=load.waiting,
            jobs=load.jobs,
            in_flight=load.in_flight,
        )

    def _insert(
        self, new: NewWorker, worker_id: WorkerId, now_s: float, wanted: Wanted, **facts: object
    ) -> None:
        name = new.endpoint
        endpoint = self.state.endpoints[name]
        if new.revision != endpoint.revision:
            endpoint = self.state.serving(endpoint)
        worker = Worker(
            id=worker_id,
            endpoint=name,
            revision=endpoint.revision,
            state=WorkerState.PENDING,
            generation=1,
            since_s=now_s,
            created_at_ms=self._clock.at_ms(),
            port=endpoint.spec.port,
        )
        self.state.workers[worker.id] = worker
        self.state.made_for[worker.id] = endpoint
        begun_ns = {WorkerState.PENDING: self._clock.boot_ns()}
        self.state.timelines[worker.id] = StartTimeline(begun_ns, wanted=wanted)
        self._journal.add(WorkerInserted(worker=worker))
        facts = {"revision": endpoint.revision, **asdict(wanted), **facts, "detail": told(wanted)}
        self._record("worker.requested", facts, endpoint=name, worker_id=worker.id)

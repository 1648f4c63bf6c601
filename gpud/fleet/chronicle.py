"""Writes down what workers go through, and remembers what it teaches about their endpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gpud.core.cold_start import ColdStart, StartPhase, phases_of, server_timing, told
from gpud.core.records import ColdStartSaved
from gpud.core.standby import Rung
from gpud.core.starts import BackoffPolicy, after_failure, after_ready, is_start_failure
from gpud.core.worker import Cause, WorkerState
from gpud.fleet.state import WakeMarks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.pacing import ScaleDecision
    from gpud.core.records import FleetChange
    from gpud.core.worker import Worker, WorkerEvent
    from gpud.fleet.rollouts import Rollouts
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock, IdSource

VERBS = {
    WorkerState.PULLING: "pulling",
    WorkerState.RESERVED: "reserved",
    WorkerState.CREATING: "creating",
    WorkerState.STARTING: "started",
    WorkerState.READY: "ready",
    WorkerState.NOT_READY: "unready",
    WorkerState.PAUSED: "paused",
    WorkerState.DOZING: "dozing",
    WorkerState.SLEEPING: "slept",
    WorkerState.WAKING: "waking",
    WorkerState.DRAINING: "draining",
    WorkerState.STOPPING: "stopping",
    WorkerState.RELEASING: "stopped",
    WorkerState.DISCARDING: "discarded",
    WorkerState.FAILED: "failed",
    WorkerState.LOST: "lost",
    WorkerState.GONE: "gone",
}
"""How a move into each state is called in the events; nobody moves back to PENDING."""


class Record(Protocol):
    """Records an event for people."""

    def __call__(
        self, kind: str, facts: Mapping[str, object], *, endpoint: str = "", worker_id: str = ""
    ) -> None:
        """Record one."""


class Chronicle:
    """Part of the reconciler: called in its task, for every move of a worker.

    Args:
        state: The fleet.
        backoff: Of failing starts.
        rollouts: Told of starts that went well or failed.
        record: Of the reconciler.
        add: Of the journal.
    """

    def __init__(
        self,
        *,
        state: FleetState,
        clock: Clock,
        ids: IdSource,
        backoff: BackoffPolicy,
        rollouts: Rollouts,
        record: Record,
        add: Callable[[FleetChange], None],
    ) -> None:
        self._state = state
        self._clock = clock
        self._ids = ids
        self._backoff = backoff
        self._rollouts = rollouts
        self._record = record
        self._add = add

    def note_move(self, before: Worker, after: Worker, event: WorkerEvent, now_s: float) -> None:
        """A worker changed state."""
        timeline = self._state.timelines.get(after.id)
        if timeline is not None:
            timeline.reached_ns.setdefault(after.state, self._clock.boot_ns())
        self._note_eviction(before, after, event)
        if after.state is WorkerState.WAKING:
            self._note_wake(before, after)
        if before.state is WorkerState.STARTING:
            self._state.progress.pop(after.id, None)
        wanted = self._state.endpoints.get(after.endpoint)
        is_current = wanted is not None and self._state.serving(wanted).revision == after.revision
        if after.state is WorkerState.READY and before.state is WorkerState.WAKING:
            self._note_woken(after)
            return
        if after.state is WorkerState.READY and before.state is WorkerState.STARTING:
            self._note_ready(after)
            self._rollouts.note_ready(after)
            if is_current:
                self._state.recall(after.endpoint).starts = after_ready()
            return
        failed_now = after.failed and not before.failed
        self._record_move(before, after, event, failed_now=failed_now)
        made_for = self._state.made_for.get(after.id, wanted)
        gone = event.cause is Cause.IMAGE_VANISHED and made_for is not None and self._note_no_image(made_for)
        if gone or (failed_now and is_start_failure(ready_s=after.ready_s, now_s=now_s)):
            self._note_failure(after, event, now_s, is_current=is_current)

    def _note_no_image(self, made_for: Endpoint) -> bool:
        """An image is not to be started from; True when it was taken to be here, False when that is known.

        It is pulled again, unless the engine lists it all the same: so a start that it failed counts, or
        it would be tried without a pause. Once for all starts that met it.
        """
        present = self._state.images_present
        was_here = made_for.image.pin in present
        present.discard(made_for.image.pin)
        return was_here

    def _note_failure(self, after: Worker, event: WorkerEvent, now_s: float, *, is_current: bool) -> None:
        permanent = event.permanent
        self._rollouts.note_failure(after.endpoint, after.revision, after.detail, permanent=permanent)
        if is_current:
            memory = self._state.recall(after.endpoint)
            was_open = memory.starts.open
            memory.starts = after_failure(
                memory.starts,
                self._backoff,
                error=after.detail,
                permanent=permanent,
                now_s=now_s,
                jitter=self._ids.fraction(),
            )
            if memory.starts.open and not was_open:
                opened = {"failures": memory.starts.failures, "error": memory.starts.last_error}
                self._record("endpoint.circuit_opened", opened, endpoint=after.endpoint)

    def note_decisions(self, decisions: Mapping[EndpointName, ScaleDecision]) -> None:
        """A round decided how many workers each endpoint should have; called before that is kept."""
        for name, decision in decisions.items():
            before = self._state.decisions.get(name)
            if before is decision:
                continue
            if before is not None and before.desired != decision.desired:
                facts = {"from": before.desired, "to": decision.desired, "reason": decision.reason}
                self._record("endpoint.scaled", facts, endpoint=name)

    def _record_move(self, before: Worker, after: Worker, event: WorkerEvent, *, failed_now: bool) -> None:
        facts: dict[str, object] = {"from": before.state, "to": after.state, "cause": event.cause}
        if after.detail and after.detail != before.detail:
            facts["detail"] = after.detail
        if after.exit_code is not None:
            facts["exit_code"] = after.exit_code
        kind = "worker.failed" if failed_now else f"worker.{VERBS.get(after.state, 'moved')}"
        self._record(kind, facts, endpoint=after.endpoint, worker_id=after.id)

    def _note_ready(self, worker: Worker) -> None:
        timeline = self._state.timelines.get(worker.id)
        facts: dict[str, object] = {}
        if timeline is not None and WorkerState.PENDING in timeline.reached_ns:
            phases_ns = phases_of(timeline.marks(ready_ns=self._clock.boot_ns()))
            start = ColdStart(
                worker_id=worker.id,
                endpoint=worker.endpoint,
                revision=worker.revision,
                at_ms=self._clock.at_ms(),
                phases_ns=phases_ns,
                wanted=timeline.wanted,
            )
            self._state.started[worker.id] = start
            self._state.start_timings[worker.id] = server_timing(phases_ns)
            self._add(ColdStartSaved(start=start))
            facts = start_facts(start)
            memory = self._state.recall(worker.endpoint)
            if timeline.stood_by is not None:
                memory.note_wake(worker.revision, timeline.stood_by, start.from_gpus_ns)
                facts["standby"] = timeline.stood_by
            if slowdown := memory.note_start(start):
                facts["slower"] = told(slowdown)
        self._record("worker.ready", facts, endpoint=worker.endpoint, worker_id=worker.id)

    def _note_wake(self, before: Worker, after: Worker) -> None:
        """A worker is being brought back, for whoever has waited longest."""
        load, now_ns = self._state.loads.get(after.endpoint), self._clock.boot_ns()
        waited_ns = int(load.oldest_wait_s * 1e9) if load is not None and load.waiting else 0
        rung = Rung.SLEEPING if before.state is WorkerState.SLEEPING else Rung.PAUSED
        self._state.wakes[after.id] = WakeMarks(rung, asked_ns=now_ns - waited_ns, begun_ns=now_ns)

    def _note_woken(self, worker: Worker) -> None:
        marks = self._state.wakes.pop(worker.id, None)
        facts: dict[str, object] = {}
        if marks is not None:
            ready_ns = self._clock.boot_ns()
            left_ns = min(max(marks.left_ns, marks.begun_ns), ready_ns)
            phases_ns = {
                StartPhase.WAIT: marks.begun_ns - marks.asked_ns,
                StartPhase.WAKE: left_ns - marks.begun_ns,
                StartPhase.READY: ready_ns - left_ns,
            }
            start = ColdStart(
                worker_id=worker.id,
                endpoint=worker.endpoint,
                revision=worker.revision,
                at_ms=self._clock.at_ms(),
                woken=marks.rung,
                phases_ns=phases_ns,
                wanted=marks.wanted,
            )
            self._state.started[worker.id] = start
            self._state.start_timings[worker.id] = server_timing(phases_ns)
            self._add(ColdStartSaved(start=start))
            memory = self._state.recall(worker.endpoint)
            memory.note_wake(worker.revision, Rung(marks.rung), start.from_gpus_ns)
            facts = {"rung": marks.rung} | {
                f"{phase}_ms": round(ns / 1e6, 3) for phase, ns in phases_ns.items()
            }
            facts["total_ms"] = round(start.total_ns / 1e6, 3)
        self._record("worker.woken", facts, endpoint=worker.endpoint, worker_id=worker.id)

    def note_first_byte(self, worker_id: WorkerId, took_s: float) -> None:
        """A request that waited for a worker's start is being answered; the first one counts."""
        start = self._state.started.get(worker_id)
        if start is None or StartPhase.FIRST_BYTE in start.phases_ns:
            return
        phases_ns = {**start.phases_ns, StartPhase.FIRST_BYTE: int(took_s * 1e9)}
        answered = replace(start, phases_ns=phases_ns)
        self._state.started[worker_id] = answered
        self._add(ColdStartSaved(start=answered))

    def _note_eviction(self, before: Worker, after: Worker, event: WorkerEvent) -> None:
        """Remember since when GPUs are being cleared for somebody, and who got them then."""
        now_ns, evicted_ns = self._clock.boot_ns(), self._state.evicted_ns
        if event.cause is Cause.RECLAIMED:
            evicted_ns.update(dict.fromkeys(before.gpu_uuids, now_ns))
        elif after.state is WorkerState.RESERVED:
            since = [evicted_ns.pop(uuid) for uuid in after.gpu_uuids if uuid in evicted_ns]
            timeline = self._state.timelines.get(after.id)
            if since and timeline is not None:
                timeline.evicting_ns = min(since)


def start_facts(start: ColdStart) -> dict[str, object]:
    """The milliseconds of a start, the phases as the events tell them; they add up to `total_ms`."""
    shown = {
        "image": (StartPhase.WAIT, StartPhase.EVICT, StartPhase.PULL),
        "reserve": (StartPhase.RESERVE,),
        "create": (StartPhase.CREATE,),
        "start": (StartPhase.ENGINE_START,),
        "ready": (StartPhase.LISTEN, StartPhase.READY),
    }
    sums_ns = {name: sum(start.phases_ns.get(phase, 0) for phase in phases) for name, phases in shown.items()}
    sums_ns["total"] = start.total_ns
    return {f"{name}_ms": round(ns / 1e6, 3) for name, ns in sums_ns.items()}

"""Writes down what workers go through, and remembers what it teaches about their endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gpud.core.starts import BackoffPolicy, after_failure, after_ready, is_start_failure
from gpud.core.worker import Cause, WorkerState
from gpud.fleet.state import start_phases_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.ids import EndpointName
    from gpud.core.pacing import ScaleDecision
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
    WorkerState.DRAINING: "draining",
    WorkerState.STOPPING: "stopping",
    WorkerState.RELEASING: "stopped",
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
    ) -> None:
        self._state = state
        self._clock = clock
        self._ids = ids
        self._backoff = backoff
        self._rollouts = rollouts
        self._record = record

    def note_move(self, before: Worker, after: Worker, event: WorkerEvent, now_s: float) -> None:
        """A worker changed state."""
        timeline = self._state.timelines.get(after.id)
        if timeline is not None:
            timeline.reached_ns.setdefault(after.state, self._clock.boot_ns())
        if before.state is WorkerState.STARTING:
            self._state.progress.pop(after.id, None)
        wanted = self._state.endpoints.get(after.endpoint)
        is_current = wanted is not None and self._state.serving(wanted).revision == after.revision
        if after.state is WorkerState.READY and before.state is WorkerState.STARTING:
            self._note_ready(after)
            self._rollouts.note_ready(after)
            if is_current:
                self._state.recall(after.endpoint).starts = after_ready()
            return
        failed_now = after.failed and not before.failed
        self._record_move(before, after, event, failed_now=failed_now)
        made_for = self._state.made_for.get(after.id, wanted)
        if event.cause is Cause.IMAGE_VANISHED and made_for is not None:
            self._state.images_present.discard(made_for.image.pin)
        if failed_now and is_start_failure(ready_s=after.ready_s, now_s=now_s):
            self._note_failure(after, event, now_s, is_current=is_current)

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
            phases_s = start_phases_s(timeline, ready_ns=self._clock.boot_ns())
            from_gpus_s = phases_s["total"] - phases_s["image"]
            memory = self._state.recall(worker.endpoint)
            memory.note_start(total_s=phases_s["total"], from_gpus_s=from_gpus_s)
            facts = {f"{phase}_ms": round(took_s * 1000, 3) for phase, took_s in phases_s.items()}
        self._record("worker.ready", facts, endpoint=worker.endpoint, worker_id=worker.id)

"""Accrues usage: turns every move of a worker into lease and segment rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.metering import Phase, Segment, phase_of
from gpud.core.records import LeaseClosed, LeaseOpened, SegmentClosed, SegmentOpened
from gpud.core.worker import Cause, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gpud.core.ids import WorkerId
    from gpud.core.records import FleetChange
    from gpud.core.worker import Worker
    from gpud.ports.time import Clock

_COALESCE_NS = 100_000_000
"""Idle stretches shorter than this count as active (semantics, section 7)."""
_READING_TRUSTED_NS = 20_000
_READINGS_MAX = 8


class Meter:
    """One open segment for each worker that holds a lease.

    Args:
        clock: Its CLOCK_BOOTTIME measures; wall time only labels.
        add: Takes the rows, in order, into the transaction of the move itself.
    """

    def __init__(self, clock: Clock, add: Callable[[FleetChange], None]) -> None:
        self._clock = clock
        self._add = add
        self._open: dict[WorkerId, Segment] = {}
        self._idle_since_ns: dict[WorkerId, int] = {}
        self._unwatched: set[WorkerId] = set()

    def resume(self, segments: Iterable[Segment], *, unwatched: Iterable[WorkerId]) -> None:
        """Take over the segments that were open when the last daemon ended.

        Args:
            segments: Open ones.
            unwatched: Workers whose container may have ended since. Their segment stays as it is,
                whatever they do, until the engine has told: else time after an end would be metered.
        """
        self._open.update({segment.worker_id: segment for segment in segments})
        self._unwatched.update(worker_id for worker_id in unwatched if worker_id in self._open)

    def moved(self, before: Worker, after: Worker, *, in_flight: int) -> None:
        """Account for one change of state."""
        if after.id in self._unwatched:
            has_ended = after.container_finished_ns or phase_of(after, in_flight=in_flight) is None
            if not has_ended:
                return
            self._unwatched.discard(after.id)
        self._account_for_unseen_run(before, after)
        at_ns = self._moment(before, after)
        self._settle_idle(before.id, before_ns=at_ns)
        phase = phase_of(after, in_flight=in_flight)
        segment = self._open.get(after.id)
        if segment is None and phase is not None:
            self._take_leases(after, at_ns)
        if phase is not (segment.phase if segment else None):
            self._switch(after, phase, at_ns)
        if phase is None and segment is not None:
            self._give_back_leases(before, max(at_ns, segment.start_boot_ns))

    def busy(self, worker_id: WorkerId) -> None:
        """A worker got a request."""
        if worker_id in self._unwatched:
            return
        if self._idle_since_ns.pop(worker_id, None) is not None:
            return
        segment = self._open.get(worker_id)
        if segment is not None and segment.phase is Phase.IDLE:
            self._next_segment(segment, Phase.ACTIVE, self._clock.boot_ns())

    def idle(self, worker_id: WorkerId) -> None:
        """A worker's last request ended."""
        segment = self._open.get(worker_id)
        if segment is not None and segment.phase is Phase.ACTIVE and worker_id not in self._unwatched:
            self._idle_since_ns[worker_id] = self._clock.boot_ns()

    def settle(self) -> bool:
        """Close active segments that have been idle long enough; True while some may follow."""
        now_ns = self._clock.boot_ns()
        for worker_id, since_ns in list(self._idle_since_ns.items()):
            if now_ns - since_ns >= _COALESCE_NS:
                self._settle_idle(worker_id, before_ns=now_ns)
        return bool(self._idle_since_ns)

    def is_unwatched(self, worker_id: WorkerId) -> bool:
        """Whether the engine has yet to tell what became of a worker taken over."""
        return worker_id in self._unwatched

    def unsupervised(self, worker: Worker, *, since_boot_ns: int) -> None:
        """The daemon was away while the container ran: say so from its last heartbeat on."""
        segment = self._open[worker.id]
        self._next_segment(segment, Phase.UNSUPERVISED, since_boot_ns)

    def supervised(self, worker: Worker, *, in_flight: int, since_boot_ns: int) -> None:
        """The container was found running then: its phase goes on from there."""
        self._unwatched.discard(worker.id)
        phase = phase_of(worker, in_flight=in_flight)
        if phase is not None:
            self._next_segment(self._open[worker.id], phase, since_boot_ns)

    def ended_at(self, worker: Worker, *, at_boot_ns: int, estimated: bool) -> None:
        """The container ended while nobody watched: close at that moment, release from there."""
        self._unwatched.discard(worker.id)
        segment = self._open[worker.id]
        self._next_segment(segment, Phase.RELEASE, at_boot_ns, estimated=estimated)

    def ended_with_boot(self, worker: Worker, *, at_boot_ns: int) -> None:
        """The machine went down: close everything at the last sign of life."""
        self._unwatched.discard(worker.id)
        segment = self._open.pop(worker.id, None)
        if segment is None:
            return
        end_ns = max(at_boot_ns, segment.start_boot_ns)
        closed = replace(segment, end_boot_ns=end_ns, close_reason=Cause.REBOOTED, estimated=True)
        self._add(SegmentClosed(segment=closed))
        self._give_back_leases(worker, end_ns)

    def engine_moment_ns(self, unix_ns: int) -> int:
        """Convert an engine timestamp (Unix nanoseconds) to CLOCK_BOOTTIME."""
        return unix_ns - self._wall_ahead_ns()

    def _wall_ahead_ns(self) -> int:
        """How far the wall clock is ahead of CLOCK_BOOTTIME.

        The two are read one after the other, and on a busy machine this process may sleep for
        milliseconds between them: the wall clock is read between two reads of the other, and the
        closest of several such readings counts.
        """
        best_ns, width_ns = 0, _READING_TRUSTED_NS + 1
        for attempt in range(_READINGS_MAX):
            before_ns, wall_ns, after_ns = self._clock.boot_ns(), self._clock.wall_ns(), self._clock.boot_ns()
            if attempt == 0 or after_ns - before_ns < width_ns:
                width_ns = after_ns - before_ns
                best_ns = wall_ns - before_ns - width_ns // 2
            if width_ns <= _READING_TRUSTED_NS:
                break
        return best_ns

    def _account_for_unseen_run(self, before: Worker, after: Worker) -> None:
        """A worker told to stop while it was created may have run: from its start on it was stopping."""
        segment = self._open.get(after.id)
        if segment is None or before.state not in (WorkerState.STOPPING, WorkerState.LOST):
            return
        if after.container_started_ns and not before.container_started_ns:
            began_ns = min(self.engine_moment_ns(after.container_started_ns), self._clock.boot_ns())
            self._next_segment(segment, Phase.STOP, began_ns)

    def _moment(self, before: Worker, after: Worker) -> int:
        """When it happened: the engine's own word where it has one, else now."""
        now_ns = self._clock.boot_ns()
        if after.container_finished_ns and not before.container_finished_ns:
            told_ns = self.engine_moment_ns(after.container_finished_ns)
        elif after.state is WorkerState.STARTING:
            told_ns = (
                self.engine_moment_ns(after.container_started_ns) if after.container_started_ns else now_ns
            )
        else:
            return now_ns
        segment = self._open.get(after.id)
        earliest_ns = segment.start_boot_ns if segment else now_ns
        return min(max(told_ns, earliest_ns), now_ns)

    def _settle_idle(self, worker_id: WorkerId, *, before_ns: int) -> None:
        since_ns = self._idle_since_ns.pop(worker_id, None)
        segment = self._open.get(worker_id)
        if since_ns is not None and segment is not None and segment.phase is Phase.ACTIVE:
            self._next_segment(segment, Phase.IDLE, min(since_ns, before_ns))

    def _switch(self, worker: Worker, phase: Phase | None, at_ns: int) -> None:
        segment = self._open.pop(worker.id, None)
        if segment is not None:
            at_ns = max(at_ns, segment.start_boot_ns)
            self._add(SegmentClosed(segment=replace(segment, end_boot_ns=at_ns, close_reason=worker.cause)))
        if phase is None:
            return
        opened = Segment(
            worker_id=worker.id,
            seq=segment.seq + 1 if segment else 0,
            phase=phase,
            endpoint=worker.endpoint,
            revision=worker.revision,
            gpu_uuids=worker.gpu_uuids,
            boot_id=self._clock.boot_id,
            start_boot_ns=at_ns,
            start_wall_ms=self._wall_ms_of(at_ns),
        )
        self._open[worker.id] = opened
        self._add(SegmentOpened(segment=opened))

    def _next_segment(self, segment: Segment, phase: Phase, at_ns: int, *, estimated: bool = False) -> None:
        at_ns = max(at_ns, segment.start_boot_ns)
        closed = replace(segment, end_boot_ns=at_ns, close_reason=phase, estimated=estimated)
        opened = replace(
            segment,
            seq=segment.seq + 1,
            phase=phase,
            start_boot_ns=at_ns,
            start_wall_ms=self._wall_ms_of(at_ns),
        )
        self._open[segment.worker_id] = opened
        self._add(SegmentClosed(segment=closed))
        self._add(SegmentOpened(segment=opened))

    def _take_leases(self, worker: Worker, at_ns: int) -> None:
        for uuid in worker.gpu_uuids:
            self._add(
                LeaseOpened(gpu_uuid=uuid, worker_id=worker.id, boot_id=self._clock.boot_id, at_boot_ns=at_ns)
            )

    def _give_back_leases(self, worker: Worker, at_ns: int) -> None:
        for uuid in worker.gpu_uuids:
            self._add(LeaseClosed(gpu_uuid=uuid, worker_id=worker.id, at_boot_ns=at_ns))

    def _wall_ms_of(self, boot_ns: int) -> int:
        return self._clock.at_ms() - (self._clock.boot_ns() - boot_ns) // 1_000_000

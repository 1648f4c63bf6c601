"""Accrues usage: turns every move of a worker into lease and segment rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gpud.core.gpu import WHOLE_PPM
from gpud.core.key_shares import with_shares
from gpud.core.metering import Phase, Segment, phase_of
from gpud.core.records import LeaseClosed, LeaseOpened, SegmentClosed, SegmentOpened
from gpud.core.worker import Cause, WorkerState
from gpud.fleet.wall_ahead import wall_ahead_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gpud.core.ids import WorkerId
    from gpud.core.records import FleetChange
    from gpud.core.worker import Worker
    from gpud.ports.time import Clock

_COALESCE_NS = 100_000_000
"""Idle stretches shorter than this count as active (semantics, section 7)."""

_CONTINUED = "continued"
_BUSY_SEGMENT_NS = 300_000_000_000
"""A longer one is cut, so that what a key used is told of minutes, and a crash forgets no more of it."""

_JUMP_NS = 500_000_000
"""A wall clock that moved this much against CLOCK_BOOTTIME makes engine timestamps useless."""

_WITHOUT_CONTAINER = frozenset({Phase.SETUP, Phase.RELEASE})
_THOUGHT_ALIVE = frozenset(
    {
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.PAUSED,
        WorkerState.DOZING,
        WorkerState.WAKING,
        WorkerState.DRAINING,
    }
)
"""With these, the daemon's last heartbeat counts as a sign of life of the container."""
_ENDED_UNSEEN = frozenset({Cause.VANISHED, Cause.CONTAINER_STOPPED})
"""With these, a container is gone and the engine knows no time of it."""


def _nobody(_worker_id: WorkerId) -> dict[str, float]:
    return {}


@dataclass(frozen=True, slots=True)
class _Switch:
    """A change of phase that is on the bill once the container is known to have lived to see it.

    Attributes:
        shares_ns: What keys had of the phase that it begins, once it is over.
    """

    at_ns: int
    phase: Phase
    reason: str
    shares_ns: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Sign:
    """When a container was last known to run, and how far wall time was ahead of boot time then."""

    at_ns: int
    wall_ahead_ns: int


class Meter:
    """One open segment for each worker that holds a lease.

    A container may have ended a while before anybody hears of it, and a segment that is written
    never changes. So a switch of phase is kept back until a sign of life from after it; when the
    engine tells an end from before it, it never was. Nobody is billed for longer than the
    container ran.

    Args:
        clock: Its CLOCK_BOOTTIME measures; wall time only labels.
        add: Takes the rows, in order, into the transaction of the round under way.
        take_shares: Tells what each key had of a worker's time since it was last asked, in seconds.
    """

    def __init__(
        self,
        clock: Clock,
        add: Callable[[FleetChange], None],
        take_shares: Callable[[WorkerId], Mapping[str, float]] = _nobody,
    ) -> None:
        self._clock = clock
        self._add = add
        self._take_shares = take_shares
        self._shares_ns: dict[WorkerId, Counter[str]] = {}
        """What keys had of the open segment of each worker, up to a switch that is kept back."""
        self._open: dict[WorkerId, Segment] = {}
        self._ahead: dict[WorkerId, list[_Switch]] = {}
        self._signs: dict[WorkerId, _Sign] = {}
        self._idle_since_ns: dict[WorkerId, int] = {}
        self._slept: dict[WorkerId, int] = {}
        """Number of the next segment of each worker that sleeps and so has none open."""

    # -- at start-up ---------------------------------------------------------------------------

    def resume(
        self,
        segments: Iterable[Segment],
        workers: Iterable[Worker],
        *,
        heartbeat_ns: int,
        wall_ms: int,
        slept: Mapping[WorkerId, int] | None = None,
    ) -> None:
        """Take over what was open when the last daemon ended, a moment after its last heartbeat.

        Args:
            segments: Open ones, of this boot.
            workers: All.
            heartbeat_ns: CLOCK_BOOTTIME of the last heartbeat.
            wall_ms: Its wall time.
            slept: Number of the next segment of each worker that sleeps.
        """
        self._slept.update(slept or {})
        self._open.update({segment.worker_id: segment for segment in segments})
        ahead_ns = wall_ms * 1_000_000 - heartbeat_ns
        for worker in workers:
            segment = self._open.get(worker.id)
            if segment is None or segment.phase in _WITHOUT_CONTAINER:
                continue
            watched_ns = max(heartbeat_ns, segment.start_boot_ns)
            seen_ns = watched_ns
            if segment.phase is Phase.UNSUPERVISED:
                seen_ns = segment.start_boot_ns
            elif worker.state not in _THOUGHT_ALIVE:
                seen_ns = min(max(self._since_ns(worker), segment.start_boot_ns), watched_ns)
            self._signs[worker.id] = _Sign(seen_ns, ahead_ns)
            phase = phase_of(worker, in_flight=0) or Phase.RELEASE
            if phase in (Phase.STOP, Phase.RELEASE):
                self._switch(worker.id, phase, seen_ns, worker.cause)
                continue
            self._switch(worker.id, Phase.UNSUPERVISED, watched_ns, Phase.UNSUPERVISED)
            self._switch(worker.id, phase, self._clock.boot_ns(), phase)

    def ended_with_boot(self, worker: Worker, segment: Segment, *, at_boot_ns: int) -> None:
        """The machine went down: close everything at the last sign of life.

        The engine may have gone first and taken the container with it; so of one that no longer
        answered, nothing is believed after that was noticed.
        """
        if worker.state not in _THOUGHT_ALIVE and segment.phase not in _WITHOUT_CONTAINER:
            at_boot_ns = min(at_boot_ns, self._since_ns(worker))
        end_ns = max(at_boot_ns, segment.start_boot_ns)
        closed = replace(segment, end_boot_ns=end_ns, close_reason=Cause.REBOOTED, estimated=True)
        self._add(SegmentClosed(segment=closed))
        self._give_back_leases(worker, end_ns)

    # -- what happens --------------------------------------------------------------------------

    def moved(self, before: Worker, after: Worker, *, in_flight: int) -> None:
        """Account for one change of state."""
        now_ns = self._clock.boot_ns()
        self._settle_idle(before.id, before_ns=now_ns)
        phase = phase_of(after, in_flight=in_flight)
        segment = self._open.get(after.id)
        if segment is None:
            if after.state is WorkerState.GONE:
                self._slept.pop(after.id, None)
            if phase is not None:
                self._take_leases(after, now_ns)
                self._begin(after, phase, now_ns)
            return
        if phase is None:
            self._end(before, after, now_ns)
        elif self._container_ended(before, after, segment):
            self._close_at_end(before, after, segment, now_ns)
        elif after.state is WorkerState.STARTING:
            began_ns = now_ns
            if not self._has_jumped(after.id):
                began_ns = self._told(after.id, after.container_started_ns, now_ns)
            self._write(after.id, phase, began_ns, after.cause)
            # Not "now": this round may come seconds after the start, and the container be gone again.
            self.alive(after.id, at_boot_ns=began_ns)
        elif segment.phase in _WITHOUT_CONTAINER:
            self._write(after.id, phase, now_ns, after.cause)
        else:
            self._switch(after.id, phase, now_ns, after.cause)

    def alive(self, worker_id: WorkerId, *, at_boot_ns: int) -> None:
        """A container is known to have run at a moment: what it was billed for until then stands."""
        if worker_id not in self._open:
            return
        known = self._signs.get(worker_id)
        if known is None or at_boot_ns >= known.at_ns:
            self._signs[worker_id] = _Sign(at_boot_ns, wall_ahead_ns(self._clock))
        self._write_ahead(worker_id, until_ns=at_boot_ns)

    def busy(self, worker_id: WorkerId) -> None:
        """A worker got a request."""
        now_ns = self._clock.boot_ns()
        since_ns = self._idle_since_ns.get(worker_id)
        if since_ns is not None and now_ns - since_ns < _COALESCE_NS:
            del self._idle_since_ns[worker_id]
            return
        self._settle_idle(worker_id, before_ns=now_ns)
        if self._phase(worker_id) is Phase.IDLE:
            self._switch(worker_id, Phase.ACTIVE, now_ns, Phase.ACTIVE)

    def idle(self, worker_id: WorkerId) -> None:
        """A worker's last request ended."""
        if worker_id not in self._open:
            self._take_shares(worker_id)  # it was gone before its request; nobody will ask for them
        if self._phase(worker_id) is Phase.ACTIVE:
            self._idle_since_ns[worker_id] = self._clock.boot_ns()

    def settle(self) -> bool:
        """End active stretches that have been idle long enough; True while some may follow."""
        now_ns = self._clock.boot_ns()
        for worker_id, since_ns in list(self._idle_since_ns.items()):
            if now_ns - since_ns >= _COALESCE_NS:
                self._settle_idle(worker_id, before_ns=now_ns)
        self._cut_long(now_ns)
        return bool(self._idle_since_ns)

    def running(self) -> dict[WorkerId, tuple[int, Mapping[str, int]]]:
        """Number of each worker's open segment, and what keys had of it so far."""
        for worker_id in self._open:
            self._weigh(worker_id)
        return {id_: (self._open[id_].seq, dict(had)) for id_, had in self._shares_ns.items() if had}

    def _cut_long(self, now_ns: int) -> None:
        for worker_id, segment in self._open.items():
            long_ago = now_ns - segment.start_boot_ns >= _BUSY_SEGMENT_NS
            if long_ago and segment.phase is Phase.ACTIVE and not self._ahead.get(worker_id):
                self._weigh(worker_id)
                self._ahead[worker_id] = [_Switch(now_ns, Phase.ACTIVE, _CONTINUED)]

    # -- the end of a container ----------------------------------------------------------------

    def _container_ended(self, before: Worker, after: Worker, segment: Segment) -> bool:
        if segment.phase is Phase.RELEASE:
            return False
        told = bool(after.container_finished_ns and not before.container_finished_ns)
        return told or after.cause in _ENDED_UNSEEN

    def _close_at_end(self, before: Worker, after: Worker, segment: Segment, now_ns: int) -> None:
        """Bill up to the container's end, which is past; from there on the GPUs are being released."""
        sign = self._signs.get(after.id)
        seen_ns = now_ns if sign is None else max(sign.at_ns, segment.start_boot_ns)
        if after.container_finished_ns and not before.container_finished_ns:
            told_ns = after.container_finished_ns - wall_ahead_ns(self._clock)
            jumped = self._has_jumped(after.id) or told_ns > now_ns + _JUMP_NS
            end_ns = seen_ns if jumped else self._told(after.id, after.container_finished_ns, now_ns)
            estimated = jumped
        else:
            never_ran = not after.container_started_ns
            end_ns, estimated = (now_ns, False) if never_ran else (seen_ns, True)
        if after.container_started_ns and not before.container_started_ns:
            # It was told to stop while it was being created, and ran all the same.
            self._write(
                after.id, Phase.STOP, self._told(after.id, after.container_started_ns, end_ns), after.cause
            )
        self._write_ahead(after.id, until_ns=end_ns)
        self._weigh(after.id)
        for never in self._ahead.pop(after.id, ()):
            self._shares_of_open(after.id).update(never.shares_ns)
        self._write(after.id, Phase.RELEASE, end_ns, after.cause, estimated=estimated)

    def _end(self, before: Worker, after: Worker, now_ns: int) -> None:
        self._write_ahead(after.id, until_ns=now_ns)
        self._weigh(after.id)
        segment = self._open.pop(after.id)
        shares_ns = self._shares_ns.pop(after.id, Counter())
        for kept in (self._ahead, self._signs, self._idle_since_ns):
            kept.pop(after.id, None)
        if after.state is WorkerState.SLEEPING:
            self._slept[after.id] = segment.seq + 1
        end_ns = max(now_ns, segment.start_boot_ns)
        closed = replace(segment, end_boot_ns=end_ns, close_reason=after.cause)
        self._add(SegmentClosed(segment=with_shares(closed, shares_ns)))
        self._give_back_leases(before, end_ns)

    def _told(self, worker_id: WorkerId, unix_ns: int, now_ns: int) -> int:
        """The engine's word on a moment, within what it can be; now when it says nothing."""
        if not unix_ns:
            return now_ns
        told_ns = unix_ns - wall_ahead_ns(self._clock)
        return min(max(told_ns, self._open[worker_id].start_boot_ns), now_ns)

    def _has_jumped(self, worker_id: WorkerId) -> bool:
        """Whether the wall clock, by which the engine tells time, was set since the last sign of life."""
        sign = self._signs.get(worker_id)
        return sign is not None and abs(wall_ahead_ns(self._clock) - sign.wall_ahead_ns) > _JUMP_NS

    def _since_ns(self, worker: Worker) -> int:
        """When a worker came to its state, on the boot clock."""
        return self._clock.boot_ns() - round((self._clock.now_s() - worker.since_s) * 1e9)

    # -- segments and leases -------------------------------------------------------------------

    def _phase(self, worker_id: WorkerId) -> Phase | None:
        """What a worker is doing now, whether it is written or not."""
        ahead = self._ahead.get(worker_id)
        if ahead:
            return ahead[-1].phase
        segment = self._open.get(worker_id)
        return segment.phase if segment is not None else None

    def _settle_idle(self, worker_id: WorkerId, *, before_ns: int) -> None:
        since_ns = self._idle_since_ns.pop(worker_id, None)
        if since_ns is not None and self._phase(worker_id) is Phase.ACTIVE:
            self._switch(worker_id, Phase.IDLE, min(since_ns, before_ns), Phase.IDLE)

    def _switch(self, worker_id: WorkerId, phase: Phase, at_ns: int, reason: str) -> None:
        """Keep a switch back until a sign of life from after it."""
        if phase is not self._phase(worker_id):
            self._weigh(worker_id)
            self._ahead.setdefault(worker_id, []).append(_Switch(at_ns, phase, reason))

    def _shares_of_open(self, worker_id: WorkerId) -> Counter[str]:
        return self._shares_ns.setdefault(worker_id, Counter())

    def _weigh(self, worker_id: WorkerId) -> None:
        """Count what keys had until now into the phase that it was in."""
        shares = self._take_shares(worker_id)
        if shares:
            ahead = self._ahead.get(worker_id)
            into = ahead[-1].shares_ns if ahead else self._shares_of_open(worker_id)
            into.update({key: round(share_s * 1e9) for key, share_s in shares.items()})

    def _write_ahead(self, worker_id: WorkerId, *, until_ns: int) -> None:
        ahead = self._ahead.get(worker_id, [])
        if ahead:
            self._weigh(worker_id)
        while ahead and ahead[0].at_ns <= until_ns:
            switch = ahead.pop(0)
            if not ahead or ahead[0].at_ns > switch.at_ns:
                self._write(worker_id, switch.phase, switch.at_ns, switch.reason)
                self._shares_of_open(worker_id).update(switch.shares_ns)
            else:  # it lasted no time at all
                ahead[0].shares_ns.update(switch.shares_ns)

    def _write(
        self, worker_id: WorkerId, phase: Phase, at_ns: int, reason: str, *, estimated: bool = False
    ) -> None:
        """Close the open segment and open the next."""
        segment = self._open[worker_id]
        if phase is segment.phase and reason != _CONTINUED:
            return
        at_ns = max(at_ns, segment.start_boot_ns)
        closed = replace(segment, end_boot_ns=at_ns, close_reason=reason, estimated=estimated)
        opened = replace(
            segment,
            seq=segment.seq + 1,
            phase=phase,
            start_boot_ns=at_ns,
            start_wall_ms=self._wall_ms_of(at_ns),
        )
        self._open[worker_id] = opened
        self._add(SegmentClosed(segment=with_shares(closed, self._shares_ns.pop(worker_id, Counter()))))
        self._add(SegmentOpened(segment=opened))

    def _begin(self, worker: Worker, phase: Phase, at_ns: int) -> None:
        opened = Segment(
            worker_id=worker.id,
            seq=self._slept.pop(worker.id, 0),
            phase=phase,
            endpoint=worker.endpoint,
            revision=worker.revision,
            gpu_uuids=worker.gpu_uuids,
            boot_id=self._clock.boot_id,
            start_boot_ns=at_ns,
            start_wall_ms=self._wall_ms_of(at_ns),
            share_ppm=worker.gpu_slice.share_ppm if worker.gpu_slice else WHOLE_PPM,
        )
        self._open[worker.id] = opened
        self._signs[worker.id] = _Sign(at_ns, wall_ahead_ns(self._clock))
        self._add(SegmentOpened(segment=opened))

    def _take_leases(self, worker: Worker, at_ns: int) -> None:
        boot_id, part = self._clock.boot_id, worker.gpu_slice
        for uuid in worker.gpu_uuids:
            lease = LeaseOpened(
                gpu_uuid=uuid, worker_id=worker.id, boot_id=boot_id, at_boot_ns=at_ns, gpu_slice=part
            )
            self._add(lease)

    def _give_back_leases(self, worker: Worker, at_ns: int) -> None:
        for uuid in worker.gpu_uuids:
            self._add(LeaseClosed(gpu_uuid=uuid, worker_id=worker.id, at_boot_ns=at_ns))

    def _wall_ms_of(self, boot_ns: int) -> int:
        return self._clock.at_ms() - (self._clock.boot_ns() - boot_ns) // 1_000_000

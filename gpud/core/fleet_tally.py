"""Counts what happens to the fleet, from the changes that are written down anyway."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.gpu import WHOLE_PPM
from gpud.core.records import (
    ColdStartSaved,
    EnergyDrawn,
    EventRecorded,
    SegmentClosed,
    SegmentOpened,
    WorkerMoved,
)
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpud.core.cold_start import ColdStart
    from gpud.core.metering import Segment
    from gpud.core.records import FleetChange

START_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
WAIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_LEAVING = frozenset({WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.FAILED, WorkerState.LOST})
_STARTS_REMEMBERED = 1000


@dataclass(slots=True)
class Histogram:
    """How often a value fell into which range.

    Args:
        buckets: Upper bounds, rising.
        counts: One for each bucket, and one for what is larger than all.
    """

    buckets: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.buckets) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.buckets, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Values so far."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """Each bucket's bound, and how many values were not larger."""
        found, below = [], 0
        for bound, count in zip((*map(_bound, self.buckets), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, below))
        return found


def _bound(bucket: float) -> str:
    return f"{bucket:g}"


class FleetTally:
    """Fed by the journal with each change, and by the reconciler with what the gateway counted.

    Nothing here survives a restart: counters begin at 0, as scrapers expect.
    """

    def __init__(self) -> None:
        self.starts: dict[str, Histogram] = {}
        self.phases: dict[tuple[str, str], Histogram] = {}
        self.stops: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.events: Counter[str] = Counter()
        self.queue_waits: dict[str, Histogram] = {}
        self.services: dict[str, Histogram] = {}
        self.arrivals: Counter[str] = Counter()
        self.energy_mj: Counter[tuple[str, str]] = Counter()
        self._gpu_ns: Counter[tuple[str, str]] = Counter()
        self._open: dict[str, Segment] = {}
        self._counted: dict[str, None] = {}

    def note(self, change: FleetChange) -> None:
        """Take a change into account."""
        match change:
            case EventRecorded():
                self.events[change.kind] += 1
            case WorkerMoved():
                self._note_move(change)
            case ColdStartSaved():
                self._note_start(change.start)
            case SegmentOpened():
                self._open[change.segment.worker_id] = change.segment
            case SegmentClosed():
                segment = change.segment
                self._open.pop(segment.worker_id, None)
                self._gpu_ns[segment.endpoint, segment.phase] += _gpu_ns(segment, segment.end_boot_ns or 0)
            case EnergyDrawn():
                self.energy_mj[change.holder.endpoint, change.holder.phase] += change.mj
            case _:
                pass

    def resume(self, segments: Iterable[Segment]) -> None:
        """Go on with the segments that were open when the last daemon ended."""
        self._open.update({segment.worker_id: segment for segment in segments})

    def note_exchanges(self, endpoint: str, exchanges: Iterable[tuple[float, float, float]]) -> None:
        """Take in requests that ended: loop times of arrival, dispatch and end."""
        waits = self.queue_waits.setdefault(endpoint, Histogram(WAIT_BUCKETS_S))
        services = self.services.setdefault(endpoint, Histogram(WAIT_BUCKETS_S))
        for arrived_s, dispatched_s, ended_s in exchanges:
            if dispatched_s >= 0:
                waits.observe(max(dispatched_s - arrived_s, 0.0))
                services.observe(max(ended_s - dispatched_s, 0.0))

    def gpu_seconds(self, now_boot_ns: int) -> dict[tuple[str, str], float]:
        """GPU time by endpoint and phase, what runs now included."""
        sums = Counter(self._gpu_ns)
        for segment in self._open.values():
            sums[segment.endpoint, segment.phase] += _gpu_ns(segment, now_boot_ns)
        return {key: ns / 1e9 for key, ns in sums.items()}

    def _note_move(self, change: WorkerMoved) -> None:
        worker = change.worker
        if worker.state in _LEAVING and change.from_state not in _LEAVING:
            self.stops[worker.endpoint, worker.cause] += 1
            if worker.failed:
                self.failures[worker.endpoint, worker.cause] += 1

    def _note_start(self, start: ColdStart) -> None:
        """A start is saved once more when its first request was answered; it counts once."""
        if start.worker_id in self._counted:
            return
        self._counted[start.worker_id] = None
        if len(self._counted) > _STARTS_REMEMBERED:
            del self._counted[next(iter(self._counted))]
        self.starts.setdefault(start.endpoint, Histogram(START_BUCKETS_S)).observe(start.total_ns / 1e9)
        for phase, ns in start.phases_ns.items():
            key = (start.endpoint, phase.value)
            self.phases.setdefault(key, Histogram(START_BUCKETS_S)).observe(ns / 1e9)


def _gpu_ns(segment: Segment, until_ns: int) -> int:
    return max(until_ns - segment.start_boot_ns, 0) * len(segment.gpu_uuids) * segment.share_ppm // WHOLE_PPM

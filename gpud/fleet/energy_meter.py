"""Counts what GPUs draw, and shares it out among those who have them."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from gpud.core.energy import active_ns, drawn, holders, look_of, parts_of, shared_out
from gpud.core.gpu import WHOLE_PPM
from gpud.core.ids import WorkerId
from gpud.core.metering import Phase
from gpud.core.records import EnergyDrawn, SegmentClosed, SegmentOpened

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpud.core.energy import Drawn, EnergyLook, Part
    from gpud.core.gpu import GpuReading
    from gpud.core.ids import GpuUuid
    from gpud.core.metering import Segment
    from gpud.fleet.journal import Journal
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock

log = structlog.get_logger(__name__)

_LOOKS_KEPT = 512
"""Of each worker: more than an hour of them, for what its jobs drew."""
_SEGMENTS_KEPT = 16_384
"""While a GPU tells nothing; what it drew in those that are older is nobody's, once it tells."""


class EnergyMeter:
    """Fed by the journal with segments, and by the sampler with readings.

    Args:
        state: The fleet, to read.
        journal: Tells of segments, and takes what was drawn into the next round's transaction.
        clock: CLOCK_BOOTTIME measures; wall time says which hour.
    """

    def __init__(self, state: FleetState, journal: Journal, clock: Clock) -> None:
        self._state = state
        self._journal = journal
        self._clock = clock
        self._looks: dict[GpuUuid, EnergyLook] = {}
        self._open: dict[WorkerId, Segment] = {}
        self._closed: deque[Segment] = deque(maxlen=_SEGMENTS_KEPT)
        self._active: dict[WorkerId, deque[tuple[int, int]]] = {}
        """Of each worker: millijoules and nanoseconds between looks in which requests ran, newest last."""
        self._drew: dict[str, tuple[int, int]] = {}
        """Since the last look: of each worker what it drew while requests ran, and since when."""
        journal.listeners.append(self.note)

    def resume(self, segments: Iterable[Segment]) -> None:
        """Go on with the segments that were open when the last daemon ended."""
        self._open.update({segment.worker_id: segment for segment in segments})

    def note(self, change: object) -> None:
        """Take a change into account."""
        match change:
            case SegmentOpened(segment=segment):
                self._open[segment.worker_id] = segment
            case SegmentClosed(segment=segment):
                self._open.pop(segment.worker_id, None)
                self._closed.append(segment)
            case _:
                pass

    def boards(self) -> tuple[GpuUuid, ...]:
        """GPUs in MIG mode: their counter counts for all of their devices."""
        parents = {status.gpu.mig_parent for status in self._state.gpus.values()}
        return tuple(sorted(parent for parent in parents if parent is not None))

    def take(self, readings: Iterable[GpuReading], at_ns: int) -> None:
        """Account for what was drawn since the last look at each GPU.

        Args:
            readings: Of whole GPUs, those in MIG mode included; others tell no energy.
            at_ns: CLOCK_BOOTTIME of the look.
        """
        self._drew.clear()
        ahead_ns = self._clock.wall_ns() - self._clock.boot_ns()
        for reading in readings:
            look, before = look_of(reading, at_ns), self._looks.get(reading.uuid)
            if look.counter_mj is None and look.power_mw is None:
                continue
            self._looks[reading.uuid] = look
            if before is None or at_ns <= before.at_ns:
                continue
            found = drawn(before, look)
            if found.refused:
                log.warning(
                    "gpu.energy_refused",
                    gpu_uuid=reading.uuid,
                    before_mj=before.counter_mj,
                    after_mj=look.counter_mj,
                )
            elif found.mj:
                parts = parts_of(before.at_ns, at_ns, ahead_ns=ahead_ns)
                for part, mj in shared_out(found.mj, [(each, each.end_ns - each.start_ns) for each in parts]):
                    self._share_out(reading, replace(found, mj=mj), part, since_ns=before.at_ns)
        self._remember(at_ns)
        self._forget_told(at_ns)
        for worker_id in self._active.keys() - self._state.workers.keys():
            del self._active[worker_id]

    def _forget_told(self, at_ns: int) -> None:
        """Keep those closed segments of which some GPU has yet to say what it drew."""
        looked_ns = {str(uuid): look.at_ns for uuid, look in self._looks.items()}
        for uuid, status in self._state.gpus.items():
            if status.gpu.mig_parent in self._looks:
                looked_ns[str(uuid)] = self._looks[status.gpu.mig_parent].at_ns
        kept = [
            each
            for each in self._closed
            if any((each.end_boot_ns or 0) > looked_ns.get(uuid, at_ns) for uuid in each.gpu_uuids)
        ]
        self._closed = deque(kept, maxlen=_SEGMENTS_KEPT)

    def _share_out(self, reading: GpuReading, found: Drawn, part: Part, *, since_ns: int) -> None:
        parts = {
            str(uuid): min(WHOLE_PPM, status.gpu.memory_mib * WHOLE_PPM // max(1, reading.total_mib))
            for uuid, status in self._state.gpus.items()
            if status.gpu.mig_parent == reading.uuid
        } or {str(reading.uuid): WHOLE_PPM}
        weights = holders(
            (*self._closed, *self._open.values()),
            start_ns=part.start_ns,
            end_ns=part.end_ns,
            parts_ppm=parts,
        )
        for holder, mj in shared_out(found.mj, list(weights.items())):
            self._journal.add(
                EnergyDrawn(
                    gpu_uuid=reading.uuid,
                    holder=holder,
                    hour=part.hour,
                    minute=part.minute,
                    mj=mj,
                    sampled_mj=mj if found.sampled else 0,
                )
            )
            if holder.phase is Phase.ACTIVE:
                drew_mj, _since_ns = self._drew.get(holder.worker_id, (0, 0))
                self._drew[holder.worker_id] = (drew_mj + mj, since_ns)

    def _remember(self, end_ns: int) -> None:
        """Keep what each worker drew while requests ran, on all of its GPUs, and how long they ran."""
        segments = (*self._closed, *self._open.values())
        for worker, (mj, start_ns) in self._drew.items():
            worker_id = WorkerId(worker)
            if worker_id in self._state.workers:
                mine = [each for each in segments if each.worker_id == worker]
                ns = active_ns(mine, start_ns=start_ns, end_ns=end_ns)
                self._active.setdefault(worker_id, deque(maxlen=_LOOKS_KEPT)).append((mj, ns))

    def drawn_mj(self, worker_id: WorkerId, ns: int) -> int:
        """What a worker drew in so much of the time in which requests ran lately; 0 where nothing is known.

        Args:
            worker_id: Which one.
            ns: Of its time; what it drew in the last so much of it counts, scaled where less is known.
        """
        mj = seen_ns = 0
        for one_mj, one_ns in reversed(self._active.get(worker_id, ())):
            mj, seen_ns = mj + one_mj, seen_ns + one_ns
            if seen_ns >= ns:
                break
        return mj * ns // seen_ns if seen_ns else 0

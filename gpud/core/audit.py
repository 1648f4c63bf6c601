"""Do the metering and lease records keep their promises? One sentence for each that does not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from gpud.core.gpu import WHOLE_PPM
from gpud.core.usage import hours_of
from gpud.core.usage_keys import key_hours_of
from gpud.core.worker import HOLDS_GPUS, Cause, WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gpud.core.ids import GpuUuid, WorkerId
    from gpud.core.metering import Segment
    from gpud.core.usage import UsageRow
    from gpud.core.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """One hold of one GPU, as it was written down; `released_boot_ns` is None while open.

    Args:
        memory_mib: The slice that it is; 0 for the whole GPU.
        of_mib: The GPU's memory, with a slice.
    """

    gpu_uuid: GpuUuid
    worker_id: WorkerId
    boot_id: str
    leased_boot_ns: int
    released_boot_ns: int | None
    memory_mib: int = 0
    of_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HourRecord:
    """A worker's time in one phase in one hour since 1970, as it was summed up."""

    worker_id: WorkerId
    hour: int
    phase: str
    ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHourRecord:
    """What a key had of a worker's time in one phase in one hour since 1970, as it was summed up."""

    worker_id: WorkerId
    hour: int
    phase: str
    key: str
    ns: int


def segment_breaches(segments: Sequence[Segment]) -> Iterator[str]:
    """Check one worker's segments, in order of `seq`.

    They count from 0 without gaps, only the last may be open, and each begins at the
    nanosecond at which the one before it ended, unless the worker slept or the machine was started anew
    in between.
    """
    if not segments:
        return
    worker_id = segments[0].worker_id
    for i, segment in enumerate(segments):
        if segment.seq != i:
            yield f"Worker {worker_id}: segment {segment.seq} stands where segment {i} should be."
            return
    for before, after in pairwise(segments):
        if before.end_boot_ns is None:
            yield f"Worker {worker_id}: segment {before.seq} is open, though segment {after.seq} follows it."
        elif before.boot_id != after.boot_id:
            continue
        elif after.start_boot_ns < before.end_boot_ns:
            overlap_ns = before.end_boot_ns - after.start_boot_ns
            yield f"Worker {worker_id}: segments {before.seq} and {after.seq} overlap by {overlap_ns} ns."
        elif after.start_boot_ns > before.end_boot_ns and not _fell_asleep(before):
            gap_ns = after.start_boot_ns - before.end_boot_ns
            yield (
                f"Worker {worker_id}: {gap_ns} ns between segments {before.seq} and {after.seq} "
                "are metered nowhere."
            )


def _fell_asleep(segment: Segment) -> bool:
    """Whether a worker gave its GPUs back with the end of a segment, to take others when it wakes."""
    return segment.close_reason == Cause.FELL_ASLEEP


def lease_overlaps(leases: Iterable[LeaseRecord]) -> Iterator[str]:
    """Check that no GPU ever had two holders, but those of slices that fit it together.

    Args:
        leases: In the order in which they were opened.
    """
    of_gpu: defaultdict[GpuUuid, list[LeaseRecord]] = defaultdict(list)
    for lease in leases:
        of_gpu[lease.gpu_uuid].append(lease)
    for gpu_uuid, held in sorted(of_gpu.items()):
        others: list[LeaseRecord] = []
        for lease in held:
            others = [other for other in others if _still_held(other, lease)]
            yield from _beside(gpu_uuid, others, lease)
            others.append(lease)


def _still_held(before: LeaseRecord, after: LeaseRecord) -> bool:
    """Whether one hold had not ended when another began."""
    if before.released_boot_ns is None:
        return True
    return before.boot_id == after.boot_id and after.leased_boot_ns < before.released_boot_ns


def _beside(gpu_uuid: GpuUuid, others: Sequence[LeaseRecord], lease: LeaseRecord) -> Iterator[str]:
    for other in others:
        if other.memory_mib and lease.memory_mib:
            continue
        if other.released_boot_ns is None:
            yield f"GPU {gpu_uuid}: leased to {lease.worker_id} while {other.worker_id} holds it."
        else:
            overlap_ns = other.released_boot_ns - lease.leased_boot_ns
            yield (
                f"GPU {gpu_uuid}: the leases of {other.worker_id} and {lease.worker_id} "
                f"overlap by {overlap_ns} ns."
            )
    together_mib = lease.memory_mib + sum(other.memory_mib for other in others)
    if lease.memory_mib and together_mib > lease.of_mib:
        yield (
            f"GPU {gpu_uuid}: {together_mib} MiB of {lease.of_mib} were leased at once when "
            f"{lease.worker_id} got its slice."
        )


def lease_time_breaches(segments: Sequence[Segment], leases: Sequence[LeaseRecord]) -> Iterator[str]:
    """Check that one worker's segments cover exactly its leases, to the nanosecond.

    Args:
        segments: Of the worker, in order of `seq`.
        leases: Of the worker.
    """
    metered = set(_metered_holds(segments))
    leased = {
        (lease.gpu_uuid, lease.boot_id, lease.leased_boot_ns, lease.released_boot_ns) for lease in leases
    }
    worker_id = (segments or leases)[0].worker_id if segments or leases else ""
    for gpu_uuid, _boot, start_ns, end_ns in sorted(metered - leased, key=repr):
        yield (
            f"Worker {worker_id}: segments meter GPU {gpu_uuid} from {start_ns} to {_end(end_ns)}, "
            "which no lease matches."
        )
    for gpu_uuid, _boot, start_ns, end_ns in sorted(leased - metered, key=repr):
        yield (
            f"Worker {worker_id}: the lease of GPU {gpu_uuid} from {start_ns} to {_end(end_ns)} "
            "is not what its segments meter."
        )


def hour_breaches(segments: Sequence[Segment], hours: Sequence[HourRecord]) -> Iterator[str]:
    """Check that one worker's hours are the sums of its closed segments, to the nanosecond."""
    summed: defaultdict[tuple[int, str], int] = defaultdict(int)
    for segment in segments:
        if segment.end_boot_ns is not None:
            for hour, ns in hours_of(segment):
                summed[hour, segment.phase.value] += ns
    written = {(record.hour, record.phase): record.ns for record in hours}
    for hour, phase in sorted(summed.keys() | written.keys()):
        expected_ns, found_ns = summed.get((hour, phase), 0), written.get((hour, phase), 0)
        if expected_ns != found_ns:
            worker_id = (segments[0] if segments else hours[0]).worker_id
            yield (
                f"Worker {worker_id}: its segments have {expected_ns} ns in phase {phase} in hour {hour}, "
                f"but usage is summed to {found_ns} ns."
            )


def key_breaches(segments: Sequence[Segment], hours: Sequence[KeyHourRecord]) -> Iterator[str]:
    """Check that what keys had of one worker's hours is the sum of its closed segments, to the nanosecond."""
    summed: defaultdict[tuple[int, str, str], int] = defaultdict(int)
    for segment in segments:
        for hour, key, ns in key_hours_of(segment):
            summed[hour, segment.phase.value, key] += ns
        used_ns = sum(ns for _key, ns in segment.keys)
        if segment.end_boot_ns is not None and used_ns > segment.duration_ns:
            yield (
                f"Worker {segment.worker_id}: segment {segment.seq} is {segment.duration_ns} ns long, "
                f"and keys had {used_ns} ns of it."
            )
    written = {(record.hour, record.phase, record.key): record.ns for record in hours}
    for place in sorted(summed.keys() | written.keys()):
        expected_ns, found_ns = summed.get(place, 0), written.get(place, 0)
        if expected_ns != found_ns:
            worker_id = (segments[0] if segments else hours[0]).worker_id
            hour, phase, key = place
            yield (
                f"Worker {worker_id}: its segments have {expected_ns} ns of {key} in phase {phase} in hour "
                f"{hour}, but usage is summed to {found_ns} ns."
            )


def worker_breaches(
    worker: Worker, leases: Sequence[LeaseRecord], segments: Sequence[Segment]
) -> Iterator[str]:
    """Check that what a worker says it holds is what it is leased and metered for, now.

    Args:
        worker: As stored.
        leases: Its open ones.
        segments: Its open ones.
    """
    leased = {lease.gpu_uuid for lease in leases}
    if worker.state in HOLDS_GPUS:
        for gpu_uuid in sorted(set(worker.gpu_uuids) - leased):
            yield f"Worker {worker.id} is {worker.state} on GPU {gpu_uuid} without a lease."
        for gpu_uuid in sorted(leased - set(worker.gpu_uuids)):
            yield f"Worker {worker.id} is {worker.state} and leases GPU {gpu_uuid}, which it does not say."
        if not segments:
            yield f"Worker {worker.id} is {worker.state} and is not metered."
        return
    for gpu_uuid in sorted(leased):
        yield f"Worker {worker.id} is {worker.state} and still leases GPU {gpu_uuid}."
    if segments:
        what = "gone" if worker.state is WorkerState.GONE else worker.state.value
        yield f"Worker {worker.id} is {what} and still metered in segment {segments[0].seq}."


def total_breaches(groupings: Mapping[str, Sequence[UsageRow]]) -> Iterator[str]:
    """Check that every grouping of the same usage has the same GPU time, phase by phase, unrounded."""
    totals = {name: _phase_totals(lines) for name, lines in groupings.items()}
    for (name, total), (other, other_total) in pairwise(totals.items()):
        for phase in sorted(total.keys() | other_total.keys()):
            if total[phase] != other_total[phase]:
                yield (
                    f"GPU time in phase {phase} is {_ns(total[phase])} ns by {name} "
                    f"but {_ns(other_total[phase])} ns by {other}."
                )


def _metered_holds(segments: Sequence[Segment]) -> Iterator[tuple[GpuUuid, str, int, int | None]]:
    """Join segments that follow each other on the same GPUs: what a lease of them would be.

    A worker that wakes in the moment it fell asleep has another lease all the same.
    """
    run: list[Segment] = []
    for segment in segments:
        if run and not _continues(run[-1], segment):
            yield from _hold_of(run)
            run = []
        run.append(segment)
    if run:
        yield from _hold_of(run)


def _continues(before: Segment, after: Segment) -> bool:
    return (
        before.boot_id == after.boot_id
        and not _fell_asleep(before)
        and before.end_boot_ns == after.start_boot_ns
        and before.gpu_uuids == after.gpu_uuids
    )


def _hold_of(run: list[Segment]) -> Iterator[tuple[GpuUuid, str, int, int | None]]:
    for gpu_uuid in run[0].gpu_uuids:
        yield gpu_uuid, run[0].boot_id, run[0].start_boot_ns, run[-1].end_boot_ns


def _phase_totals(lines: Sequence[UsageRow]) -> defaultdict[str, int]:
    totals: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        for phase, ns in line.phases_ppm_ns.items():
            totals[phase] += ns
    return totals


def _ns(ppm_ns: int) -> str:
    whole, part = divmod(ppm_ns, WHOLE_PPM)
    return f"{whole}.{part:06}".rstrip("0").rstrip(".") if part else str(whole)


def _end(end_ns: int | None) -> str:
    return "now" if end_ns is None else str(end_ns)

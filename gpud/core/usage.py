"""Metering segments into usage lines: split at UTC hours and days, summed exactly.

A segment's length comes from the boot clock; wall time only says which hour it fell into. The
pieces of a split segment sum to its length to the nanosecond, so every grouping of the same
segments has the same total.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING

from gpud.core.metering import BILLABLE, billed_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpud.core.metering import Phase, Segment

_NS_PER_MS = 1_000_000
HOUR_NS = 3600 * 1_000_000_000
DAY_NS = 24 * HOUR_NS


class UsageBy(StrEnum):
    """What a usage report has one line for."""

    ENDPOINT = "endpoint"
    WORKER = "worker"
    GPU = "gpu"
    DAY = "day"
    HOUR = "hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One line of a usage report.

    Args:
        key: The endpoint, worker, GPU UUID, day (`2026-11-21`) or hour (`2026-11-21T14`), UTC.
        gpu_ns: Billable GPU nanoseconds (time x GPUs).
        wall_ns: Billable nanoseconds whatever the number of GPUs; what CPU workers have.
        billed_seconds: Sum over worker sessions of each rounded up once; a session's GPU
            time, or its plain time when it has no GPU. A session counts whole where it ended
            (an open one: where it is now), so a report over a period has the sessions that
            ended in it.
        sessions: Sessions that count into `billed_seconds`.
        phases_ns: GPU nanoseconds by phase, unbilled ones included.
    """

    key: str
    gpu_ns: int
    wall_ns: int
    billed_seconds: int
    sessions: int
    phases_ns: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Now, as far as open segments go.

    Args:
        boot_id: Of the running kernel.
        boot_ns: CLOCK_BOOTTIME.
        last_seen: The last heartbeat (boot_id, boot_ns), which ends segments of another boot.
    """

    boot_id: str
    boot_ns: int
    last_seen: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A stretch of wall time; None is without bound.

    Args:
        since_ns: First Unix nanosecond in it.
        until_ns: First Unix nanosecond after it.
    """

    since_ns: int | None = None
    until_ns: int | None = None

    def clip(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """The part of a stretch that lies in the period; empty (end = start) when none does."""
        start_ns = start_ns if self.since_ns is None else max(start_ns, self.since_ns)
        end_ns = end_ns if self.until_ns is None else min(end_ns, self.until_ns)
        return start_ns, max(start_ns, end_ns)

    def holds(self, at_ns: int) -> bool:
        """Whether a moment lies in the period."""
        after_start = self.since_ns is None or at_ns >= self.since_ns
        return after_start and (self.until_ns is None or at_ns < self.until_ns)


@dataclass(slots=True, kw_only=True)
class _Sum:
    gpu_ns: int = 0
    wall_ns: int = 0
    billed_seconds: int = 0
    sessions: int = 0
    phases_ns: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, phase: Phase, *, ns: int, gpus: int) -> None:
        self.phases_ns[phase.value] += ns * gpus
        if phase in BILLABLE:
            self.gpu_ns += ns * gpus
            self.wall_ns += ns


def ended_by(segment: Segment, now: Moment) -> Segment:
    """Count an open segment up to now, or up to the last heartbeat when its boot is over."""
    if segment.end_boot_ns is not None:
        return segment
    if segment.boot_id == now.boot_id:
        end_ns = now.boot_ns
    elif now.last_seen is not None and now.last_seen[0] == segment.boot_id:
        end_ns = now.last_seen[1]
    else:
        end_ns = segment.start_boot_ns
    return replace(segment, end_boot_ns=max(end_ns, segment.start_boot_ns))


def split(start_ns: int, end_ns: int, every_ns: int) -> Iterator[tuple[int, int]]:
    """Cut a stretch at the multiples of `every_ns`.

    Yields:
        `(bucket start, nanoseconds in it)`; the nanoseconds sum to the stretch.
    """
    while start_ns < end_ns:
        bucket_ns = start_ns - start_ns % every_ns
        piece_end_ns = min(end_ns, bucket_ns + every_ns)
        yield bucket_ns, piece_end_ns - start_ns
        start_ns = piece_end_ns


def usage_rows(segments: Iterable[Segment], *, by: UsageBy, period: Period) -> tuple[UsageRow, ...]:
    """Sum segments into report lines.

    Args:
        segments: Closed (see `ended_by`), whole sessions, in order of worker and `seq`.
        by: What has a line.
        period: What counts; time outside is left out.

    Returns:
        Lines by key; those without any time or session are left out.
    """
    sums: defaultdict[str, _Sum] = defaultdict(_Sum)
    for _worker, session in groupby(segments, key=lambda segment: segment.worker_id):
        _add_session(list(session), sums, by=by, period=period)
    return tuple(
        UsageRow(
            key=key,
            gpu_ns=total.gpu_ns,
            wall_ns=total.wall_ns,
            billed_seconds=total.billed_seconds,
            sessions=total.sessions,
            phases_ns=dict(sorted(total.phases_ns.items())),
        )
        for key, total in sorted(sums.items())
    )


def _add_session(
    session: list[Segment], sums: defaultdict[str, _Sum], *, by: UsageBy, period: Period
) -> None:
    for segment in session:
        start_ns, end_ns = period.clip(*_wall_span(segment))
        if start_ns == end_ns:
            continue
        for key, gpus, ns in _pieces(segment, start_ns, end_ns, by):
            sums[key].add(segment.phase, ns=ns, gpus=gpus)
    last_start_ns, last_end_ns = _wall_span(session[-1])
    # A session that ends on the hour ended in the hour before.
    ended_ns = max(last_start_ns, last_end_ns - 1)
    if not period.holds(ended_ns):
        return
    for key, billed in _billed(session, ended_ns, by):
        sums[key].sessions += 1
        sums[key].billed_seconds += billed


def _pieces(segment: Segment, start_ns: int, end_ns: int, by: UsageBy) -> Iterator[tuple[str, int, int]]:
    gpus = len(segment.gpu_uuids)
    match by:
        case UsageBy.ENDPOINT:
            yield segment.endpoint, gpus, end_ns - start_ns
        case UsageBy.WORKER:
            yield segment.worker_id, gpus, end_ns - start_ns
        case UsageBy.GPU:
            for uuid in segment.gpu_uuids:
                yield uuid, 1, end_ns - start_ns
        case UsageBy.DAY:
            for bucket_ns, ns in split(start_ns, end_ns, DAY_NS):
                yield _label(bucket_ns, by), gpus, ns
        case UsageBy.HOUR:
            for bucket_ns, ns in split(start_ns, end_ns, HOUR_NS):
                yield _label(bucket_ns, by), gpus, ns


def _billed(session: list[Segment], ended_ns: int, by: UsageBy) -> Iterator[tuple[str, int]]:
    billable = [segment for segment in session if segment.phase in BILLABLE]
    if by is UsageBy.GPU:
        for uuid in sorted({uuid for segment in session for uuid in segment.gpu_uuids}):
            held_ns = sum(segment.duration_ns for segment in billable if uuid in segment.gpu_uuids)
            yield uuid, billed_seconds(held_ns)
        return
    # A worker either has GPUs or has none, all its life.
    gpu_ns = sum(segment.duration_ns * len(segment.gpu_uuids) for segment in billable)
    billed = billed_seconds(gpu_ns or sum(segment.duration_ns for segment in billable))
    match by:
        case UsageBy.ENDPOINT:
            yield session[0].endpoint, billed
        case UsageBy.WORKER:
            yield session[0].worker_id, billed
        case UsageBy.DAY | UsageBy.HOUR:
            yield _label(ended_ns, by), billed


def _wall_span(segment: Segment) -> tuple[int, int]:
    start_ns = segment.start_wall_ms * _NS_PER_MS
    return start_ns, start_ns + segment.duration_ns


def _label(at_ns: int, by: UsageBy) -> str:
    at = datetime.fromtimestamp(at_ns // 1_000_000_000, tz=UTC)
    return at.strftime("%Y-%m-%d" if by is UsageBy.DAY else "%Y-%m-%dT%H")

"""Metering segments into usage lines: split at UTC hours and days, summed exactly.

A segment's length comes from the boot clock; wall time only says which hour it fell into. The
pieces of a split segment sum to its length to the nanosecond, so every grouping of the same
segments has the same total.

Closed segments are summed by worker, phase and hour when they are written (`hours_of`), so that a
report reads hours and not every flip between active and idle. Only an hour that a period cuts
through needs its segments (`cut_hour`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.gpu import WHOLE_PPM
from gpud.core.key_shares import line_of
from gpud.core.metering import BILLABLE, billed_seconds, half_even

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from gpud.core.metering import Phase, Segment

    Price = Callable[[GpuUuid, int], int]

NS_PER_MS = 1_000_000
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS


class UsageBy(StrEnum):
    """What a usage report has one line for."""

    ENDPOINT = "endpoint"
    WORKER = "worker"
    KEY = "key"
    GPU = "gpu"
    PHASE = "phase"
    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"
    SECOND = "second"


UNLEASED = "(unleased)"
"""The line of time in which nobody had a GPU, where lines are of those who have them."""

UNTIMED = "(untimed)"
"""The line of energy that cannot be told by so short a time, in reports by the minute and the second."""

FINER_NS = {UsageBy.MINUTE: MINUTE_NS, UsageBy.SECOND: SECOND_NS}
"""Lines that the sums by hour cannot give, with the length of each."""

_LABELS = {
    UsageBy.DAY: "%Y-%m-%d",
    UsageBy.HOUR: "%Y-%m-%dT%H",
    UsageBy.MINUTE: "%Y-%m-%dT%H:%M",
    UsageBy.SECOND: "%Y-%m-%dT%H:%M:%S",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One line of a usage report.

    Args:
        key: The endpoint, worker, API key, GPU UUID, phase, day (`2026-11-21`), hour (`2026-11-21T14`),
            minute (`2026-11-21T14:05`) or second (`2026-11-21T14:05:09`), UTC.
        gpu_ns: Billable GPU nanoseconds (time x GPUs, a slice as the part of a GPU that it is).
        wall_ns: Billable nanoseconds whatever the number of GPUs; what CPU workers have.
        billed_seconds: Sum over worker sessions of each rounded up once; a session's GPU
            time, or its plain time when it has no GPU. A session counts whole where it ended
            (an open one: where it is now), so a report over a period has the sessions that
            ended in it.
        sessions: Sessions that count into `billed_seconds`; none of a phase or an API key, since a session
            has several.
        phases_ns: GPU nanoseconds by phase, unbilled ones included; a slice of a GPU counts as the
            part it is, rounded down once a line.
        phases_ppm_ns: The same in millionths of a GPU, where nothing is rounded.
        cost_micros: Price of the billable GPU time, rounded half to even once.
        energy_mj: Millijoules drawn, whatever the phase.
        sampled_mj: What of it was reckoned from power.
    """

    key: str
    gpu_ns: int
    wall_ns: int
    billed_seconds: int
    sessions: int
    phases_ns: dict[str, int]
    phases_ppm_ns: dict[str, int] = field(default_factory=dict)
    cost_micros: int = 0
    energy_mj: int = 0
    sampled_mj: int = 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Time one worker spent in one phase, within one line's bucket.

    Args:
        at_ns: A Unix nanosecond in the hour or day it counts into.
        ns: How long, whatever the number of GPUs.
        share_ppm: The part of each GPU that was the worker's, in millionths.
        priced_ns: A Unix nanosecond whose prices hold for all of it.
        key: The API key whose requests ran; empty where none did, and where nobody asks by key.
        begins_ns: The Unix nanosecond at which it begins, where it comes straight from a segment.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    gpu_uuids: tuple[GpuUuid, ...]
    phase: Phase
    at_ns: int
    ns: int
    share_ppm: int = WHOLE_PPM
    priced_ns: int = 0
    key: str = ""
    begins_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A worker's whole metered life, as far as the bill goes.

    Args:
        billable_ns: Whatever the number of GPUs.
        ended_ns: Unix nanosecond of its end; of now while it is open.
        share_ppm: The part of each GPU that was the worker's, in millionths.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    gpu_uuids: tuple[GpuUuid, ...]
    billable_ns: int
    ended_ns: int
    share_ppm: int = WHOLE_PPM


@dataclass(slots=True, kw_only=True)
class _Sum:
    gpu_ppm_ns: int = 0
    priced_ppm_ns: int = 0
    wall_ns: int = 0
    billed_seconds: int = 0
    sessions: int = 0
    phases_ppm_ns: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


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


def wall_span(segment: Segment) -> tuple[int, int]:
    """First Unix nanosecond of a closed segment, and the first after it."""
    start_ns = segment.start_wall_ms * NS_PER_MS
    return start_ns, start_ns + segment.duration_ns


def ended_at(segment: Segment) -> int:
    """The Unix nanosecond at which a closed segment counts as ended.

    The last one in it: what ends on the hour ended in the hour before.
    """
    start_ns, end_ns = wall_span(segment)
    return max(start_ns, end_ns - 1)


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


def hours_of(segment: Segment) -> Iterator[tuple[int, int]]:
    """Share a closed segment out to hours.

    Yields:
        `(hours since 1970, nanoseconds)`.
    """
    for bucket_ns, ns in split(*wall_span(segment), HOUR_NS):
        yield bucket_ns // HOUR_NS, ns


def stretches_of(segment: Segment, period: Period, *, every_ns: int = HOUR_NS) -> Iterator[Stretch]:
    """The part of a closed segment that lies in a period, hour by hour or finer."""
    begins_ns, end_ns = period.clip(*wall_span(segment))
    for bucket_ns, ns in split(begins_ns, end_ns, every_ns):
        yield Stretch(
            begins_ns=max(begins_ns, bucket_ns),
            worker_id=segment.worker_id,
            endpoint=segment.endpoint,
            gpu_uuids=segment.gpu_uuids,
            phase=segment.phase,
            at_ns=bucket_ns,
            ns=ns,
            share_ppm=segment.share_ppm,
        )


def cut_hour(
    hour: int, whole: Iterable[Stretch], segments: Iterable[Segment], period: Period
) -> Iterator[Stretch]:
    """The part of one hour that lies in a period.

    What is left of a worker's hour after the segments that begin or end in it comes from segments
    that lasted through all of it, and so do all of its parts.

    Args:
        hour: Hours since 1970.
        whole: Everything in that hour, one for each worker and phase.
        segments: Every closed segment that begins or ends in that hour.
        period: What counts.
    """
    start_ns = hour * HOUR_NS
    part_start_ns, part_end_ns = period.clip(start_ns, start_ns + HOUR_NS)
    this_hour = Period(since_ns=start_ns, until_ns=start_ns + HOUR_NS)
    part = Period(since_ns=part_start_ns, until_ns=part_end_ns)
    begun_or_ended: defaultdict[tuple[str, Phase], int] = defaultdict(int)
    for segment in segments:
        inside_start_ns, inside_end_ns = this_hour.clip(*wall_span(segment))
        begun_or_ended[segment.worker_id, segment.phase] += inside_end_ns - inside_start_ns
        yield from stretches_of(segment, part)
    for stretch in whole:
        rest_ns = stretch.ns - begun_or_ended[stretch.worker_id, stretch.phase]
        part_ns = rest_ns * (part_end_ns - part_start_ns) // HOUR_NS
        if part_ns:
            yield replace(stretch, ns=part_ns)


def whole_hours(period: Period) -> tuple[int | None, int | None]:
    """First hour that lies in a period with all of it, and the first after it that does not."""
    first = None if period.since_ns is None else -(-period.since_ns // HOUR_NS)
    last = None if period.until_ns is None else period.until_ns // HOUR_NS
    return first, last


def hours_cut(period: Period) -> Sequence[int]:
    """Hours that a period's borders cut through: none, one or two."""
    borders = (period.since_ns, period.until_ns)
    return sorted({at_ns // HOUR_NS for at_ns in borders if at_ns is not None and at_ns % HOUR_NS})


def _free(_uuid: GpuUuid, _at_ns: int) -> int:
    return 0


def usage_rows(
    stretches: Iterable[Stretch],
    sessions: Iterable[Session],
    *,
    by: UsageBy,
    price: Price = _free,
) -> tuple[UsageRow, ...]:
    """Sum time and sessions into report lines.

    Args:
        stretches: All time that counts.
        sessions: All that ended in the period.
        by: What has a line.
        price: Micro-units for an hour of a GPU at a Unix nanosecond.

    Returns:
        Lines by key; those without any time or session are left out.
    """
    sums: defaultdict[str, _Sum] = defaultdict(_Sum)
    for stretch in stretches:
        for key, gpus in _lines(stretch, stretch.at_ns, by):
            _count(stretch, gpus, sums[key], price)
    for session in sessions:
        for key, gpus in _lines(session, session.ended_ns, by):
            total = sums[key]
            total.sessions += 1
            # A worker without GPUs is billed its plain time.
            weight_ppm = len(gpus) * session.share_ppm or WHOLE_PPM
            total.billed_seconds += billed_seconds(session.billable_ns * weight_ppm // WHOLE_PPM)
    return tuple(
        UsageRow(
            key=key,
            gpu_ns=total.gpu_ppm_ns // WHOLE_PPM,
            wall_ns=total.wall_ns,
            billed_seconds=total.billed_seconds,
            sessions=total.sessions,
            phases_ns={phase: ns // WHOLE_PPM for phase, ns in sorted(total.phases_ppm_ns.items())},
            phases_ppm_ns=dict(sorted(total.phases_ppm_ns.items())),
            cost_micros=half_even(total.priced_ppm_ns, HOUR_NS * WHOLE_PPM),
        )
        for key, total in sorted(sums.items(), key=lambda line: in_order(line[0]))
    )


def in_order(key: str) -> tuple[bool, str]:
    """Sorts lines: by name, and those that are nobody's last."""
    return key.startswith("("), key


def _count(stretch: Stretch, gpus: Sequence[GpuUuid], total: _Sum, price: Price) -> None:
    ppm_ns = stretch.ns * stretch.share_ppm
    total.phases_ppm_ns[stretch.phase.value] += ppm_ns * len(gpus)
    if stretch.phase in BILLABLE:
        total.gpu_ppm_ns += ppm_ns * len(gpus)
        total.wall_ns += stretch.ns
        total.priced_ppm_ns += ppm_ns * sum(price(gpu, stretch.priced_ns) for gpu in gpus)


def _lines(of: Stretch | Session, at_ns: int, by: UsageBy) -> Iterator[tuple[str, Sequence[GpuUuid]]]:
    """Which lines it counts into, each with the GPUs that count there."""
    gpus = of.gpu_uuids
    match by:
        case UsageBy.ENDPOINT:
            yield of.endpoint or UNLEASED, gpus
        case UsageBy.WORKER:
            yield of.worker_id or UNLEASED, gpus
        case UsageBy.KEY:
            if isinstance(of, Stretch):
                yield of.key or line_of(of.phase), gpus
        case UsageBy.GPU:
            for uuid in of.gpu_uuids:
                yield uuid, (uuid,)
        case UsageBy.PHASE:
            if isinstance(of, Stretch):
                yield of.phase.value, gpus
        case _:
            yield date_line(at_ns, by), gpus


def date_line(at_ns: int, by: UsageBy) -> str:
    """The line of a Unix nanosecond in a report by a length of time."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, tz=UTC).strftime(_LABELS[by])

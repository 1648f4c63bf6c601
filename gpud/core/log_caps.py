"""How much of the logs is kept, and how fast they may come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCaps:
    """The bounds.

    Args:
        keep_s: Age at which a segment is deleted.
        worker_bytes: On disk for one worker.
        total_bytes: On disk for all.
        segment_bytes: At this size a new segment is begun and the old one compressed.
        line_bytes: Kept of one line.
        rate_bytes_per_s: Of one worker; what comes faster for long is dropped and counted.
        burst_bytes: It may come at once.
    """

    keep_s: float
    worker_bytes: int
    total_bytes: int
    segment_bytes: int
    line_bytes: int
    rate_bytes_per_s: int
    burst_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a worker's log in a file of its own.

    Args:
        log: Number of the log.
        start: Of its first byte, counted from the log's very first.
        disk_bytes: It takes on disk, compressed or not.
        written_s: Unix time of its last byte.
        open: Still written to.
    """

    log: int
    start: int
    disk_bytes: int
    written_s: float
    open: bool


def surplus(segments: Iterable[Segment], caps: LogCaps, *, now_s: float) -> tuple[Segment, ...]:
    """Choose the segments to delete: too old, or the oldest of what is too much.

    Never one that is written to, and never from the middle of a log: what is left of each is its end.

    Args:
        segments: All there are.
        caps: The bounds.
        now_s: Unix time.
    """
    ordered = sorted(segments, key=lambda one: (one.log, one.start))
    by_log: dict[int, list[Segment]] = {}
    for segment in ordered:
        by_log.setdefault(segment.log, []).append(segment)
    doomed: list[Segment] = []
    left: list[Segment] = []
    for log in by_log.values():
        excess = sum(one.disk_bytes for one in log) - caps.worker_bytes
        leading = True
        for segment in log:
            old = now_s - segment.written_s > caps.keep_s
            if leading and not segment.open and (old or excess > 0):
                doomed.append(segment)
                excess -= segment.disk_bytes
            else:
                leading = False
                left.append(segment)
    excess = sum(one.disk_bytes for one in left) - caps.total_bytes
    blocked: set[int] = set()
    for segment in _oldest_first(left):
        if excess <= 0:
            break
        if segment.open or segment.log in blocked:
            blocked.add(segment.log)
            continue
        doomed.append(segment)
        excess -= segment.disk_bytes
    return tuple(doomed)


def _oldest_first(segments: list[Segment]) -> list[Segment]:
    """By age, and those of a log in their order though the wall clock may have been set back."""
    ages: dict[tuple[int, int], float] = {}
    latest: dict[int, float] = {}
    for one in segments:
        latest[one.log] = ages[one.log, one.start] = max(latest.get(one.log, 0.0), one.written_s)
    return sorted(segments, key=lambda one: (ages[one.log, one.start], one.log, one.start))


class RateLimit:
    """A bucket of bytes that fills with time.

    Args:
        bytes_per_s: It gains.
        burst_bytes: It holds; full at first.
    """

    def __init__(self, bytes_per_s: float, burst_bytes: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_bytes = burst_bytes
        self._level = burst_bytes
        self._at_s: float | None = None

    def take(self, count: int, now_s: float) -> bool:
        """Whether that many bytes may pass now; they may put the bucket in debt once."""
        if self._at_s is not None:
            gained = max(now_s - self._at_s, 0.0) * self._bytes_per_s
            self._level = min(self._level + gained, self._burst_bytes)
        self._at_s = now_s
        if self._level <= 0:
            return False
        self._level -= count
        return True

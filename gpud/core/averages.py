"""What the recent past was like: load averaged over time, and arrivals counted in a window.

Both are values: observing returns a new one. Both are bounded, however often they are told.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_GRAINS = 120
"""A span is remembered in at most about this many pieces."""

_SERVICE_DEFAULT_S = 10.0
_SERVICE_LEAST_S = 0.05
_SERVICE_SAMPLES_MIN = 5


@dataclass(frozen=True, slots=True)
class LoadAverage:
    """The area under the load's curve: any window's average is a difference of two areas.

    Points closer together than a grain are merged, which keeps every area exact at the points
    that remain and linear between them.

    Args:
        points: (loop time, request-seconds up to then), oldest first.
        load: Since the last point.
    """

    points: tuple[tuple[float, float], ...] = ()
    load: float = 0.0

    def observed(self, load: float, *, at_s: float, span_s: float, mean: float | None = None) -> LoadAverage:
        """Take note of the load from `at_s` on.

        Args:
            load: Requests waiting plus in flight.
            at_s: Loop time; an earlier one than the last counts as the last.
            span_s: Longest window that will be asked for.
            mean: Average load since the last observation, when it is known better than by
                taking the last load for constant.
        """
        if not self.points:
            return LoadAverage(((at_s, 0.0),), load)
        past = self.load if mean is None else mean
        if load == self.load == past:
            return self
        last_s, area = self.points[-1]
        at_s = max(at_s, last_s)
        points = self.points
        if len(points) > 1 and at_s - points[-2][0] < span_s / _GRAINS:
            points = points[:-1]
        elif at_s == last_s:
            return LoadAverage(points, load)
        expired = max(bisect_right(points, at_s - span_s, key=_moment) - 1, 0)
        return LoadAverage((*points[expired:], (at_s, area + past * (at_s - last_s))), load)

    def average(self, *, now_s: float, window_s: float) -> float:
        """Average load of the last `window_s` seconds, or of as much as was observed of them."""
        if not self.points:
            return 0.0
        start_s = max(now_s - window_s, self.points[0][0])
        if start_s >= now_s:
            return self.load
        return (self._area(now_s) - self._area(start_s)) / (now_s - start_s)

    def _area(self, at_s: float) -> float:
        after = bisect_right(self.points, at_s, key=_moment)
        before_s, area = self.points[after - 1]
        if after == len(self.points):
            return area + self.load * (at_s - before_s)
        after_s, after_area = self.points[after]
        return area + (after_area - area) * (at_s - before_s) / (after_s - before_s)


@dataclass(frozen=True, slots=True)
class ArrivalCount:
    """How many requests came, and when.

    Args:
        entries: (loop time, arrivals at about that time), oldest first.
        since_s: Loop time of the first observation; None before it.
    """

    entries: tuple[tuple[float, int], ...] = ()
    since_s: float | None = None

    def observed(self, arrivals: int, *, at_s: float, span_s: float) -> ArrivalCount:
        """Add arrivals, and forget those older than `span_s`."""
        since_s = at_s if self.since_s is None else self.since_s
        if not arrivals:
            return self if self.since_s is not None else ArrivalCount(self.entries, since_s)
        entries = self.entries[bisect_right(self.entries, at_s - span_s, key=_moment) :]
        if entries and at_s - entries[-1][0] < span_s / _GRAINS:
            first_s, count = entries[-1]
            return ArrivalCount((*entries[:-1], (first_s, count + arrivals)), since_s)
        return ArrivalCount((*entries, (at_s, arrivals)), since_s)

    def count(self, *, now_s: float, window_s: float) -> int:
        """Arrivals of the last `window_s` seconds."""
        first = bisect_right(self.entries, now_s - window_s, key=_moment)
        return sum(arrivals for _at_s, arrivals in self.entries[first:])

    def observed_s(self, *, now_s: float) -> float:
        """For how long arrivals have been watched; at least a second."""
        return 1.0 if self.since_s is None else max(1.0, now_s - self.since_s)


def usual_service_s(samples: Sequence[float]) -> float:
    """Usual duration of one request: the median, or a default until there are a few.

    Args:
        samples: Seconds from dispatch to the last byte, of recent requests.
    """
    if len(samples) < _SERVICE_SAMPLES_MIN:
        return _SERVICE_DEFAULT_S
    ordered = sorted(samples)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return max(median, _SERVICE_LEAST_S)


def _moment(entry: tuple[float, float]) -> float:
    return entry[0]

from __future__ import annotations

from dataclasses import replace

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.windows import NO_WINDOW, OpenWindow, WarmWindow
from gpud.errors import InvalidSpec
from gpud.fleet.state import FleetState
from gpud.fleet.windows import WindowWatch
from gpud.ports.calendar import WindowSpan
from tests.fakes.clock import FakeClock
from tests.unit.core.making import spec

ECHO = EndpointName("echo")
SMALL = WarmWindow(start="small", duration_s=1.0)
LARGE = WarmWindow(start="large", duration_s=1.0, workers=2)


class CountingCalendar:
    """Windows by their start: when they open, and when they close, in ms."""

    def __init__(self, **spans: tuple[int, int]) -> None:
        self.spans = spans
        self.asked = 0

    def faults(self, window: WarmWindow) -> dict[str, str]:
        return {} if window.start in self.spans else {"start": "must be known"}

    def span(self, window: WarmWindow, at_ms: int) -> WindowSpan:
        self.asked += 1
        opens_ms, closes_ms = self.spans[window.start]
        if at_ms < opens_ms:
            return WindowSpan(is_open=False, edge_ms=opens_ms)
        return WindowSpan(is_open=at_ms < closes_ms, edge_ms=closes_ms if at_ms < closes_ms else None)


def _watch(calendar: CountingCalendar) -> WindowWatch:
    return WindowWatch(calendar, FakeClock(), FleetState())


def _look(watch: WindowWatch, at_ms: int, *windows: WarmWindow) -> OpenWindow:
    told = spec(scale=ScalePolicy(max_workers=5, warm_windows=windows))
    return watch.look(ECHO, told, at_ms=at_ms, now_s=50.0)


def test_of_several_open_windows_the_largest_counts_until_the_first_edge() -> None:
    watch = _watch(CountingCalendar(small=(0, 9_000), large=(2_000, 5_000)))
    assert _look(watch, 1_000, SMALL, LARGE) == OpenWindow(window=SMALL, edge_s=51.0)
    assert _look(watch, 2_000, SMALL, LARGE) == OpenWindow(window=LARGE, edge_s=53.0)
    assert _look(watch, 5_000, SMALL, LARGE) == OpenWindow(window=SMALL, edge_s=54.0)
    assert _look(watch, 9_000, SMALL, LARGE) == OpenWindow()


def test_the_calendar_is_asked_at_edges_only() -> None:
    calendar = CountingCalendar(small=(2_000, 5_000))
    watch = _watch(calendar)
    for at_ms in range(0, 6_000, 10):
        _look(watch, at_ms, SMALL)
    assert calendar.asked == 3


def test_a_wall_clock_set_back_is_believed() -> None:
    watch = _watch(CountingCalendar(small=(2_000, 5_000)))
    assert _look(watch, 3_000, SMALL).workers == 1
    assert _look(watch, 1_000, SMALL).workers == 0


def test_other_windows_count_at_once() -> None:
    watch = _watch(CountingCalendar(small=(0, 5_000), large=(0, 5_000)))
    assert _look(watch, 1_000, SMALL).workers == 1
    assert _look(watch, 1_000, LARGE).workers == 2


def test_an_endpoint_without_windows_is_not_looked_up() -> None:
    calendar = CountingCalendar()
    assert _look(_watch(calendar), 0) is NO_WINDOW
    assert calendar.asked == 0


def test_expressions_that_the_calendar_does_not_know_are_refused_by_their_field() -> None:
    watch = _watch(CountingCalendar(small=(0, 1)))
    told = spec(scale=ScalePolicy(max_workers=5, warm_windows=(SMALL, replace(LARGE, start="other"))))
    with pytest.raises(InvalidSpec) as refused:
        watch.refuse_faults(told)
    assert refused.value.fields == {"scale.warm_windows.1.start": "must be known"}

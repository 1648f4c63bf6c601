from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.demand import LoadWindow

_steps = st.lists(st.tuples(st.floats(0.0, 50.0), st.integers(0, 20)), max_size=60)


def _observed(steps: list[tuple[float, int]], span_s: float) -> tuple[LoadWindow, list[tuple[float, int]]]:
    window, at_s, history = LoadWindow(), 0.0, []
    for pause_s, load in steps:
        at_s += pause_s
        window = window.observed(load, at_s=at_s, span_s=span_s)
        history.append((at_s, load))
    return window, history


@given(_steps, st.floats(0.0, 100.0))
def test_the_peak_is_the_largest_load_of_the_span(steps: list[tuple[float, int]], later_s: float) -> None:
    window, history = _observed(steps, 60.0)
    now_s = (history[-1][0] if history else 0.0) + later_s
    recent = [load for at_s, load in history if at_s > now_s - 60.0]
    newest = [history[-1][1]] if history else [0]
    assert window.peak(now_s=now_s, span_s=60.0) == max(recent + newest)


@given(_steps)
def test_only_what_may_matter_is_kept(steps: list[tuple[float, int]]) -> None:
    window, _ = _observed(steps, 60.0)
    loads = [load for _, load in window.entries]
    assert loads == sorted(loads, reverse=True)
    assert len(set(loads)) == len(loads)


@given(_steps)
def test_nothing_falls_before_it_is_said_to(steps: list[tuple[float, int]]) -> None:
    window, history = _observed(steps, 60.0)
    now_s = history[-1][0] if history else 0.0
    peak = window.peak(now_s=now_s, span_s=60.0)
    falls_at_s = window.falls_at_s(now_s=now_s, span_s=60.0)
    if falls_at_s is None:
        assert window.peak(now_s=now_s + 1e6, span_s=60.0) == peak
    else:
        assert window.peak(now_s=falls_at_s - 1e-6, span_s=60.0) == peak
        assert window.peak(now_s=falls_at_s + 1e-6, span_s=60.0) < peak


def test_an_empty_window_has_no_load() -> None:
    assert LoadWindow().peak(now_s=5.0, span_s=60.0) == 0
    assert LoadWindow().falls_at_s(now_s=5.0, span_s=60.0) is None
    assert LoadWindow().newest_s == float("-inf")


def test_the_newest_load_counts_however_old_it_is() -> None:
    window = LoadWindow().observed(3, at_s=0.0, span_s=10.0)
    assert window.peak(now_s=1000.0, span_s=10.0) == 3

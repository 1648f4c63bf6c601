from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.averages import ArrivalCount, LoadAverage, usual_service_s

steps = st.lists(st.tuples(st.floats(0.001, 30.0), st.integers(0, 50)), min_size=1, max_size=200)


def test_nothing_observed_is_no_load() -> None:
    assert LoadAverage().average(now_s=10.0, window_s=60.0) == 0.0
    assert ArrivalCount().count(now_s=10.0, window_s=60.0) == 0


def test_a_load_of_four_for_half_the_window_averages_two() -> None:
    average = LoadAverage().observed(0, at_s=0.0, span_s=60.0).observed(4, at_s=30.0, span_s=60.0)
    assert average.average(now_s=60.0, window_s=60.0) == 2.0
    assert average.average(now_s=60.0, window_s=6.0) == 4.0


def test_a_window_not_yet_full_is_averaged_over_what_was_observed() -> None:
    average = LoadAverage().observed(3, at_s=100.0, span_s=60.0)
    assert average.average(now_s=101.0, window_s=60.0) == 3.0
    assert average.average(now_s=100.0, window_s=60.0) == 3.0


def test_a_known_mean_stands_in_for_the_load_between_two_looks() -> None:
    average = LoadAverage().observed(0, at_s=0.0, span_s=60.0).observed(0, at_s=10.0, span_s=60.0, mean=1.5)
    assert math.isclose(average.average(now_s=10.0, window_s=60.0), 1.5)


@given(steps)
def test_an_average_lies_between_the_least_and_the_largest_load(history: list[tuple[float, int]]) -> None:
    average, now_s = LoadAverage(), 0.0
    for after_s, load in history:
        now_s += after_s
        average = average.observed(load, at_s=now_s, span_s=60.0)
    loads = [load for _after_s, load in history]
    value = average.average(now_s=now_s + 1.0, window_s=60.0)
    assert min(loads) - 1e-6 <= value <= max(loads) + 1e-6


@given(steps)
def test_the_whole_history_is_averaged_exactly_however_it_was_merged(
    history: list[tuple[float, int]],
) -> None:
    average, moments, now_s = LoadAverage(), [], 0.0
    for after_s, load in history:
        now_s += after_s
        average = average.observed(load, at_s=now_s, span_s=1e6)
        moments.append((now_s, load))
    end_s = now_s + 5.0
    area = sum(load * (then_s - at_s) for (at_s, load), (then_s, _) in pairwise([*moments, (end_s, 0)]))
    expected = area / (end_s - moments[0][0])
    assert math.isclose(average.average(now_s=end_s, window_s=1e9), expected, rel_tol=1e-6, abs_tol=1e-6)


@given(st.lists(st.tuples(st.floats(0.0, 0.2), st.integers(0, 9)), max_size=2000))
def test_memory_is_bounded_however_often_it_is_told(history: list[tuple[float, int]]) -> None:
    average, arrivals, now_s = LoadAverage(), ArrivalCount(), 0.0
    for after_s, number in history:
        now_s += after_s
        average = average.observed(number, at_s=now_s, span_s=60.0)
        arrivals = arrivals.observed(number, at_s=now_s, span_s=60.0)
    assert len(average.points) <= 2 * 120 + 3
    assert len(arrivals.entries) <= 120 + 1


@given(st.lists(st.tuples(st.floats(0.001, 10.0), st.integers(1, 9)), min_size=1, max_size=100))
def test_every_arrival_of_the_window_is_counted_once(history: list[tuple[float, int]]) -> None:
    arrivals, now_s = ArrivalCount(), 0.0
    for after_s, number in history:
        now_s += after_s
        arrivals = arrivals.observed(number, at_s=now_s, span_s=1e6)
    assert arrivals.count(now_s=now_s, window_s=1e6) == sum(number for _after_s, number in history)


def test_arrivals_older_than_the_window_are_not_counted() -> None:
    arrivals = ArrivalCount().observed(2, at_s=0.0, span_s=60.0).observed(1, at_s=100.0, span_s=60.0)
    assert arrivals.count(now_s=100.0, window_s=60.0) == 1
    assert arrivals.observed_s(now_s=100.0) == 100.0


def test_service_time_is_a_default_until_five_requests_ended_then_their_median() -> None:
    assert usual_service_s([1.0] * 4) == 10.0
    assert usual_service_s([1.0, 2.0, 3.0, 4.0, 50.0]) == 3.0
    assert usual_service_s([0.001] * 6) == 0.05

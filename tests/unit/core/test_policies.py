from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.policies import (
    AnyRule,
    Concurrency,
    Demand,
    Fixed,
    QueueDelay,
    RequestCount,
    Rule,
    available_in_s,
    flaw,
    largest_wish,
    ready_in_s,
    wish_of,
)

counts = st.integers(0, 300)
spans = st.floats(0.0, 600.0)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    waiting = draw(counts)
    return Demand(
        waiting=waiting,
        in_flight=draw(counts),
        oldest_wait_s=draw(spans) if waiting else 0.0,
        load_stable=draw(spans),
        load_panic=draw(spans),
        load_peak=draw(counts),
        arrivals=draw(counts),
        observed_s=draw(st.floats(1.0, 1e5)),
        service_s=draw(st.floats(0.05, 100.0)),
        cold_start_s=draw(st.floats(0.1, 600.0)),
        available_in_s=tuple(draw(st.lists(spans, max_size=8))),
        ready=draw(st.integers(0, 8)),
    )


rules = st.one_of(
    st.builds(QueueDelay, target_s=st.floats(0.1, 60.0), beta=st.floats(0.0, 1.0)),
    st.builds(RequestCount, per_worker=st.sampled_from([0.0, 1.0, 2.5])),
    st.builds(Concurrency, per_worker=st.sampled_from([0.0, 1.0, 2.5])),
    st.builds(Fixed, workers=st.integers(0, 9)),
)


@given(rules, demands(), st.integers(1, 16), counts)
def test_more_waiting_requests_never_want_fewer_workers(
    rule: AnyRule, demand: Demand, concurrency: int, extra: int
) -> None:
    more = replace(demand, waiting=demand.waiting + extra, oldest_wait_s=demand.oldest_wait_s)
    low = wish_of(rule, demand, concurrency=concurrency)
    assert wish_of(rule, more, concurrency=concurrency).workers >= low.workers


@given(rules, demands(), st.integers(1, 16))
def test_a_request_without_any_worker_wants_one(rule: AnyRule, demand: Demand, concurrency: int) -> None:
    alone = replace(demand, available_in_s=(), ready=0, waiting=max(demand.waiting, 1))
    if not isinstance(rule, Fixed):
        assert wish_of(rule, alone, concurrency=concurrency).workers >= 1


@given(st.lists(rules, min_size=1, max_size=4), demands(), st.integers(1, 16))
def test_the_largest_wish_of_several_rules_wins(
    several: list[AnyRule], demand: Demand, concurrency: int
) -> None:
    wishes = [wish_of(rule, demand, concurrency=concurrency).workers for rule in several]
    assert largest_wish(several, demand, concurrency=concurrency).workers == max(wishes)


@given(demands(), st.floats(0.0, 0.4), st.floats(0.0, 0.6))
def test_more_thrift_never_wants_more_workers(demand: Demand, beta: float, more: float) -> None:
    eager = wish_of(QueueDelay(beta=beta), demand, concurrency=1)
    assert wish_of(QueueDelay(beta=beta + more), demand, concurrency=1).workers <= eager.workers


def test_queue_delay_starts_nothing_for_work_that_ends_before_a_new_worker_is_ready() -> None:
    busy = Demand(
        waiting=6, in_flight=1, oldest_wait_s=20.0, service_s=5.0, cold_start_s=90.0, available_in_s=(2.5,)
    )
    assert wish_of(QueueDelay(), busy, concurrency=1).workers == 1


def test_queue_delay_does_not_start_a_second_worker_while_one_that_suffices_is_starting() -> None:
    trickle = Demand(
        waiting=2,
        in_flight=0,
        oldest_wait_s=89.0,
        arrivals=2,
        observed_s=3600.0,
        service_s=5.0,
        cold_start_s=90.0,
        available_in_s=(1.0,),
    )
    assert wish_of(QueueDelay(), trickle, concurrency=1).workers == 1


def test_one_arrival_proves_no_rate() -> None:
    first = Demand(
        waiting=1,
        in_flight=0,
        arrivals=1,
        observed_s=1.0,
        service_s=5.0,
        cold_start_s=90.0,
        oldest_wait_s=0.1,
    )
    assert wish_of(QueueDelay(), first, concurrency=1).workers == 1


def test_queue_delay_grows_to_a_step_at_once() -> None:
    step = Demand(
        waiting=9,
        in_flight=1,
        oldest_wait_s=9.0,
        arrivals=10,
        observed_s=10.0,
        service_s=5.0,
        cold_start_s=90.0,
        available_in_s=(80.0,),
    )
    assert wish_of(QueueDelay(), step, concurrency=1).workers >= 8


def test_request_count_is_requests_over_the_ratio() -> None:
    demand = Demand(waiting=5, in_flight=4, available_in_s=(0.0,))
    assert wish_of(RequestCount(), demand, concurrency=1).workers == 9
    assert wish_of(RequestCount(), demand, concurrency=8).workers == 2
    assert wish_of(RequestCount(per_worker=3), demand, concurrency=8).workers == 3


def test_concurrency_asks_for_one_worker_for_one_request_when_a_worker_takes_one() -> None:
    demand = Demand(
        waiting=0, in_flight=1, load_stable=1.0, load_panic=1.0, load_peak=1, available_in_s=(5.0,), ready=1
    )
    assert wish_of(Concurrency(), demand, concurrency=1).workers == 1


def test_concurrency_averages_over_a_minute_and_panics_over_six_seconds() -> None:
    demand = Demand(
        waiting=8, in_flight=8, load_stable=5.6, load_panic=16.8, load_peak=20, available_in_s=(0.0,), ready=1
    )
    wish = wish_of(Concurrency(), demand, concurrency=8)
    assert (wish.workers, wish.panic) == (1, 3)


def test_concurrency_takes_the_present_load_while_no_worker_is_ready() -> None:
    demand = Demand(waiting=12, in_flight=0, load_stable=0.2, available_in_s=(9.0,))
    assert wish_of(Concurrency(), demand, concurrency=8).workers == 3


def test_concurrency_asks_for_nothing_when_there_is_no_load() -> None:
    demand = Demand(waiting=0, in_flight=0, load_stable=3.0, load_panic=1.0, available_in_s=(0.0,), ready=1)
    assert wish_of(Concurrency(), demand, concurrency=1).workers == 0


def test_fixed_asks_for_its_number_whatever_the_load() -> None:
    demand = Demand(waiting=0, in_flight=0)
    wish = wish_of(Fixed(workers=3), demand, concurrency=1)
    assert (wish.workers, wish.rule) == (3, Rule.FIXED)


@pytest.mark.parametrize(
    "fault",
    [
        {"waiting": -1},
        {"load_stable": math.nan},
        {"oldest_wait_s": -0.1},
        {"service_s": 0.0},
        {"cold_start_s": math.inf},
        {"waiting": 0, "oldest_wait_s": 3.0},
        {"available_in_s": (math.nan,)},
    ],
)
def test_unsound_figures_are_told(fault: dict[str, object]) -> None:
    sound = Demand(waiting=1, in_flight=0)
    assert flaw(sound) == ""
    assert flaw(replace(sound, **fault)) != ""  # type: ignore[arg-type]


def test_a_full_worker_is_free_after_a_share_of_a_service_and_a_late_one_in_a_second() -> None:
    assert available_in_s(in_flight=0, concurrency=1, service_s=10.0) == 0.0
    assert available_in_s(in_flight=1, concurrency=1, service_s=10.0) == 5.0
    assert available_in_s(in_flight=4, concurrency=4, service_s=10.0) == 2.0
    assert ready_in_s(age_s=200.0, cold_start_s=90.0) == 1.0
    assert ready_in_s(age_s=30.0, cold_start_s=90.0) == 60.0

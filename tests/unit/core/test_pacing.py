from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.pacing import Pace, PaceMemory, ScaleDecision, ScaleReason, decide
from gpud.core.policies import Concurrency, Demand, Fixed, QueueDelay, RequestCount
from tests.unit.core.test_policies import demands, rules

if TYPE_CHECKING:
    from gpud.core.policies import AnyRule

COUNT = Pace(rules=(RequestCount(),), max_workers=8, scale_down_delay_s=30.0)


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    most = draw(st.integers(0, 20))
    several: list[AnyRule] = draw(st.lists(rules, min_size=1, max_size=3))
    return Pace(
        rules=tuple(several),
        concurrency=draw(st.integers(1, 16)),
        min_workers=draw(st.integers(0, most)),
        max_workers=most,
        activation_scale=draw(st.integers(1, 5)),
        up_rate=draw(st.sampled_from([1.0, 2.0, 1000.0])),
        scale_down_delay_s=draw(st.sampled_from([0.0, 30.0])),
    )


def _load(waiting: int, in_flight: int = 0, *, workers: int = 0, peak: int | None = None) -> Demand:
    load = waiting + in_flight
    return Demand(
        waiting=waiting,
        in_flight=in_flight,
        load_stable=float(load),
        load_panic=float(load),
        load_peak=load if peak is None else peak,
        available_in_s=(0.0,) * workers,
        ready=workers,
    )


def _decide(
    pace: Pace,
    demand: Demand | None,
    memory: PaceMemory | None = None,
    *,
    now_s: float = 1000.0,
    workers: int = 0,
) -> tuple[ScaleDecision, PaceMemory]:
    return decide(pace, demand, memory or PaceMemory(), workers=workers, now_s=now_s)


@given(paces(), st.lists(demands(), min_size=1, max_size=8), st.booleans())
def test_the_answer_is_always_within_the_bounds(pace: Pace, history: list[Demand], failing: bool) -> None:
    memory, now_s = PaceMemory(), 0.0
    for demand in history:
        now_s += 7.0
        workers = demand.workers
        decision, memory = decide(
            pace, demand, memory, workers=workers, now_s=now_s, starts_max=0 if failing else None
        )
        assert decision.desired <= pace.max_workers
        assert failing or decision.desired >= pace.min_workers
        assert 0 <= decision.needed <= decision.desired
        assert not failing or decision.desired <= max(workers, 0)


@given(paces(), demands(), st.integers(0, 100))
def test_more_load_never_wants_fewer_workers(pace: Pace, demand: Demand, extra: int) -> None:
    more = replace(
        demand,
        waiting=demand.waiting + extra,
        load_stable=demand.load_stable + extra,
        load_panic=demand.load_panic + extra,
        load_peak=demand.load_peak + extra,
    )
    low, _ = _decide(pace, demand, workers=demand.workers)
    high, _ = _decide(pace, more, workers=demand.workers)
    assert high.desired >= low.desired


def test_a_pause_wants_none_whatever_the_load() -> None:
    decision, _ = _decide(replace(COUNT, max_workers=0), _load(9), workers=3)
    assert (decision.desired, decision.reason) == (0, ScaleReason.PAUSED)


def test_unknown_and_unsound_load_keep_the_scale() -> None:
    for demand in (None, replace(_load(3), load_stable=math.nan)):
        decision, memory = _decide(COUNT, demand, workers=3)
        assert (decision.desired, decision.reason) == (3, ScaleReason.NO_DATA)
        assert memory == PaceMemory()


def test_without_load_the_minimum_stays() -> None:
    decision, _ = _decide(replace(COUNT, min_workers=2), _load(0), workers=2)
    assert (decision.desired, decision.reason, decision.needed) == (2, ScaleReason.MIN_WORKERS, 0)


def test_an_idle_endpoint_wants_none() -> None:
    decision, _ = _decide(COUNT, _load(0), workers=0)
    assert (decision.desired, decision.reason) == (0, ScaleReason.IDLE)


def test_activation_begins_with_several() -> None:
    decision, _ = _decide(replace(COUNT, activation_scale=3), _load(1))
    assert (decision.desired, decision.reason) == (3, ScaleReason.ACTIVATION)
    again, _ = _decide(replace(COUNT, activation_scale=3), _load(1, workers=1), workers=1)
    assert again.desired == 1


def test_panic_holds_the_most_it_reached_for_a_minute_after_it_was_last_over() -> None:
    pace = Pace(rules=(Concurrency(),), concurrency=1, max_workers=20, scale_down_delay_s=0.0)
    jump = replace(_load(0, 4, workers=1), load_stable=1.0)
    decision, memory = _decide(pace, jump, now_s=0.0, workers=1)
    assert (decision.desired, decision.reason) == (4, ScaleReason.PANIC)
    calm = replace(_load(0, 1, workers=4), load_stable=1.0)
    held, memory = _decide(pace, calm, memory, now_s=59.0, workers=4)
    assert (held.desired, held.reason) == (4, ScaleReason.PANIC)
    let_go, _ = _decide(pace, calm, memory, now_s=61.0, workers=4)
    assert let_go.desired == 1


def test_panic_keeps_nothing_that_nobody_calls() -> None:
    pace = Pace(rules=(Concurrency(),), concurrency=1, max_workers=20, scale_down_delay_s=0.0)
    _, memory = _decide(pace, replace(_load(0, 4, workers=1), load_stable=1.0), now_s=0.0, workers=1)
    decision, _ = _decide(pace, _load(0, workers=4, peak=0), memory, now_s=10.0, workers=4)
    assert (decision.desired, decision.reason) == (0, ScaleReason.IDLE)


def test_one_request_alone_is_no_panic() -> None:
    pace = Pace(rules=(Concurrency(per_worker=0.25),), max_workers=20)
    lone = replace(_load(1, workers=1), load_stable=0.0, load_panic=1.0)
    decision, _ = _decide(pace, lone, workers=1)
    assert decision.reason is not ScaleReason.PANIC


def test_the_rate_limits_growth_from_what_there_is() -> None:
    slow = replace(COUNT, up_rate=2.0)
    assert _decide(slow, _load(8))[0].desired == 2
    assert _decide(slow, _load(8, workers=2), workers=2)[0].desired == 4
    assert _decide(slow, _load(8, workers=2), workers=2)[0].reason is ScaleReason.UP_RATE


def test_a_smaller_wish_waits_for_the_delay_and_then_goes_through() -> None:
    _, memory = _decide(COUNT, _load(5, workers=5), now_s=0.0, workers=5)
    held, memory = _decide(COUNT, _load(0, workers=5, peak=0), memory, now_s=29.0, workers=5)
    assert (held.desired, held.reason) == (5, ScaleReason.DOWN_DELAY)
    assert held.ask_again_at_s == 30.0
    let_go, _ = _decide(COUNT, _load(0, workers=5, peak=0), memory, now_s=31.0, workers=5)
    assert let_go.desired == 0


def test_workers_the_last_idle_timeout_had_use_for_stay_warm_but_are_not_needed() -> None:
    pace = Pace(rules=(QueueDelay(),), max_workers=8, scale_down_delay_s=0.0)
    decision, _ = _decide(pace, _load(0, workers=4, peak=3), workers=4)
    assert (decision.desired, decision.reason, decision.needed) == (3, ScaleReason.IDLE_TIMEOUT, 0)


def test_warmth_never_starts_a_worker() -> None:
    pace = Pace(rules=(QueueDelay(),), max_workers=8, scale_down_delay_s=0.0)
    assert _decide(pace, _load(0, workers=0, peak=5), workers=0)[0].desired == 0


def test_an_open_circuit_allows_no_start_and_a_due_probe_one() -> None:
    demand = _load(6, workers=1)
    held, _ = decide(COUNT, demand, PaceMemory(), workers=1, now_s=0.0, starts_max=0)
    assert (held.desired, held.reason) == (1, ScaleReason.CIRCUIT_OPEN)
    probe, _ = decide(COUNT, demand, PaceMemory(), workers=1, now_s=0.0, starts_max=1)
    assert probe.desired == 2


def test_the_needed_part_is_what_present_load_can_keep_busy() -> None:
    decision, _ = _decide(replace(COUNT, min_workers=4), _load(1, 1, workers=4), workers=4)
    assert (decision.desired, decision.needed) == (4, 2)


def test_fixed_is_not_kept_warm_beyond_its_number() -> None:
    pace = Pace(rules=(Fixed(workers=2),), max_workers=2)
    assert _decide(pace, _load(0, workers=3, peak=9), workers=3)[0].desired == 2

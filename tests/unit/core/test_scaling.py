from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.averages import LoadAverage
from gpud.core.endpoint import PolicyName, ScalePolicy
from gpud.core.pacing import ScaleDecision, ScaleReason
from gpud.core.policies import Concurrency, Fixed, QueueDelay, RequestCount
from gpud.core.scaling import demand_of, desired_workers, pace_of
from gpud.core.starts import StartRecord
from gpud.core.worker import WorkerState
from tests.unit.core.making import endpoint, seen, worker

NOW_S = 1000.0
_loads = st.integers(0, 10_000)


def _desired(policy: ScalePolicy, load: int, *, workers: int = 0, **facts: object) -> ScaleDecision:
    each = seen(
        endpoint("echo", policy), load=load, waiting=load, oldest_wait_s=9.0 if load else 0.0, **facts
    )
    made = [worker(number, WorkerState.READY) for number in range(workers)]
    return desired_workers(each, made, {}, now_s=NOW_S)[0]


@st.composite
def policies(draw: st.DrawFn) -> ScalePolicy:
    most = draw(st.integers(0, 50))
    return ScalePolicy(
        min_workers=draw(st.integers(0, most)),
        max_workers=most,
        policy=draw(st.sampled_from(PolicyName)),
        target=draw(st.sampled_from([0.0, 0.5, 1.0, 7.3])),
        concurrency=draw(st.integers(1, 100)),
    )


@given(policies(), _loads, _loads)
def test_more_load_never_wants_fewer_workers(policy: ScalePolicy, load: int, extra: int) -> None:
    assert _desired(policy, load + extra).desired >= _desired(policy, load).desired


@given(policies(), _loads, st.integers(0, 9))
def test_the_bounds_hold_whatever_the_load(policy: ScalePolicy, load: int, workers: int) -> None:
    assert policy.min_workers <= _desired(policy, load, workers=workers).desired <= policy.max_workers


def test_one_request_at_a_time_aims_for_one_worker_a_request() -> None:
    """0.7 of one would always ask for two."""
    policy = ScalePolicy(max_workers=10, concurrency=1)
    assert [_desired(policy, load).desired for load in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "load", "desired", "reason"),
    [
        (ScalePolicy(max_workers=3), 0, 0, ScaleReason.IDLE),
        (ScalePolicy(max_workers=3), 1, 1, ScaleReason.CONCURRENCY),
        (ScalePolicy(max_workers=3, policy=PolicyName.QUEUE_DELAY), 1, 1, ScaleReason.QUEUE_DELAY),
        (ScalePolicy(max_workers=3, policy=PolicyName.REQUEST_COUNT), 9, 2, ScaleReason.REQUEST_COUNT),
        (ScalePolicy(min_workers=2, max_workers=3), 1, 2, ScaleReason.MIN_WORKERS),
        (ScalePolicy(max_workers=3, concurrency=10), 8, 2, ScaleReason.CONCURRENCY),
        (ScalePolicy(max_workers=3), 1000, 3, ScaleReason.MAX_WORKERS),
        (ScalePolicy(max_workers=0), 1000, 0, ScaleReason.PAUSED),
        (ScalePolicy(max_workers=3, target=2), 3, 2, ScaleReason.CONCURRENCY),
        (ScalePolicy(max_workers=3, policy=PolicyName.FIXED), 0, 3, ScaleReason.FIXED),
        (ScalePolicy(max_workers=9, more_policies=(PolicyName.REQUEST_COUNT,), target=1), 4, 4, None),
    ],
)
def test_a_decision_has_its_reason(
    policy: ScalePolicy, load: int, desired: int, reason: ScaleReason | None
) -> None:
    decision = _desired(policy, load)
    assert decision.desired == desired
    assert reason is None or decision.reason is reason


def test_every_setting_of_the_policy_reaches_its_rule() -> None:
    scale = ScalePolicy(
        policy=PolicyName.QUEUE_DELAY,
        more_policies=(PolicyName.CONCURRENCY, PolicyName.REQUEST_COUNT, PolicyName.FIXED),
        max_workers=7,
        min_workers=1,
        target=3.0,
        queue_delay_s=2.0,
        beta=0.5,
        concurrency=4,
        activation_workers=2,
        scale_down_delay_s=20.0,
        idle_timeout_s=15.0,
    )
    pace = pace_of(scale)
    assert pace.rules == (
        QueueDelay(target_s=2.0, beta=0.5),
        Concurrency(per_worker=3.0),
        RequestCount(per_worker=3.0),
        Fixed(workers=7),
    )
    assert (pace.min_workers, pace.max_workers, pace.concurrency) == (1, 7, 4)
    assert (pace.activation_scale, pace.scale_down_delay_s) == (2, 15.0)


def test_demand_tells_when_each_worker_can_take_a_request() -> None:
    each = seen(endpoint("echo", ScalePolicy(concurrency=1)), load=1, service_s=8.0, cold_start_s=90.0)
    made = [
        worker(0, WorkerState.READY),
        worker(1, WorkerState.READY),
        worker(2, WorkerState.STARTING, since_s=NOW_S - 30.0),
        worker(3, WorkerState.PENDING, since_s=NOW_S - 500.0),
    ]
    demand = demand_of(each, made, {made[0].id: 1}, now_s=NOW_S)
    assert demand.available_in_s == (4.0, 0.0, 60.0, 90.0)
    assert demand.ready == 2


def test_an_endpoint_that_sleeps_decides_nothing_new() -> None:
    each = seen(endpoint("echo", ScalePolicy()), average=LoadAverage(((0.0, 0.0),), 0.0))
    decision, pace = desired_workers(each, [], {}, now_s=NOW_S)
    assert (decision.desired, pace) == (0, each.pace)


def test_failing_starts_allow_one_probe_when_it_is_due() -> None:
    policy = ScalePolicy(max_workers=4, concurrency=1)
    held = StartRecord(failures=2, next_try_s=NOW_S + 5.0)
    due = StartRecord(failures=2, next_try_s=NOW_S - 5.0)
    assert _desired(policy, 4, starts=held).desired == 0
    assert _desired(policy, 4, starts=due).desired == 1

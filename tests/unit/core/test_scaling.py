from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import PolicyName, ScalePolicy
from gpud.core.scaling import ScaleReason, desired_workers, requests_per_worker

_loads = st.integers(0, 10_000)


@st.composite
def policies(draw: st.DrawFn) -> ScalePolicy:
    most = draw(st.integers(0, 50))
    return ScalePolicy(
        min_workers=draw(st.integers(0, most)),
        max_workers=most,
        policy=draw(st.sampled_from([PolicyName.CONCURRENCY, PolicyName.FIXED])),
        target=draw(st.sampled_from([0.0, 0.5, 1.0, 7.3])),
        concurrency=draw(st.integers(1, 100)),
    )


@given(policies(), _loads, _loads)
def test_more_load_never_wants_fewer_workers(policy: ScalePolicy, load: int, extra: int) -> None:
    low, high = (desired_workers(policy, load_peak=each).desired for each in (load, load + extra))
    assert high >= low


@given(policies(), _loads)
def test_the_bounds_hold_whatever_the_load(policy: ScalePolicy, load: int) -> None:
    assert policy.min_workers <= desired_workers(policy, load_peak=load).desired <= policy.max_workers


@given(policies(), _loads)
def test_enough_workers_are_wanted_unless_the_bound_forbids(policy: ScalePolicy, load: int) -> None:
    desired = desired_workers(policy, load_peak=load).desired
    assert desired == policy.max_workers or desired * requests_per_worker(policy) >= load - 1e-6


def test_one_request_at_a_time_aims_for_one_worker_a_request() -> None:
    """0.7 of one would always ask for two."""
    policy = ScalePolicy(max_workers=10, concurrency=1)
    assert [desired_workers(policy, load_peak=load).desired for load in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "load", "desired", "reason"),
    [
        (ScalePolicy(max_workers=3), 0, 0, ScaleReason.IDLE),
        (ScalePolicy(max_workers=3), 1, 1, ScaleReason.LOAD),
        (ScalePolicy(min_workers=1, max_workers=3), 1, 1, ScaleReason.MIN_WORKERS),
        (ScalePolicy(max_workers=3, concurrency=10), 8, 2, ScaleReason.LOAD),
        (ScalePolicy(max_workers=3), 1000, 3, ScaleReason.MAX_WORKERS),
        (ScalePolicy(max_workers=0), 1000, 0, ScaleReason.PAUSED),
        (ScalePolicy(max_workers=3, target=2), 3, 2, ScaleReason.LOAD),
        (ScalePolicy(max_workers=3, policy=PolicyName.FIXED), 0, 3, ScaleReason.FIXED),
    ],
)
def test_a_decision_has_its_reason(policy: ScalePolicy, load: int, desired: int, reason: ScaleReason) -> None:
    decision = desired_workers(policy, load_peak=load)
    assert (decision.desired, decision.reason) == (desired, reason)

"""How long workers stay when nobody calls, and what becomes of those that do not leave in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.allocation import AllocationMemory
from gpud.core.contest import contest_of
from gpud.core.demand import LoadWindow
from gpud.core.endpoint import Preempt, ScalePolicy
from gpud.core.pacing import ScaleDecision, ScaleReason
from gpud.core.patience import last_patience_s, patience_s
from gpud.core.reconcile import plan
from gpud.core.worker import Cause, WorkerEvent, WorkerState
from tests.unit.core.making import endpoint, events, gpu_uuid, seen, worker, worker_id, world

if TYPE_CHECKING:
    from gpud.core.world import World

NOW_S = 10_000.0


@given(st.floats(0.05, 5000.0))
def test_an_automatic_idle_timeout_is_the_cold_start_within_bounds(cold_start_s: float) -> None:
    scale = ScalePolicy(idle_timeout_auto=True, idle_timeout_s=5.0)
    assert patience_s(scale, cold_start_s) == min(max(cold_start_s, 30.0), 600.0)
    assert patience_s(ScalePolicy(idle_timeout_s=5.0), cold_start_s) == 5.0


@pytest.mark.parametrize(
    ("scale", "expected_s"),
    [
        (ScalePolicy(idle_timeout_s=60.0), 60.0),
        (ScalePolicy(idle_timeout_s=60.0, scale_to_zero_delay_s=900.0), 900.0),
        (ScalePolicy(idle_timeout_auto=True, scale_to_zero_delay_s=40.0), 40.0),
    ],
)
def test_the_last_worker_may_have_a_patience_of_its_own(scale: ScalePolicy, expected_s: float) -> None:
    assert last_patience_s(scale, 100.0) == expected_s


def _idle_for(idle_s: float, scale: ScalePolicy, workers: int = 1) -> World:
    """Workers that were ready long ago, and whose endpoint had its last request `idle_s` ago."""
    each = endpoint("echo", scale)
    window = LoadWindow(((NOW_S - idle_s, 8 * workers), (NOW_S, 0)))
    ready = [
        worker(
            number,
            revision=each.revision,
            gpu_uuids=(gpu_uuid(number),),
            since_s=0.0,
            ready_s=10.0,
            address="10.0.0.2",
        )
        for number in range(workers)
    ]
    known = seen(each, window=window, cold_start_s=100.0)
    return world([known], ready, gpus=workers, now_s=NOW_S)


def _leaving(each: World) -> int:
    return sum(event.cause is Cause.IDLE for event in events(plan(each)))


@pytest.mark.parametrize(
    ("scale", "idle_s", "leaving"),
    [
        (ScalePolicy(idle_timeout_s=60.0), 59.0, 0),
        (ScalePolicy(idle_timeout_s=60.0), 61.0, 1),
        (ScalePolicy(idle_timeout_s=60.0, scale_to_zero_delay_s=300.0), 299.0, 0),
        (ScalePolicy(idle_timeout_s=60.0, scale_to_zero_delay_s=300.0), 301.0, 1),
        (ScalePolicy(idle_timeout_s=600.0, scale_to_zero_delay_s=90.0), 89.0, 0),
        (ScalePolicy(idle_timeout_s=600.0, scale_to_zero_delay_s=90.0), 91.0, 1),
        (ScalePolicy(idle_timeout_auto=True), 99.0, 0),
        (ScalePolicy(idle_timeout_auto=True), 101.0, 1),
    ],
)
def test_the_last_worker_leaves_when_its_patience_ends(
    scale: ScalePolicy, idle_s: float, leaving: int
) -> None:
    assert _leaving(_idle_for(idle_s, scale)) == leaving


def test_all_but_the_last_leave_after_the_idle_timeout() -> None:
    scale = ScalePolicy(max_workers=3, idle_timeout_s=60.0, scale_to_zero_delay_s=300.0)
    assert _leaving(_idle_for(61.0, scale, workers=3)) == 2
    assert _leaving(_idle_for(301.0, scale, workers=3)) == 3


@pytest.mark.parametrize(("wait_s", "priority"), [(0.0, -3), (59.9, -3), (60.0, -2), (300.0, 2)])
def test_a_long_wait_raises_the_priority_where_the_spec_says_so(wait_s: float, priority: int) -> None:
    for aging_s, expected in ((60.0, priority), (0.0, -3)):
        each = endpoint("echo", ScalePolicy(priority=-3, priority_aging_s=aging_s))
        here = world([seen(each, oldest_wait_s=wait_s, waiting=1, load=1)])
        wish = ScaleDecision(desired=1, needed=1, reason=ScaleReason.CONCURRENCY)
        (claimant,) = contest_of(here, {each.name: wish}, {}).claimants
        assert claimant.priority == expected


@pytest.mark.parametrize(
    ("preempt", "priority", "cause", "forced"),
    [
        (Preempt.KILL, 5, Cause.RECLAIMED, True),
        (Preempt.DRAIN, 5, Cause.RECLAIMED, False),
        (Preempt.KILL, 0, Cause.RECLAIMED, False),
        (Preempt.KILL, 5, Cause.SCALE_DOWN, False),
    ],
)
def test_only_a_higher_priority_that_says_so_kills_what_does_not_finish_in_time(
    preempt: Preempt, priority: int, cause: Cause, forced: bool
) -> None:
    holder = endpoint("echo", ScalePolicy())
    seeker = endpoint("vip", ScalePolicy(priority=priority, preempt=preempt))
    facts: dict[str, Any] = {"revision": holder.revision, "gpu_uuids": (gpu_uuid(0),), "cause": cause}
    late = worker(0, WorkerState.DRAINING, since_s=NOW_S - 300.0, ready_s=10.0, **facts)
    here = world(
        [seen(holder), seen(seeker, load=1, waiting=1)],
        [late],
        now_s=NOW_S,
        in_flight={late.id: 1},
        sharing=AllocationMemory(promises={late.id: seeker.name}),
    )
    expected = WorkerEvent(worker_id=worker_id(0), cause=Cause.DRAIN_TIMEOUT, force=forced)
    assert expected in events(plan(here))

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.demand import LoadWindow
from gpud.core.endpoint import ScalePolicy
from gpud.core.gpu import GpuHealth, GpuStatus
from gpud.core.ids import Revision
from gpud.core.reconcile import plan
from gpud.core.standby import (
    ClaimStandby,
    DropStandby,
    NewStandby,
    Rung,
    Standby,
    StandbyBudget,
    StandbyFault,
    StandbyMode,
    StandbyPolicy,
    StandbySeen,
    StandbyState,
    after_fault,
    claimable,
    to_claim,
)
from gpud.core.wake_times import UNMEASURED
from gpud.core.worker import Cause, WorkerState
from tests.unit.core.making import endpoint, events, gpu, gpu_uuid, news, seen, worker, worker_id, world

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint
    from gpud.core.world import EndpointSeen, Plan, World

_NOW_S = 1000.0
_PARKED = StandbyPolicy(mode=StandbyMode.PARKED)
_CREATED = StandbyPolicy(mode=StandbyMode.CREATED)


def _standby(each: Endpoint, number: int = 40, **facts: Any) -> Standby:
    gpus = tuple(gpu_uuid(n) for n in range(each.spec.gpus.count))
    base: dict[str, Any] = {
        "id": worker_id(number),
        "endpoint": each.name,
        "revision": each.revision,
        "rung": Rung.PARKED,
        "state": StandbyState.READY,
        "since_s": 0.0,
        "created_at_ms": number,
        "gpu_uuids": gpus,
        "address": "10.0.0.9",
        "ram_mib": 18,
    }
    return Standby(**{**base, **facts})


def _standing(*standbys: Standby, **facts: Any) -> StandbySeen:
    return StandbySeen(standbys={s.id: s for s in standbys}, **facts)


def _asleep(each: Endpoint, *standbys: Standby, gpus: int = 1, **facts: Any) -> World:
    return world([seen(each)], gpus=gpus, standing=_standing(*standbys), **facts)


def _called(each: Endpoint) -> EndpointSeen:
    window = LoadWindow().observed(1, at_s=_NOW_S, span_s=60)
    return seen(each, window=window, load=1, waiting=1)


def _kinds(answer: Plan) -> list[type]:
    return [type(change) for change in answer.changes]


def test_an_endpoint_that_asks_for_it_has_a_parked_worker_made_for_the_gpu_it_would_get() -> None:
    (new,) = plan(_asleep(endpoint(standby=_PARKED), gpus=2)).changes
    assert isinstance(new, NewStandby)
    assert (new.rung, new.gpu_uuids, new.ram_mib) == (Rung.PARKED, (gpu_uuid(0),), 18)


def test_an_endpoint_that_does_not_ask_keeps_none() -> None:
    each = endpoint()
    assert plan(_asleep(each)).changes == ()
    (dropped,) = plan(_asleep(each, _standby(each))).changes
    assert dropped == DropStandby(standby_id=worker_id(40), why="not_asked_for")


@pytest.mark.parametrize("image_present", [True, False])
def test_a_request_claims_the_standby_instead_of_a_new_worker(image_present: bool) -> None:
    each = endpoint(standby=_PARKED, gpus=0)
    called = replace(_called(each), image_present=image_present)
    answer = plan(world([called], standing=_standing(_standby(each))))
    if image_present:
        assert answer.changes == (ClaimStandby(standby_id=worker_id(40)),)
    else:
        assert ClaimStandby(standby_id=worker_id(40)) in answer.changes, "its container needs no image"


def test_a_worker_that_waited_gives_its_place_to_a_standby() -> None:
    each = endpoint(standby=_PARKED)
    waiting = worker(1, WorkerState.PENDING, revision=each.revision)
    answer = plan(world([_called(each)], [waiting], standing=_standing(_standby(each))))
    assert ClaimStandby(standby_id=worker_id(40), replaces=waiting.id) in answer.changes


def test_a_standby_is_claimed_on_its_own_gpu_though_another_was_granted() -> None:
    each = endpoint(standby=_PARKED)
    elsewhere = _standby(each, gpu_uuids=(gpu_uuid(1),))
    answer = plan(world([_called(each)], gpus=2, standing=_standing(elsewhere)))
    assert answer.changes == (ClaimStandby(standby_id=elsewhere.id),)


def test_a_standby_whose_gpu_is_taken_is_left_where_it_is_and_a_new_worker_starts() -> None:
    each, other = endpoint(standby=_PARKED), endpoint("other")
    holder = worker(1, WorkerState.READY, endpoint=other.name, gpu_uuids=(gpu_uuid(0),), ready_s=999.0)
    holder = replace(holder, revision=other.revision)
    answer = plan(
        world(
            [_called(each), _called(other)],
            [holder],
            gpus=2,
            in_flight={holder.id: 1},
            standing=_standing(_standby(each, since_s=_NOW_S)),
        )
    )
    assert [change.endpoint for change in news(answer)] == [each.name]
    assert ClaimStandby not in _kinds(answer)


def test_a_standby_moves_to_a_free_gpu_once_its_own_has_been_taken_for_a_while() -> None:
    each, other = endpoint(standby=_PARKED), endpoint("other", ScalePolicy(min_workers=1))
    holder = worker(1, WorkerState.READY, endpoint=other.name, gpu_uuids=(gpu_uuid(0),), ready_s=999.0)
    holder = replace(holder, revision=other.revision)

    def decided(since_s: float) -> Plan:
        standing = _standing(_standby(each, since_s=since_s))
        return plan(world([seen(each), seen(other)], [holder], gpus=2, standing=standing))

    assert decided(_NOW_S - 9.0).changes == ()
    assert decided(_NOW_S - 9.0).ask_again_at_s == _NOW_S + 1.0
    assert decided(_NOW_S - 10.0).changes[0] == DropStandby(standby_id=worker_id(40), why="gpu_taken")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"revision": "earlier"}, "new_revision"),
        ({"endpoint": "gone"}, "endpoint_deleted"),
        ({"gpu_uuids": ("GPU-unknown",)}, "gpu_unhealthy"),
    ],
)
def test_a_standby_that_could_never_serve_is_dropped(facts: dict[str, Any], why: str) -> None:
    each = endpoint(standby=_PARKED)
    answer = plan(_asleep(each, _standby(each, **facts)))
    assert answer.changes[0] == DropStandby(standby_id=worker_id(40), why=why)


def test_a_standby_on_a_sick_gpu_is_made_anew_on_a_healthy_one() -> None:
    each = endpoint(standby=_PARKED)
    gpus = (GpuStatus(gpu=gpu(0), health=GpuHealth.CORDONED), GpuStatus(gpu=gpu(1)))
    dropped, made = plan(replace(_asleep(each, _standby(each)), gpus=gpus)).changes
    assert dropped == DropStandby(standby_id=worker_id(40), why="gpu_unhealthy")
    assert isinstance(made, NewStandby)
    assert made.gpu_uuids == (gpu_uuid(1),)


def test_no_more_stand_by_than_may_serve() -> None:
    each = endpoint(
        scale=ScalePolicy(max_workers=2), standby=StandbyPolicy(mode=StandbyMode.PARKED, workers=5), gpus=0
    )
    serving = worker(1, WorkerState.READY, revision=each.revision, ready_s=_NOW_S)
    standbys = (_standby(each, 40), _standby(each, 41))
    answer = plan(world([_called(each)], [serving], in_flight={serving.id: 1}, standing=_standing(*standbys)))
    assert answer.changes == (DropStandby(standby_id=worker_id(41), why="surplus"),)


def test_a_paused_endpoint_keeps_none() -> None:
    each = endpoint(scale=ScalePolicy(max_workers=0), standby=_PARKED)
    assert plan(_asleep(each)).changes == ()


def test_a_budget_that_is_used_up_is_told() -> None:
    first, second = endpoint("a", standby=_PARKED), endpoint("b", standby=_PARKED)
    for budget in (StandbyBudget(workers=1), StandbyBudget(ram_mib=20)):
        standing = _standing(_standby(first), budget=budget)
        answer = plan(world([seen(first), seen(second)], standing=standing))
        assert answer.changes == ()
        assert [wait.reason for wait in answer.waits[second.name]] == ["standby_budget"]


def test_the_higher_priority_gets_the_last_of_the_budget() -> None:
    low = endpoint("a", standby=_PARKED)
    high = endpoint("b", ScalePolicy(priority=5), standby=_PARKED)
    answer = plan(world([seen(low), seen(high)], standing=_standing(budget=StandbyBudget(workers=1))))
    assert [c.endpoint for c in answer.changes if isinstance(c, NewStandby)] == [high.name]


def test_where_parking_failed_the_container_is_kept_created_and_the_reason_told() -> None:
    each = endpoint(standby=_PARKED)
    fault = after_fault(None, each.revision, "exec format error", now_s=_NOW_S)
    standing = _standing(faults={(each.name, Rung.PARKED): fault})
    answer = plan(world([seen(each)], standing=standing))
    (made,) = answer.changes
    assert isinstance(made, NewStandby)
    assert made.rung is Rung.CREATED
    (wait,) = answer.waits[each.name]
    assert wait.reason == "standby_unavailable"
    assert "exec format error" in wait.detail


def test_the_higher_rung_is_tried_again_when_its_time_has_come() -> None:
    each = endpoint(standby=_PARKED)
    fault = StandbyFault(revision=each.revision, detail="", again_s=_NOW_S)
    created = _standby(each, rung=Rung.CREATED)
    standing = _standing(created, faults={(each.name, Rung.PARKED): fault})
    dropped, made = plan(world([seen(each)], standing=standing)).changes
    assert dropped == DropStandby(standby_id=created.id, why="higher_rung_tried")
    assert isinstance(made, NewStandby)
    assert made.rung is Rung.PARKED


def test_each_further_failure_waits_longer_and_a_new_revision_starts_afresh() -> None:
    each = endpoint()
    first = after_fault(None, each.revision, "x", now_s=0.0)
    second = after_fault(first, each.revision, "x", now_s=0.0)
    other = after_fault(second, Revision("other"), "x", now_s=0.0)
    assert (first.again_s, second.again_s, other.again_s) == (10.0, 60.0, 10.0)


def test_nothing_is_prepared_while_a_worker_waits_for_the_engine() -> None:
    each, other = endpoint(standby=_PARKED), endpoint("other", gpus=0)
    creating = worker(1, WorkerState.CREATING, endpoint=other.name, revision=other.revision, since_s=_NOW_S)
    assert plan(world([seen(each), _called(other)], [creating])).changes == ()


def test_a_closing_daemon_drops_them_all() -> None:
    each = endpoint(standby=_PARKED)
    answer = plan(world([seen(each)], standing=_standing(_standby(each), closed=True)))
    assert answer.changes == (DropStandby(standby_id=worker_id(40), why="shutdown"),)


def test_the_one_that_is_soonest_back_is_woken_first() -> None:
    each = endpoint()
    parked, created = _standby(each, 41), _standby(each, 40, rung=Rung.CREATED)
    claimed = _standby(each, 42, state=StandbyState.CLAIMED)
    able = claimable((created, claimed, parked), each.name, each.revision, UNMEASURED.usual_s)
    assert able == (parked, created)
    measured = UNMEASURED
    for _ in range(3):
        measured = measured.noted(each.revision, Rung.PARKED, 9.0)
    assert claimable((created, parked), each.name, each.revision, measured.usual_s) == (created, parked)
    assert to_claim(able, created.gpu_uuids, free=()) == parked
    assert to_claim(able, (gpu_uuid(5),), free=()) is None


_STATES = st.sampled_from(list(StandbyState))


@given(
    st.lists(st.tuples(_STATES, st.sampled_from([Rung.CREATED, Rung.PARKED]), st.integers(0, 3)), max_size=5),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 4),
    st.sampled_from(list(StandbyMode)),
)
def test_the_ladder_settles_within_its_bounds(
    made: list[tuple[StandbyState, Rung, int]], most: int, wanted: int, gpus: int, mode: StandbyMode
) -> None:
    """However it begins, applying the plan ends, and then no more is kept than is asked for and allowed."""
    each = endpoint(scale=ScalePolicy(max_workers=most), standby=StandbyPolicy(mode=mode, workers=wanted))
    standbys = {
        worker_id(n): _standby(each, n, state=state, rung=rung, gpu_uuids=(gpu_uuid(at),))
        for n, (state, rung, at) in enumerate(made)
    }
    budget, number = StandbyBudget(workers=2), 40
    for _ in range(30):
        standing = StandbySeen(standbys=standbys, budget=budget)
        changes = plan(world([seen(each)], gpus=gpus, standing=standing)).changes
        if not changes:
            break
        for change in changes:
            if isinstance(change, DropStandby):
                del standbys[change.standby_id]
            elif isinstance(change, NewStandby):
                new = _standby(
                    each, number, rung=change.rung, gpu_uuids=change.gpu_uuids, created_at_ms=number
                )
                standbys[new.id], number = new, number + 1
    else:
        pytest.fail("the ladder does not settle")
    kept = [s for s in standbys.values() if s.state in (StandbyState.PREPARING, StandbyState.READY)]
    assert len(kept) <= (0 if mode is StandbyMode.NONE else min(wanted, most))
    assert len({s.gpu_uuids for s in kept if s.id >= worker_id(40)}) == sum(
        s.id >= worker_id(40) for s in kept
    )


def test_a_claimed_standby_leases_no_gpu_before_its_worker_does() -> None:
    """A standby is in no worker's set of GPUs: whoever needs them gets them."""
    each, other = endpoint(standby=_PARKED), endpoint("other")
    answer = plan(world([seen(each), _called(other)], standing=_standing(_standby(each))))
    assert [change.endpoint for change in news(answer)] == [other.name]
    pending = worker(1, WorkerState.PENDING, endpoint=other.name, revision=other.revision)
    answer = plan(world([seen(each), _called(other)], [pending], standing=_standing(_standby(each))))
    (reserved,) = events(answer)
    assert (reserved.cause, reserved.gpu_uuids) == (Cause.GPUS_RESERVED, (gpu_uuid(0),))

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpud.core.demand import LoadWindow
from gpud.core.endpoint import Endpoint, GpuNeeds, Limits, ScalePolicy
from gpud.core.gpu import GpuHealth
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.reconcile import plan
from gpud.core.rollout import Rollout, RolloutSeen, RolloutStep
from gpud.core.starts import StartRecord
from gpud.core.worker import COUNTED, HOLDS_GPUS, Cause, Worker, WorkerEvent, WorkerState, advance
from gpud.core.world import NewWorker, World
from tests.unit.core.making import (
    endpoint,
    events,
    gpu_statuses,
    gpu_uuid,
    news,
    seen,
    worker,
    worker_id,
    world,
)

_S, _C = WorkerState, Cause
_NOW_S = 1000.0


def _of(each: Endpoint, number: int = 0, state: WorkerState = _S.READY, **facts: Any) -> Worker:
    base: dict[str, Any] = {"endpoint": each.name, "revision": each.revision, "since_s": _NOW_S}
    if state in HOLDS_GPUS:
        base |= {"gpu_uuids": (gpu_uuid(number),)}
    if state in (_S.READY, _S.NOT_READY, _S.DRAINING):
        base |= {"ready_s": 10.0}
    return worker(number, state, **{**base, **facts})


def _causes(each: World) -> list[tuple[WorkerId, Cause]]:
    return [(event.worker_id, event.cause) for event in events(plan(each))]


def _apply(each: World, *, next_number: int = 50) -> World:
    """Make a plan's changes, as the reconciler does."""
    workers = dict(each.workers)
    for change in plan(each).changes:
        if isinstance(change, NewWorker):
            revision = each.endpoints[change.endpoint].endpoint.revision
            made = worker(next_number, _S.PENDING, endpoint=change.endpoint, revision=revision)
            workers[made.id] = made
            next_number += 1
        elif isinstance(change, WorkerEvent) and change.worker_id in workers:
            after = advance(workers[change.worker_id], change, now_s=each.now_s)
            if after is not None:
                workers[change.worker_id] = after
    return replace(each, workers={k: w for k, w in workers.items() if w.state is not _S.GONE})


# -- properties -----------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> World:
    gpus = draw(st.integers(0, 4))
    names = ["a", "b", "c"][: draw(st.integers(0, 3))]
    endpoints = []
    for name in names:
        most = draw(st.integers(0, 4))
        scale = ScalePolicy(
            min_workers=draw(st.integers(0, most)),
            max_workers=most,
            concurrency=draw(st.sampled_from([1, 4])),
            idle_timeout_s=draw(st.sampled_from([0.0, 60.0])),
            priority=draw(st.sampled_from([0, 5])),
        )
        each = endpoint(name, scale, gpus=draw(st.integers(0, 2)))
        load = draw(st.integers(0, 6))
        starts = StartRecord(
            failures=draw(st.integers(0, 3)), next_try_s=_NOW_S + draw(st.sampled_from([-1.0, 5.0]))
        )
        endpoints.append(
            seen(
                each,
                load=load,
                window=LoadWindow().observed(load, at_s=_NOW_S, span_s=60.0),
                starts=starts,
                image_present=draw(st.booleans()),
            )
        )
    free = [gpu_uuid(number) for number in range(gpus)]
    workers, in_flight = [], {}
    for number in range(draw(st.integers(0, 8))):
        state = draw(st.sampled_from([state for state in _S if state is not _S.GONE]))
        name = draw(st.sampled_from(["a", "b", "c"]))
        current = next((e.endpoint.revision for e in endpoints if e.endpoint.name == name), "")
        held: tuple[GpuUuid, ...] = ()
        if state in HOLDS_GPUS and free and draw(st.booleans()):
            held = (free.pop(),)
        workers.append(
            worker(
                number,
                state,
                endpoint=EndpointName(name),
                revision=draw(st.sampled_from([current, "older"])),
                gpu_uuids=held,
                since_s=_NOW_S - draw(st.sampled_from([0.0, 20.0, 5000.0])),
                ready_s=draw(st.sampled_from([None, 10.0, _NOW_S - 5.0])),
                cause=draw(st.sampled_from([_C.SCALE_UP, _C.IDLE, _C.SCALE_DOWN])),
                container_started_ns=1,
            )
        )
        in_flight[worker_id(number)] = draw(st.integers(0, 2))
    statuses = tuple(
        replace(status, health=draw(st.sampled_from(list(GpuHealth)))) for status in gpu_statuses(gpus)
    )
    return World(
        now_s=_NOW_S,
        endpoints={each.endpoint.name: each for each in endpoints},
        workers={each.id: each for each in workers},
        in_flight=in_flight,
        gpus=statuses,
        verify_gpus=draw(st.booleans()),
        engine_up=draw(st.booleans()),
        no_shrink_until_s=draw(st.sampled_from([0.0, _NOW_S + 10.0])),
    )


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_a_plan_of_a_plan_of_a_plan_comes_to_an_end(each: World) -> None:
    for step in range(60):
        after = _apply(each, next_number=50 + 4 * step)
        if after.workers == each.workers:
            return
        each = after
    pytest.fail("Two rules undo each other.")


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_no_gpu_is_given_twice_and_none_that_is_not_healthy(each: World) -> None:
    healthy = {status.gpu.uuid for status in each.gpus if status.health is GpuHealth.HEALTHY}
    held = {uuid for w in each.workers.values() if w.state in HOLDS_GPUS for uuid in w.gpu_uuids}
    given_out = [uuid for event in events(plan(each)) for uuid in event.gpu_uuids]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= healthy - held


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_nobody_is_made_above_the_bound(each: World) -> None:
    made = news(plan(each))
    for name, one in each.endpoints.items():
        new = sum(change.endpoint == name for change in made)
        current = [
            w
            for w in each.workers.values()
            if w.endpoint == name and w.revision == one.endpoint.revision and w.state in COUNTED
        ]
        assert not new or len(current) + new <= one.endpoint.spec.scale.max_workers


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_the_same_world_has_the_same_plan(each: World) -> None:
    assert plan(each) == plan(each)


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_a_plan_never_asks_to_be_asked_in_the_past(each: World) -> None:
    settled = each
    for step in range(60):
        after = _apply(settled, next_number=50 + 4 * step)
        if after.workers == settled.workers:
            break
        settled = after
    at_s = plan(settled).ask_again_at_s
    assert at_s is None or at_s > settled.now_s


# -- one by one -----------------------------------------------------------------------------------


def test_load_makes_a_worker_and_a_worker_gets_a_gpu() -> None:
    each = endpoint()
    before = world([seen(each, load=1)])
    assert news(plan(before)) == [NewWorker(endpoint=each.name)]
    after = _apply(_apply(before))
    assert [(w.state, w.gpu_uuids) for w in after.workers.values()] == [(_S.RESERVED, (gpu_uuid(0),))]


def test_an_image_comes_before_a_gpu() -> None:
    each = endpoint()
    pending = _of(each, state=_S.PENDING)
    assert _causes(world([seen(each, load=1, image_present=False)], [pending])) == [
        (pending.id, _C.IMAGE_ABSENT)
    ]


def test_nothing_is_seated_while_the_engine_is_away() -> None:
    each = endpoint()
    pending = _of(each, state=_S.PENDING)
    waiting = world([seen(each, load=1)], [pending], engine_up=False)
    assert _causes(waiting) == []
    assert [reason.reason for reason in plan(waiting).waits[each.name]] == ["engine_down"]


def test_the_higher_priority_gets_the_only_gpu() -> None:
    low, high = endpoint("a"), endpoint("b", ScalePolicy(priority=5))
    workers = [_of(low, 0, _S.PENDING), _of(high, 1, _S.PENDING)]
    answer = plan(world([seen(low, load=1), seen(high, load=1)], workers))
    assert [event.worker_id for event in events(answer)] == [worker_id(1)]
    assert [reason.reason for reason in answer.waits[low.name]] == ["waiting_for_gpu"]


def test_nothing_is_scaled_down_right_after_a_start() -> None:
    each = endpoint()
    settling = world([seen(each)], [_of(each)], no_shrink_until_s=_NOW_S + 5)
    assert _causes(settling) == []
    assert plan(settling).ask_again_at_s == _NOW_S + 5
    assert _causes(replace(settling, now_s=_NOW_S + 5)) == [(worker_id(0), _C.IDLE)]


def test_a_paused_endpoint_drains_at_once() -> None:
    each = endpoint(scale=ScalePolicy(max_workers=0))
    before = world([seen(each, load=3)], [_of(each)], in_flight={worker_id(0): 1}, no_shrink_until_s=2000.0)
    assert _causes(before) == [(worker_id(0), _C.SCALE_DOWN)]


def test_a_worker_stays_for_the_idle_timeout_from_its_readiness_on() -> None:
    each = endpoint()
    before = world([seen(each)], [_of(each, ready_s=_NOW_S - 59)])
    assert _causes(before) == []
    assert plan(before).ask_again_at_s == _NOW_S + 1


def test_after_a_failure_one_start_shows_whether_more_make_sense() -> None:
    each = endpoint(scale=ScalePolicy(max_workers=5, concurrency=1))
    failed = StartRecord(failures=2, next_try_s=_NOW_S)
    assert len(news(plan(world([seen(each, load=5, starts=failed)], gpus=5)))) == 1
    starting = [_of(each, 0, _S.STARTING)]
    assert news(plan(world([seen(each, load=5, starts=failed)], starting, gpus=5))) == []


def test_no_start_is_made_before_the_backoff_ends() -> None:
    each = endpoint()
    waiting = world([seen(each, load=1, starts=StartRecord(failures=1, next_try_s=_NOW_S + 3))])
    assert news(plan(waiting)) == []
    assert plan(waiting).ask_again_at_s == _NOW_S + 3
    assert [reason.reason for reason in plan(waiting).waits[each.name]] == ["start_backoff"]


def test_a_draining_worker_with_requests_comes_back_before_another_is_made() -> None:
    each = endpoint(scale=ScalePolicy(max_workers=1))
    draining = _of(each, state=_S.DRAINING, cause=_C.IDLE)
    before = world([seen(each, load=1)], [draining], in_flight={draining.id: 1})
    assert (draining.id, _C.DEMAND_RETURNED) in _causes(before)
    assert news(plan(before)) == []


@pytest.mark.parametrize(
    ("state", "limit_s", "cause"),
    [
        (_S.STARTING, 600.0, _C.START_TIMEOUT),
        (_S.NOT_READY, 60.0, _C.NOT_READY_TIMEOUT),
        (_S.STOPPING, 330.0, _C.STOP_UNANSWERED),
    ],
)
def test_a_state_that_lasts_too_long_ends(state: WorkerState, limit_s: float, cause: Cause) -> None:
    each = endpoint(scale=ScalePolicy(min_workers=1, max_workers=1))
    early = world([seen(each)], [_of(each, state=state, since_s=_NOW_S - limit_s + 1)])
    late = world([seen(each)], [_of(each, state=state, since_s=_NOW_S - limit_s)])
    assert (worker_id(0), cause) not in _causes(early)
    assert plan(early).ask_again_at_s == _NOW_S + 1
    assert (worker_id(0), cause) in _causes(late)


def test_a_draining_worker_goes_when_its_last_request_has_ended_or_its_time_is_up() -> None:
    each = endpoint(limits=Limits(drain_timeout_s=40.0))
    draining = _of(each, state=_S.DRAINING, since_s=_NOW_S - 39)
    busy = world([seen(each)], [draining], in_flight={draining.id: 1})
    assert _causes(busy) == []
    assert _causes(replace(busy, now_s=_NOW_S + 1)) == [(draining.id, _C.DRAIN_TIMEOUT)]
    assert _causes(replace(busy, in_flight={})) == [(draining.id, _C.DRAINED)]


def test_a_worker_of_a_deleted_endpoint_drains_by_what_it_was_made_from() -> None:
    made_from = endpoint(limits=Limits(drain_timeout_s=40.0))
    draining = _of(made_from, state=_S.DRAINING, since_s=_NOW_S - 39)
    orphaned = world([], [draining], in_flight={draining.id: 1}, specs={draining.id: made_from.spec})
    assert _causes(orphaned) == []
    assert _causes(replace(orphaned, now_s=_NOW_S + 1)) == [(draining.id, _C.DRAIN_TIMEOUT)]


@pytest.mark.parametrize("state", sorted(COUNTED))
def test_whoever_serves_a_deleted_endpoint_is_retired(state: WorkerState) -> None:
    retired = worker(state=state, gpu_uuids=(gpu_uuid(0),) if state in HOLDS_GPUS else ())
    after = _apply(world([], [retired]))
    leaves = {_S.DISCARDING} if state is _S.SLEEPING else {_S.DRAINING, _S.STOPPING}
    assert all(w.state in leaves for w in after.workers.values())


@pytest.mark.parametrize(("health", "force"), [(GpuHealth.UNHEALTHY, True), (GpuHealth.CORDONED, False)])
def test_a_worker_leaves_a_gpu_that_may_not_be_used(health: GpuHealth, *, force: bool) -> None:
    each = endpoint(scale=ScalePolicy(min_workers=1, max_workers=1))
    before = replace(world([seen(each)], [_of(each)]), gpus=gpu_statuses(1, health=health))
    assert [(event.cause, event.force) for event in events(plan(before))] == [(_C.GPU_LOST, force)]


def test_a_quarantine_does_not_end_the_worker_that_runs() -> None:
    each = endpoint(scale=ScalePolicy(min_workers=1, max_workers=1))
    before = replace(world([seen(each)], [_of(each)]), gpus=gpu_statuses(1, health=GpuHealth.QUARANTINED))
    assert _causes(before) == []


def test_an_earlier_revision_serves_until_a_new_worker_is_ready() -> None:
    each = endpoint()
    old = _of(each, 0, revision="older")
    starting = _of(each, 1, _S.STARTING)
    loaded = seen(each, load=1)
    assert _causes(world([loaded], [old, starting], gpus=2)) == []
    ready = replace(starting, state=_S.READY, ready_s=_NOW_S)
    assert _causes(world([loaded], [old, ready], gpus=2)) == [(old.id, _C.NEW_REVISION)]


def test_an_earlier_revision_makes_room_when_the_new_one_finds_no_gpu() -> None:
    each = endpoint()
    old, pending = _of(each, 0, revision="older"), _of(each, 1, _S.PENDING)
    assert (old.id, _C.NEW_REVISION) in _causes(world([seen(each, load=1)], [old, pending], gpus=1))


@pytest.mark.parametrize("rolling_name", ["a", "c"])
def test_a_whole_gpu_of_a_new_revision_and_a_neighbours_slice_are_not_placed_together(
    rolling_name: str,
) -> None:
    neighbour = _sliced(endpoint("b"), 9_000)
    before = _sliced(endpoint(rolling_name), 4_000)
    target = replace(endpoint(rolling_name), revision=Revision("new"))
    rollout = Rollout(
        endpoint=before.name,
        base=before.revision,
        target=target.revision,
        step=RolloutStep.CANARY,
        since_s=_NOW_S,
        started_at_ms=0,
        changed_at_ms=0,
    )
    rolling = RolloutSeen(rollout=rollout, target=target, image_present=True)
    workers = [
        _of(before, 0, _S.PENDING, revision=target.revision),
        _of(before, 1, _S.PENDING),
        _of(neighbour, 2, _S.PENDING),
    ]
    seens = [seen(neighbour, load=1, oldest_wait_s=50.0), seen(before, load=1, rollout=rolling)]
    after = _apply(world(seens, workers, gpus=1))
    holding = [w for w in after.workers.values() if w.gpu_uuids]
    assert holding, "somebody got the GPU"
    assert all(w.gpu_slice for w in holding) or len(holding) == 1


def _sliced(each: Endpoint, memory_mib: int) -> Endpoint:
    return replace(each, spec=replace(each.spec, gpus=GpuNeeds(count=1, memory_mib=memory_mib)))


def test_reserved_gpus_need_no_check_where_nothing_can_be_checked() -> None:
    each = endpoint(scale=ScalePolicy(min_workers=1, max_workers=1))
    reserved = _of(each, state=_S.RESERVED)
    assert _causes(world([seen(each)], [reserved], verify_gpus=False)) == [(reserved.id, _C.GPUS_VERIFIED)]
    assert _causes(world([seen(each)], [reserved], verify_gpus=True)) == []


def test_an_event_carries_no_more_than_it_says() -> None:
    each = endpoint()
    [event] = events(plan(world([seen(each, load=1)], [_of(each, state=_S.PENDING)])))
    assert event == WorkerEvent(worker_id=worker_id(0), cause=_C.GPUS_RESERVED, gpu_uuids=(gpu_uuid(0),))

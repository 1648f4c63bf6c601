"""Which workers are made for trial, make room, and leave while a revision takes over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import GpuNeeds
from gpud.core.ids import Revision, WorkerId
from gpud.core.placement import Placement
from gpud.core.rolling import roll
from gpud.core.rollout import RolloutStep
from gpud.core.rollout_moves import Scene, gives_room, leavers, room_taken, wants_canary
from gpud.core.rollout_policy import RolloutPolicy, RolloutStrategy
from gpud.core.starts import StartRecord
from gpud.core.waiting import WaitReason
from gpud.core.worker import COUNTED, Worker, WorkerState
from tests.unit.core.making import gpu_uuid, worker
from tests.unit.core.test_rollout_steps import NEW, NOW_S, OLD, POLICY, at, new, old, seen

THIRD = Revision("2" * 12)
RECREATE = replace(POLICY, strategy=RolloutStrategy.RECREATE)
NOWHERE = WaitReason(reason="waiting_for_gpu", detail="All are held.")


def scene(step: RolloutStep, workers: list[Worker], *, policy: RolloutPolicy = POLICY, **facts: Any) -> Scene:
    clock_s = NOW_S if step in (RolloutStep.PROVE, RolloutStep.SHIFT) else None
    rollout = at(step, clock_s=clock_s, **facts.pop("rollout", {}))
    base: dict[str, Any] = {
        "seen": seen(rollout, policy),
        "workers": workers,
        "serving": rollout.serving,
        "image_present": True,
        "needs": GpuNeeds(count=1),
        "desired": 1,
        "in_flight": {},
        "now_s": NOW_S,
    }
    return Scene(**{**base, **facts})


def ids(workers: list[Worker]) -> list[WorkerId]:
    return [each.id for each in workers]


# -- the one on trial -----------------------------------------------------------------------------


def test_one_worker_is_made_for_trial_and_not_a_second() -> None:
    assert wants_canary(scene(RolloutStep.CANARY, [old()]))
    assert not wants_canary(scene(RolloutStep.CANARY, [old(), new(state=WorkerState.PENDING)]))
    assert not wants_canary(scene(RolloutStep.PULL, [old()]))
    assert not wants_canary(scene(RolloutStep.SHIFT, [old()]))


def test_none_is_made_beside_a_third_revision_unless_that_one_is_lost() -> None:
    for state in WorkerState:
        third = worker(3, state, revision=THIRD)
        wanted = wants_canary(scene(RolloutStep.CANARY, [old(), third]))
        assert wanted is (state is WorkerState.LOST)


def test_recreate_waits_until_every_old_container_is_gone() -> None:
    for state in WorkerState:
        wanted = wants_canary(scene(RolloutStep.CANARY, [old(0, state)], policy=RECREATE))
        assert wanted is (state is WorkerState.LOST)
    assert ids(leavers(scene(RolloutStep.CANARY, [old(0), old(1)], policy=RECREATE), cramped=False)) == ids(
        [old(0), old(1)]
    )
    assert room_taken(scene(RolloutStep.CANARY, [], policy=RECREATE, desired=3)) == 3


def test_after_a_failed_start_the_next_try_comes_in_its_time() -> None:
    starts = StartRecord(failures=1, next_try_s=NOW_S + 5)
    early = scene(RolloutStep.CANARY, [old()], rollout={"starts": starts})
    assert not wants_canary(early)
    assert wants_canary(replace(early, now_s=NOW_S + 5))


def test_the_idlest_old_worker_makes_room_and_only_as_many_as_are_needed() -> None:
    on_gpus = [old(number, gpu_uuids=(gpu_uuid(number),)) for number in range(2)]
    workers = [*on_gpus, new(9, WorkerState.PENDING)]
    busy = {workers[1].id: 2}
    chosen = gives_room(scene(RolloutStep.CANARY, workers, in_flight=busy))
    assert chosen is not None
    assert chosen.id == workers[0].id
    assert gives_room(scene(RolloutStep.CANARY, workers, rollout={"replaced": 1})) is None


def test_nobody_makes_room_while_somebody_is_leaving() -> None:
    """Not even for a try that failed, whose GPUs are on their way back."""
    for leaving in (old(1, WorkerState.STOPPING), new(2, WorkerState.FAILED), new(2, WorkerState.RELEASING)):
        workers = [old(0, gpu_uuids=(gpu_uuid(0),)), leaving, new(9, WorkerState.PENDING)]
        assert gives_room(scene(RolloutStep.CANARY, workers)) is None


def test_a_worker_on_trial_takes_the_place_of_the_one_that_made_room() -> None:
    starting = [old(0), new(9, WorkerState.STARTING)]
    assert room_taken(scene(RolloutStep.CANARY, starting)) == 0, "beside the old ones"
    assert room_taken(scene(RolloutStep.CANARY, starting, rollout={"replaced": 1})) == 1
    assert room_taken(scene(RolloutStep.PROVE, [old(0), new(9)])) == 1


def test_a_free_gpu_spares_every_old_worker() -> None:
    workers = [old(0, gpu_uuids=(gpu_uuid(0),)), new(9, WorkerState.PENDING)]
    placed = roll(
        scene(RolloutStep.CANARY, workers),
        engine_up=True,
        place=lambda _: Placement(gpu_uuids=(gpu_uuid(1),)),
    )
    assert placed.leave == ()
    stuck = roll(scene(RolloutStep.CANARY, workers), engine_up=True, place=lambda _: NOWHERE)
    assert ids(list(stuck.leave)) == [workers[0].id]
    assert stuck.rollout is not None
    assert stuck.rollout.replaced == 1


# -- the shift ------------------------------------------------------------------------------------


def test_a_fifth_of_the_old_workers_goes_at_a_time() -> None:
    workers = [*(old(i) for i in range(10)), *(new(10 + i) for i in range(10))]
    going = leavers(scene(RolloutStep.SHIFT, workers, desired=10), cramped=False)
    assert len(going) == 4
    workers[:4] = [replace(each, state=WorkerState.DRAINING) for each in workers[:4]]
    assert leavers(scene(RolloutStep.SHIFT, workers, desired=10), cramped=False) == []


def test_a_revision_that_was_turned_down_leaves_at_once() -> None:
    workers = [old(0), new(1), new(2, WorkerState.STARTING)]
    for step in (RolloutStep.ROLLED_BACK, RolloutStep.SUPERSEDED):
        going = leavers(scene(step, workers, desired=1), cramped=False)
        assert {each.id for each in going} == {workers[1].id, workers[2].id}


states = st.sampled_from([state for state in WorkerState if state is not WorkerState.GONE])
crowds = st.lists(st.tuples(st.sampled_from([OLD, NEW, THIRD]), states, st.integers(0, 2)), max_size=12).map(
    lambda found: (
        [worker(i, state, revision=revision) for i, (revision, state, _) in enumerate(found)],
        {worker(i).id: busy for i, (_, _, busy) in enumerate(found)},
    )
)


@given(crowds, st.sampled_from(RolloutStep), st.integers(0, 8), st.booleans())
def test_old_workers_leave_no_faster_than_new_ones_take_over(
    crowd: tuple[list[Worker], dict[WorkerId, int]], step: RolloutStep, desired: int, cramped: bool
) -> None:
    workers, in_flight = crowd
    shown = scene(step, workers, desired=desired, in_flight=in_flight)
    going = leavers(shown, cramped=cramped)
    assert all(each.state in COUNTED and each.revision != shown.serving for each in going)
    assert len(going) == len(set(ids(going)))
    turned_down = step in (RolloutStep.ROLLED_BACK, RolloutStep.SUPERSEDED)
    paced = [
        each
        for each in going
        if each.state in (WorkerState.READY, WorkerState.NOT_READY)
        and not (turned_down and each.revision == NEW)
    ]
    serving = [w for w in workers if w.state in (WorkerState.READY, WorkerState.NOT_READY)]
    if desired:
        assert len(paced) <= max(1, len(serving) // 5)
    stay = [w for w in serving if w.revision not in (shown.serving, NEW, OLD) and w not in going]
    for leaver in paced:
        if in_flight[leaver.id]:
            assert all(in_flight[each.id] for each in stay if each.revision == leaver.revision)


@given(crowds, st.sampled_from([RolloutStep.CANARY, RolloutStep.PROVE]), st.integers(0, 8), st.booleans())
def test_while_one_is_tried_no_old_worker_leaves_for_more_than_its_place(
    crowd: tuple[list[Worker], dict[WorkerId, int]], step: RolloutStep, desired: int, free: bool
) -> None:
    workers, in_flight = crowd
    shown = scene(step, workers, desired=desired, in_flight=in_flight)
    place = Placement(gpu_uuids=(gpu_uuid(0),)) if free else NOWHERE
    rolling = roll(shown, engine_up=True, place=lambda _: place)
    old_ones = [each for each in rolling.leave if each.revision == OLD]
    assert len(old_ones) <= 1
    assert not (old_ones and free)
    if rolling.makes is not None:
        assert rolling.makes == NEW
        assert all(each.revision in (OLD, NEW) or each.state is WorkerState.LOST for each in workers)

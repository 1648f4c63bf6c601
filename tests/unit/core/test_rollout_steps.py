"""Where a rollout is, when it goes on, and when it goes back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName, Revision
from gpud.core.rollout import (
    ACTIVE,
    ANSWERS_LEAST,
    RollbackReason,
    Rollout,
    RolloutSeen,
    RolloutStep,
    SmokeState,
    Tally,
    next_rollout,
    worse,
)
from gpud.core.rollout_policy import RolloutPolicy, SmokeRequest
from gpud.core.starts import StartRecord
from gpud.core.worker import Worker, WorkerState
from tests.unit.core.making import endpoint, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = EndpointName("echo")
OLD, NEW = Revision("0" * 12), Revision("1" * 12)
NOW_S = 1000.0
POLICY = RolloutPolicy(min_healthy_time_s=10.0, progress_deadline_s=600.0)


def at(step: RolloutStep, **facts: Any) -> Rollout:
    base: dict[str, Any] = {
        "endpoint": NAME,
        "base": OLD,
        "target": NEW,
        "step": step,
        "since_s": NOW_S,
        "started_at_ms": 0,
        "changed_at_ms": 0,
    }
    return Rollout(**{**base, **facts})


def seen(rollout: Rollout, policy: RolloutPolicy = POLICY, **facts: Any) -> RolloutSeen:
    scale = facts.pop("scale", ScalePolicy())
    return RolloutSeen(
        rollout=rollout,
        target=replace(endpoint("echo", scale, rollout=policy), revision=NEW),
        **{"image_present": True, **facts},
    )


def old(number: int = 0, state: WorkerState = WorkerState.READY, **facts: Any) -> Worker:
    return worker(number, state, revision=OLD, **facts)


def new(number: int = 9, state: WorkerState = WorkerState.READY, **facts: Any) -> Worker:
    return worker(number, state, revision=NEW, **facts)


def moved(
    what: RolloutSeen,
    workers: Sequence[Worker] = (),
    *,
    desired: int = 1,
    now_s: float = NOW_S,
    up: bool = True,
) -> Rollout:
    return next_rollout(what, workers, desired=desired, engine_up=up, now_s=now_s)[0]


# -- forwards -------------------------------------------------------------------------------------


def test_nothing_is_tried_before_the_image_is_here() -> None:
    rollout = at(RolloutStep.PULL)
    assert moved(seen(rollout, image_present=False), [old()]) is rollout
    assert moved(seen(rollout), [old()]).step is RolloutStep.CANARY


@pytest.mark.parametrize(
    ("verify", "workers", "desired", "expected"),
    [
        (True, [], 0, RolloutStep.CANARY),
        (False, [], 0, RolloutStep.COMPLETED),
        (False, [], 1, RolloutStep.CANARY),
        (False, [old()], 0, RolloutStep.CANARY),
    ],
)
def test_an_endpoint_that_nobody_uses_is_tried_only_if_its_user_wants_it(
    verify: bool, workers: list[Worker], desired: int, expected: RolloutStep
) -> None:
    policy = replace(POLICY, verify=verify)
    assert moved(seen(at(RolloutStep.PULL), policy), workers, desired=desired).step is expected


def test_a_paused_endpoint_takes_the_new_revision_as_it_is() -> None:
    paused = seen(at(RolloutStep.PULL), scale=ScalePolicy(max_workers=0))
    assert moved(paused, [], desired=0).step is RolloutStep.COMPLETED


def test_pulls_that_failed_are_not_held_against_the_starts() -> None:
    rollout = at(RolloutStep.PULL, starts=StartRecord(failures=7, last_error="no network"))
    after = moved(seen(rollout), [old()])
    assert (after.step, after.starts.failures) == (RolloutStep.CANARY, 0)


def test_a_ready_worker_must_stay_so_for_a_while() -> None:
    trying = [old(), new(since_s=NOW_S)]
    assert moved(seen(at(RolloutStep.CANARY)), trying).step is RolloutStep.PROVE
    rollout = at(RolloutStep.PROVE, clock_s=NOW_S)
    same, again_s = next_rollout(seen(rollout), trying, desired=1, engine_up=True, now_s=NOW_S + 9)
    assert (same, again_s) == (rollout, NOW_S + 10)
    assert moved(seen(rollout), trying, now_s=NOW_S + 10).step is RolloutStep.SHIFT


def test_one_that_was_out_of_rotation_begins_anew() -> None:
    rollout = at(RolloutStep.PROVE, clock_s=NOW_S)
    assert moved(seen(rollout), [old(), new(state=WorkerState.NOT_READY)]).step is RolloutStep.CANARY
    returned = [old(), new(since_s=NOW_S + 5)]
    assert moved(seen(rollout), returned, now_s=NOW_S + 10).step is RolloutStep.PROVE


def test_the_smoke_request_must_have_gone_well() -> None:
    policy = replace(POLICY, smoke=SmokeRequest(path="/smoke"))
    workers, late_s = [old(), new(since_s=NOW_S)], NOW_S + 100
    rollout = at(RolloutStep.PROVE, clock_s=NOW_S)
    assert moved(seen(rollout, policy), workers, now_s=late_s).step is RolloutStep.PROVE
    passed = replace(rollout, smoke=SmokeState.PASSED)
    assert moved(seen(passed, policy), workers, now_s=late_s).step is RolloutStep.SHIFT


@pytest.mark.parametrize(
    ("state", "over"),
    [
        (WorkerState.READY, False),
        (WorkerState.DRAINING, False),
        (WorkerState.STOPPING, True),
        (WorkerState.LOST, True),
    ],
)
def test_it_is_complete_when_no_old_worker_has_requests(state: WorkerState, over: bool) -> None:
    rollout = at(RolloutStep.SHIFT, clock_s=NOW_S)
    after = moved(seen(rollout), [old(state=state), new()])
    assert after.step is (RolloutStep.COMPLETED if over else RolloutStep.SHIFT)


# -- back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("starts", "reason"),
    [
        (StartRecord(failures=2, last_error="x"), None),
        (StartRecord(failures=3, last_error="x"), RollbackReason.START_FAILURES),
        (StartRecord(failures=1, last_error="x", permanent=True), RollbackReason.START_FAILURES),
    ],
)
def test_three_failed_starts_are_enough_and_one_that_is_permanent(
    starts: StartRecord, reason: RollbackReason | None
) -> None:
    after = moved(seen(at(RolloutStep.CANARY, starts=starts)), [old()])
    assert after.reason is reason
    assert after.active is (reason is None)


def test_an_image_that_will_never_come_ends_it_and_a_slow_registry_does_not() -> None:
    gone = StartRecord(failures=1, last_error="not found", permanent=True)
    after = moved(seen(at(RolloutStep.PULL, starts=gone), image_present=False), [old()])
    assert (after.reason, after.detail) == (RollbackReason.IMAGE, "not found")
    slow = StartRecord(failures=50, last_error="timed out")
    assert moved(seen(at(RolloutStep.PULL, starts=slow), image_present=False), [old()]).active


def test_a_failed_smoke_request_ends_it() -> None:
    rollout = at(RolloutStep.PROVE, clock_s=NOW_S, smoke=SmokeState.FAILED, detail="GET /smoke answers 500")
    after = moved(seen(rollout), [old(), new()])
    assert (after.reason, after.detail) == (RollbackReason.SMOKE, "GET /smoke answers 500")


def test_errors_end_it_after_the_shift_too() -> None:
    before, after_it = Tally(answered=100, failed=1), Tally(answered=30, failed=29)
    for step in (RolloutStep.CANARY, RolloutStep.PROVE, RolloutStep.SHIFT):
        after = moved(seen(at(step, clock_s=NOW_S), old=before, new=after_it), [old(), new()])
        assert after.reason is RollbackReason.ERROR_RATE
        assert "29 of its 30" in after.detail


def test_the_deadline_counts_from_the_gpus_on_and_not_while_the_engine_is_away() -> None:
    rollout = at(RolloutStep.CANARY)
    waiting = [old(), new(state=WorkerState.PENDING)]
    assert moved(seen(rollout), waiting, now_s=NOW_S + 9000) is rollout, "it waits for GPUs"
    begun = moved(seen(rollout), [old(), new(state=WorkerState.RESERVED)], now_s=NOW_S + 50)
    assert begun.clock_s == NOW_S + 50
    starting = [old(), new(state=WorkerState.STARTING)]
    assert moved(seen(begun), starting, now_s=NOW_S + 649).active
    assert moved(seen(begun), starting, now_s=NOW_S + 650).reason is RollbackReason.DEADLINE
    away = moved(seen(begun), starting, now_s=NOW_S + 650, up=False)
    assert (away.active, away.clock_s) == (True, NOW_S + 650)
    brief = replace(POLICY, progress_deadline_s=30.0)
    same, again_s = next_rollout(seen(begun, brief), starting, desired=1, engine_up=False, now_s=NOW_S + 100)
    assert (same, again_s) == (begun, None), "nobody is asked again and again while the engine is away"


def test_a_long_time_of_proof_is_no_lack_of_progress() -> None:
    patient = replace(POLICY, min_healthy_time_s=5000.0)
    rollout = at(RolloutStep.PROVE, clock_s=NOW_S)
    workers = [old(), new(since_s=NOW_S)]
    assert moved(seen(rollout, patient), workers, now_s=NOW_S + 4999).active
    assert moved(seen(rollout, patient), workers, now_s=NOW_S + 5000).step is RolloutStep.SHIFT


def test_every_move_of_a_worker_is_progress_of_the_shift() -> None:
    rollout = at(RolloutStep.SHIFT, clock_s=NOW_S)
    workers = [old(since_s=0.0), new(since_s=NOW_S + 500)]
    after = moved(seen(rollout), workers, now_s=NOW_S + 700)
    assert (after.active, after.clock_s) == (True, NOW_S + 500)
    assert moved(seen(after), workers, now_s=NOW_S + 1100).reason is RollbackReason.DEADLINE


# -- properties -----------------------------------------------------------------------------------

tallies = st.builds(
    lambda answered, share: Tally(answered=answered, failed=round(answered * share)),
    st.integers(0, 300),
    st.floats(0, 1),
)


@given(tallies, tallies)
def test_few_answers_say_nothing_and_fewer_errors_are_never_worse(before: Tally, after: Tally) -> None:
    if worse(old=before, new=after):
        assert min(before.answered, after.answered) >= ANSWERS_LEAST
        assert after.error_rate - before.error_rate > 0.2
        assert not worse(old=after, new=before)


@given(tallies, st.integers(0, 500), st.floats(0, 1))
def test_a_tally_stays_bounded_and_legal(tally: Tally, answered: int, share: float) -> None:
    after = tally.plus(answered, round(answered * share))
    assert 0 <= after.failed <= after.answered <= 400


workers_of = st.lists(
    st.builds(
        lambda number, state, is_new, since_s: (new if is_new else old)(number, state, since_s=since_s),
        st.integers(0, 8),
        st.sampled_from([state for state in WorkerState if state is not WorkerState.GONE]),
        st.booleans(),
        st.floats(0, 2000),
    ),
    max_size=6,
)
rollouts = st.builds(
    at,
    st.sampled_from(sorted(ACTIVE)),
    clock_s=st.none() | st.floats(0, 2000),
    starts=st.builds(StartRecord, failures=st.integers(0, 4), permanent=st.booleans()),
    smoke=st.sampled_from(SmokeState),
)
_NEXT = {
    RolloutStep.PULL: {RolloutStep.CANARY, RolloutStep.COMPLETED},
    RolloutStep.CANARY: {RolloutStep.PROVE},
    RolloutStep.PROVE: {RolloutStep.CANARY, RolloutStep.SHIFT},
    RolloutStep.SHIFT: {RolloutStep.COMPLETED},
}


seens = st.builds(
    lambda rollout, present, before, after: seen(rollout, image_present=present, old=before, new=after),
    rollouts,
    st.booleans(),
    tallies,
    tallies,
)


@given(seens, workers_of, st.integers(0, 3), st.booleans(), st.floats(0, 4000))
def test_a_rollout_goes_step_by_step_or_back_and_says_why(
    what: RolloutSeen, workers: list[Worker], desired: int, up: bool, now_s: float
) -> None:
    rollout = what.rollout
    after, again_s = next_rollout(what, workers, desired=desired, engine_up=up, now_s=now_s)
    assert after.step in {rollout.step, RolloutStep.ROLLED_BACK, *_NEXT[rollout.step]}
    assert (after.reason is not None) is (after.step is RolloutStep.ROLLED_BACK)
    assert (after.base, after.target) == (rollout.base, rollout.target)
    if after.step is not rollout.step:
        assert after.since_s == now_s
    if again_s is not None and after.step is rollout.step:
        assert again_s > now_s, "the loop would never sleep"
    if after.step in (RolloutStep.PROVE, RolloutStep.SHIFT) and after.step is not rollout.step:
        assert any(w.revision == NEW and w.state is WorkerState.READY for w in workers)

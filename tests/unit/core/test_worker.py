from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.actions import action_for
from gpud.core.worker import (
    COUNTED,
    HOLDS_GPUS,
    START_FAILURES,
    TRANSITIONS,
    Cause,
    WorkerEvent,
    WorkerState,
    advance,
    next_state,
)
from gpud.errors import InvariantBroken
from tests.unit.core.making import gpu_uuid, worker, worker_id

_S, _C = WorkerState, Cause

_PATHS: dict[str, list[tuple[Cause, WorkerState]]] = {
    "a whole life": [
        (_C.IMAGE_ABSENT, _S.PULLING),
        (_C.GPUS_RESERVED, _S.RESERVED),
        (_C.GPUS_VERIFIED, _S.CREATING),
        (_C.CONTAINER_STARTED, _S.STARTING),
        (_C.PROBE_PASSED, _S.READY),
        (_C.PROBE_FAILED, _S.NOT_READY),
        (_C.PROBE_PASSED, _S.READY),
        (_C.IDLE, _S.DRAINING),
        (_C.DRAINED, _S.STOPPING),
        (_C.CONTAINER_STOPPED, _S.RELEASING),
        (_C.RELEASED, _S.GONE),
    ],
    "wanted again": [
        (_C.GPUS_RESERVED, _S.RESERVED),
        (_C.GPUS_VERIFIED, _S.CREATING),
        (_C.CONTAINER_STARTED, _S.STARTING),
        (_C.PROBE_PASSED, _S.READY),
        (_C.SCALE_DOWN, _S.DRAINING),
        (_C.DEMAND_RETURNED, _S.READY),
    ],
    "a container that dies": [
        (_C.GPUS_RESERVED, _S.RESERVED),
        (_C.GPUS_VERIFIED, _S.CREATING),
        (_C.CONTAINER_STARTED, _S.STARTING),
        (_C.EXITED, _S.FAILED),
        (_C.CONTAINER_STOPPED, _S.RELEASING),
        (_C.NOT_RETURNED, _S.GONE),
    ],
    "an engine that does not stop it": [
        (_C.GPUS_RESERVED, _S.RESERVED),
        (_C.KILLED, _S.STOPPING),
        (_C.STOP_UNANSWERED, _S.LOST),
        (_C.CONTAINER_STOPPED, _S.RELEASING),
        (_C.RELEASED, _S.GONE),
    ],
    "an image that vanished": [
        (_C.GPUS_RESERVED, _S.RESERVED),
        (_C.GPUS_VERIFIED, _S.CREATING),
        (_C.IMAGE_VANISHED, _S.RELEASING),
        (_C.RELEASED, _S.GONE),
    ],
    "a busy GPU": [(_C.GPUS_RESERVED, _S.RESERVED), (_C.GPU_BUSY, _S.GONE)],
    "a pull that fails": [(_C.IMAGE_ABSENT, _S.PULLING), (_C.PULL_FAILED, _S.GONE)],
    "not wanted any more": [(_C.IMAGE_ABSENT, _S.PULLING), (_C.UNWANTED, _S.GONE)],
}


@pytest.mark.parametrize("name", _PATHS)
def test_a_worker_goes_its_way(name: str) -> None:
    each = worker(state=_S.PENDING)
    for step, (cause, state) in enumerate(_PATHS[name], start=2):
        event = WorkerEvent(
            worker_id=each.id, cause=cause, gpu_uuids=(gpu_uuid(0),) if cause is _C.GPUS_RESERVED else ()
        )
        after = advance(each, event, now_s=float(step))
        assert after is not None, f"{cause} means nothing in {each.state}"
        assert (after.state, after.generation, after.since_s, after.cause) == (state, step, step, cause)
        each = after


@pytest.mark.parametrize("state", list(_S))
@pytest.mark.parametrize("cause", list(_C))
def test_an_event_either_moves_a_worker_by_one_generation_or_is_stale(
    state: WorkerState, cause: Cause
) -> None:
    before = worker(state=state, generation=7)
    after = advance(before, WorkerEvent(worker_id=before.id, cause=cause), now_s=5.0)
    expected = next_state(state, cause)
    if expected is None:
        assert after is None
    else:
        assert after is not None
        assert (after.state, after.generation, after.since_s) == (expected, 8, 5.0)


def test_nothing_happens_to_who_is_gone() -> None:
    assert all(state is not _S.GONE for state, _ in TRANSITIONS)


def test_gpus_are_taken_only_at_reserved_and_given_back_only_at_the_end() -> None:
    for (state, cause), target in TRANSITIONS.items():
        if state not in HOLDS_GPUS and target in HOLDS_GPUS:
            assert cause is _C.GPUS_RESERVED
            assert target is (_S.WAKING if state is _S.SLEEPING else _S.RESERVED)
        if state in HOLDS_GPUS and target not in HOLDS_GPUS:
            assert target is _S.GONE or (state, cause, target) == (_S.DOZING, _C.FELL_ASLEEP, _S.SLEEPING)


def test_a_container_that_may_exist_is_stopped_or_removed_before_a_worker_is_gone() -> None:
    """Except when the machine was restarted, which ended them all."""
    may_have_one = HOLDS_GPUS - {_S.RESERVED, _S.RELEASING}
    for (state, cause), target in TRANSITIONS.items():
        if target is _S.GONE and state in may_have_one:
            assert cause is _C.REBOOTED, f"{state} is gone by {cause}"


def test_every_state_but_the_last_has_an_effort_or_waits_for_a_decision() -> None:
    waiting = {state for state in _S if action_for(state) is None}
    assert waiting == {_S.PENDING, _S.SLEEPING, _S.DRAINING, _S.GONE}


@pytest.mark.parametrize("cause", sorted(START_FAILURES))
def test_an_end_that_gpud_did_not_ask_for_is_a_failure(cause: Cause) -> None:
    on_a_rung = {_S.PAUSED, _S.DOZING, _S.SLEEPING, _S.WAKING}
    for state in _S:
        before = worker(state=state)
        after = advance(before, WorkerEvent(worker_id=before.id, cause=cause), now_s=1.0)
        if after is not None and state is not _S.DRAINING:
            assert after.failed == (state not in on_a_rung), f"{cause} in {state}"


@pytest.mark.parametrize("cause", [_C.ENGINE_RESTARTED, _C.INCONSISTENT])
def test_an_end_that_is_not_the_workers_doing_is_no_failure(cause: Cause) -> None:
    before = worker(state=_S.READY)
    after = advance(before, WorkerEvent(worker_id=before.id, cause=cause), now_s=1.0)
    assert after is not None
    assert not after.failed


def test_an_end_while_draining_is_no_failure() -> None:
    before = worker(state=_S.DRAINING)
    after = advance(before, WorkerEvent(worker_id=before.id, cause=_C.EXITED), now_s=1.0)
    assert after is not None
    assert not after.failed


def test_the_first_moment_of_readiness_is_kept() -> None:
    each = worker(state=_S.STARTING)
    for now_s, cause in ((3.0, _C.PROBE_PASSED), (4.0, _C.PROBE_FAILED), (5.0, _C.PROBE_PASSED)):
        after = advance(each, WorkerEvent(worker_id=each.id, cause=cause), now_s=now_s)
        assert after is not None
        each = after
    assert each.ready_s == 3.0


def test_an_event_of_another_worker_is_a_bug() -> None:
    with pytest.raises(InvariantBroken):
        advance(worker(0), WorkerEvent(worker_id=worker_id(1), cause=_C.EXITED), now_s=0.0)


@given(st.lists(st.sampled_from(list(_C)), max_size=40))
def test_no_order_of_events_leads_out_of_the_table(causes: list[Cause]) -> None:
    each = worker(state=_S.PENDING)
    for now_s, cause in enumerate(causes):
        uuids = (gpu_uuid(0),) if cause is _C.GPUS_RESERVED else ()
        event = WorkerEvent(worker_id=each.id, cause=cause, gpu_uuids=uuids)
        after = advance(each, event, now_s=float(now_s))
        if after is None:
            continue
        assert after.generation == each.generation + 1
        assert not (each.gpu_uuids and not after.gpu_uuids), "GPUs are not forgotten on the way"
        each = after
    assert bool(each.gpu_uuids) or each.state not in HOLDS_GPUS
    assert COUNTED & {_S.DRAINING, _S.STOPPING, _S.RELEASING, _S.FAILED, _S.LOST, _S.GONE} == set()

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import Revision
from gpud.core.reconcile import plan
from gpud.core.standby import Rung, StandbyBudget, StandbyFault, StandbySeen
from gpud.core.step_policy import Hook, PausePolicy, SleepPolicy, SleepPreset, hooks_of
from gpud.core.stepping import called, instead_of_leaving, plan_steps, staying_asleep
from gpud.core.worker import STEPPED_DOWN, Cause, Worker, WorkerState, advance
from gpud.errors import InvalidSpec
from tests.unit.core.making import endpoint, events, gpu_uuid, seen, spec, worker, world

_S, _C = WorkerState, Cause
_NOW_S = 1000.0
_BOTH = endpoint(
    scale=ScalePolicy(max_workers=4, concurrency=2, idle_timeout_s=3600),
    pause=PausePolicy(after_idle_s=10),
    sleep=SleepPolicy(preset=SleepPreset.VLLM, after_idle_s=30, host_memory_mib=100),
)


def _of(number: int, state: WorkerState, *, idle_s: float = 0.0, **facts: Any) -> Worker:
    since_s = _NOW_S - idle_s
    base = {"revision": _BOTH.revision, "address": "10.0.0.2", "gpu_uuids": (gpu_uuid(number),)}
    return worker(number, state, **{**base, "since_s": since_s, "ready_s": since_s, **facts})


def _steps(*workers: Worker, **facts: Any) -> list[tuple[str, Cause]]:
    seen_now = seen(_BOTH, **facts.pop("seen", {}))
    specs = {w.id: _BOTH.spec for w in workers}
    here = world([seen_now], workers, gpus=4, specs=specs, **facts)
    return [(event.worker_id, event.cause) for event in plan_steps(here, {_BOTH.name: workers}).events]


def test_an_idle_worker_pauses_first_and_sleeps_later() -> None:
    assert _steps(_of(1, _S.READY, idle_s=9)) == []
    assert _steps(_of(1, _S.READY, idle_s=10)) == [(_of(1, _S.READY).id, _C.PAUSED)]
    assert _steps(_of(1, _S.READY, idle_s=30)) == [(_of(1, _S.READY).id, _C.PUT_TO_SLEEP)]
    assert _steps(_of(1, _S.PAUSED, idle_s=19)) == [], "ten seconds before it was paused, nineteen since"
    assert _steps(_of(1, _S.PAUSED, idle_s=20)) == [(_of(1, _S.PAUSED).id, _C.PUT_TO_SLEEP)]


def test_who_has_something_to_do_stays() -> None:
    idle = _of(1, _S.READY, idle_s=60)
    assert _steps(idle, in_flight={idle.id: 1}) == []
    assert _steps(idle, seen={"waiting": 1, "load": 1}) == []
    assert _steps(replace(idle, revision=Revision("old"))) == []
    assert _steps(idle, idle_since_s={idle.id: _NOW_S - 1}) == []
    assert _steps(idle, no_shrink_until_s=_NOW_S + 1) == []


def test_the_time_of_the_next_step_is_told() -> None:
    idle = _of(1, _S.READY, idle_s=4)
    answer = plan_steps(world([seen(_BOTH)], [idle]), {_BOTH.name: [idle]})
    assert answer.ask_again_at_s == _NOW_S + 6


def test_a_rung_that_failed_is_left_alone_for_a_while() -> None:
    fault = StandbyFault(revision=_BOTH.revision, detail="", again_s=_NOW_S + 5)
    standing = StandbySeen(faults={(_BOTH.name, Rung.SLEEPING): fault})
    idle = _of(1, _S.READY, idle_s=60)
    assert _steps(idle, standing=standing) == [(idle.id, _C.PAUSED)]
    assert _steps(idle, standing=StandbySeen(unavailable={Rung.SLEEPING: "", Rung.PAUSED: ""})) == []


def test_what_a_guarantee_asks_for_pauses_and_does_not_sleep() -> None:
    kept = endpoint(
        scale=ScalePolicy(min_workers=1, max_workers=4),
        pause=_BOTH.spec.pause,
        sleep=_BOTH.spec.sleep,
    )
    workers = [replace(_of(n, _S.READY, idle_s=60), revision=kept.revision) for n in (1, 2)]
    here = world([seen(kept)], workers, gpus=4)
    causes = [event.cause for event in plan_steps(here, {kept.name: workers}).events]
    assert causes == [_C.PUT_TO_SLEEP, _C.PAUSED]


def test_the_one_that_is_soonest_back_is_called_first() -> None:
    asleep, paused, other = _of(1, _S.SLEEPING), _of(2, _S.PAUSED, idle_s=5), _of(3, _S.PAUSED, idle_s=9)
    workers = [asleep, other, paused]
    assert called(seen(_BOTH, waiting=1), workers, {}) == [paused]
    assert called(seen(_BOTH, waiting=3), workers, {}) == [paused, other]
    assert called(seen(_BOTH, waiting=5), workers, {}) == [paused, other, asleep]
    ready = _of(4, _S.READY)
    assert called(seen(_BOTH, waiting=2), [*workers, ready], {}) == [], "it has two places"
    assert called(seen(_BOTH, waiting=2), [*workers, ready], {ready.id: 1}) == [paused]


def test_a_sleeper_wants_its_gpu_only_when_it_is_called() -> None:
    asleep = _of(0, _S.SLEEPING)
    assert events(plan(world([seen(_BOTH)], [asleep]))) == []
    (woken,) = events(plan(world([seen(_BOTH, waiting=1, load=1)], [asleep])))
    assert (woken.cause, woken.gpu_uuids) == (_C.GPUS_RESERVED, asleep.gpu_uuids)
    assert staying_asleep(seen(_BOTH), [asleep], {}) == 1
    assert staying_asleep(seen(_BOTH, waiting=1), [asleep], {}) == 0


def test_whoever_must_give_its_gpus_away_sleeps_if_it_may() -> None:
    idle = _of(1, _S.READY)
    here = world([seen(_BOTH)], [idle], specs={idle.id: _BOTH.spec})
    event = instead_of_leaving(here, idle)
    assert event is not None
    assert event.cause is _C.PUT_TO_SLEEP
    assert instead_of_leaving(replace(here, in_flight={idle.id: 1}), idle) is None
    tight = StandbySeen(budget=StandbyBudget(sleep_ram_mib=150))
    assert instead_of_leaving(replace(here, standing=tight), idle) is not None
    assert instead_of_leaving(replace(here, standing=tight), idle, 100) is None


_MADE = st.lists(
    st.tuples(st.sampled_from([_S.READY, _S.PAUSED, _S.SLEEPING]), st.floats(0, 100)), min_size=1, max_size=4
)


@given(_MADE, st.integers(0, 500), st.integers(0, 4 * 24_576), st.integers(0, 9))
def test_whatever_steps_down_stays_within_the_budgets_and_is_never_needed(
    made: list[tuple[WorkerState, float]], ram_mib: int, vram_mib: int, waiting: int
) -> None:
    """However it begins, applying the steps ends, within both budgets, and none of it while anybody waits."""
    workers = [_of(n, state, idle_s=idle_s) for n, (state, idle_s) in enumerate(made)]
    before = {w.id: w for w in workers}
    standing = StandbySeen(budget=StandbyBudget(sleep_ram_mib=ram_mib, paused_vram_mib=vram_mib))
    for _ in range(6):
        here = world(
            [seen(_BOTH, waiting=waiting)],
            workers,
            gpus=4,
            standing=standing,
            specs={w.id: _BOTH.spec for w in workers},
        )
        answer = plan_steps(here, {_BOTH.name: workers}).events
        if not answer:
            break
        for event in answer:
            at = next(i for i, w in enumerate(workers) if w.id == event.worker_id)
            moved = advance(workers[at], event, now_s=_NOW_S)
            assert moved is not None
            workers[at] = replace(moved, since_s=workers[at].since_s)
    else:
        pytest.fail("the steps do not settle")
    new = [w for w in workers if w.state is not before[w.id].state]
    assert not (new and waiting)
    asleep = [w for w in workers if w.state in (_S.DOZING, _S.SLEEPING)]
    if any(w in asleep for w in new):
        assert 100 * len(asleep) <= ram_mib
    if vram_mib and any(w.state is _S.PAUSED for w in new):
        assert 24_576 * sum(w.state is _S.PAUSED for w in workers) <= vram_mib


@given(_MADE, st.integers(0, 9))
def test_nobody_waits_beside_a_worker_that_rests(made: list[tuple[WorkerState, float]], waiting: int) -> None:
    workers = [_of(n, state, idle_s=idle_s) for n, (state, idle_s) in enumerate(made)]
    back = called(seen(_BOTH, waiting=waiting), workers, {})
    down = [w for w in workers if w.state in STEPPED_DOWN]
    places = 2 * (len(back) + sum(w.state is _S.READY for w in workers))
    assert len(back) == len({w.id for w in back}) <= len(down)
    assert places >= waiting or len(back) == len(down)
    assert len(back) <= (waiting + 1) // 2, "no more come back than are needed"
    costs = {_S.PAUSED: 0, _S.SLEEPING: 1}
    assert max((costs[w.state] for w in back), default=0) <= min(
        (costs[w.state] for w in down if w not in back), default=1
    )


def test_a_preset_has_its_calls_and_custom_its_own() -> None:
    assert hooks_of(SleepPolicy(preset=SleepPreset.VLLM)).wake.path == "/wake_up"
    assert "/collective_rpc" in hooks_of(SleepPolicy(preset=SleepPreset.VLLM)).control_paths
    assert hooks_of(SleepPolicy(preset=SleepPreset.SGLANG)).enter.body == "{}"
    own = SleepPolicy(preset=SleepPreset.CUSTOM, enter=Hook(path="/down?x=1"), wake=Hook(path="/up"))
    assert hooks_of(own).control_paths == ("/down", "/up")


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        ("sleep.enter.path", {"sleep": SleepPolicy(preset=SleepPreset.CUSTOM, wake=Hook(path="/up"))}),
        ("sleep.wake.path", {"sleep": SleepPolicy(preset=SleepPreset.CUSTOM, enter=Hook(path="/down"))}),
        ("sleep.enter.path", {"sleep": SleepPolicy(preset=SleepPreset.VLLM, enter=Hook(path="/down"))}),
        ("sleep.check.path", {"sleep": SleepPolicy(check=Hook(path="no slash"))}),
        ("sleep.enter.method", {"sleep": SleepPolicy(enter=Hook(method="BREW"))}),
        ("sleep.timeout_s", {"sleep": SleepPolicy(timeout_s=0)}),
        ("pause.after_idle_s", {"pause": PausePolicy(after_idle_s=-1)}),
    ],
)
def test_a_policy_that_cannot_be_carried_out_is_refused(path: str, facts: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as refused:
        spec(**facts)
    assert path in refused.value.fields

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.standby import Rung
from gpud.core.stepping import called
from gpud.core.wake_times import KEPT_MAX, UNMEASURED, WakeTimes
from gpud.core.worker import WorkerState
from tests.unit.core.making import endpoint, seen, worker


def _measured(rung: Rung, *seconds: float, revision: str = "r", of: WakeTimes = UNMEASURED) -> WakeTimes:
    for each_s in seconds:
        of = of.noted(revision, rung, each_s)
    return of


def test_until_three_were_measured_the_order_of_size_counts() -> None:
    assert sorted(Rung, key=UNMEASURED.usual_s) == [Rung.PAUSED, Rung.PARKED, Rung.CREATED, Rung.SLEEPING]
    assert _measured(Rung.SLEEPING, 9, 9).usual_s(Rung.SLEEPING) == UNMEASURED.usual_s(Rung.SLEEPING)
    assert _measured(Rung.SLEEPING, 9, 1, 4).usual_s(Rung.SLEEPING) == 4


def test_what_another_revision_took_says_nothing() -> None:
    before = _measured(Rung.PARKED, 5, 5, 5)
    assert before.noted("s", Rung.PARKED, 1).seconds == {Rung.PARKED: (1,)}


@given(st.lists(st.floats(0.001, 1000), min_size=3, max_size=60))
def test_the_usual_time_lies_among_the_last_twenty(seconds: list[float]) -> None:
    usual_s = _measured(Rung.PAUSED, *seconds).usual_s(Rung.PAUSED)
    last = seconds[-KEPT_MAX:]
    assert min(last) <= usual_s <= max(last)


def test_a_sleeper_that_comes_back_sooner_than_a_paused_worker_is_called_first() -> None:
    each = endpoint(gpus=0)
    asleep = worker(1, WorkerState.SLEEPING, revision=each.revision)
    paused = worker(2, WorkerState.PAUSED, revision=each.revision)
    slow_to_thaw = _measured(Rung.SLEEPING, 0.2, 0.2, 0.2, of=_measured(Rung.PAUSED, 3.0, 3.0, 3.0))
    assert called(seen(each, waiting=1), [asleep, paused], {}) == [paused]
    assert called(seen(each, waiting=1, wake_times=slow_to_thaw), [asleep, paused], {}) == [asleep]

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core import ejection
from gpud.core.ejection import FAILURES_MAX, GOOD, Standing, after_failure, after_success, ejected
from gpud.core.ids import WorkerId

_IDS = [WorkerId(f"wk_{i}") for i in range(6)]


def _failed(times: int, now_s: float = 100.0, standing: Standing = GOOD) -> Standing:
    for _ in range(times):
        standing = after_failure(standing, now_s)
    return standing


def test_a_row_of_failures_ejects_and_a_success_breaks_the_row() -> None:
    assert _failed(FAILURES_MAX - 1).ejected_until_s == 0
    assert _failed(FAILURES_MAX).ejected_until_s == 130
    broken = after_success(_failed(FAILURES_MAX - 1), 100)
    assert _failed(FAILURES_MAX - 1, standing=broken).ejected_until_s == 0


@pytest.mark.parametrize(("ejections", "expected_s"), [(1, 30), (2, 60), (3, 90), (10, 300), (20, 300)])
def test_each_ejection_is_longer_up_to_a_limit(ejections: int, expected_s: float) -> None:
    assert _failed(FAILURES_MAX * ejections).ejected_until_s == 100 + expected_s


def test_ejections_are_forgotten_one_by_one_while_all_is_well() -> None:
    twice = _failed(2 * FAILURES_MAX)
    assert after_success(twice, twice.ejected_until_s + 299).ejections == 2
    assert after_success(twice, twice.ejected_until_s + 301).ejections == 1
    assert after_success(twice, twice.ejected_until_s + 10_000).ejections == 0


@given(st.sets(st.sampled_from(_IDS), min_size=1), st.sets(st.sampled_from(_IDS)))
def test_half_of_the_ready_workers_are_always_left(ready: set[WorkerId], bad: set[WorkerId]) -> None:
    standings = dict.fromkeys(bad, _failed(FAILURES_MAX))
    out = ejected(standings, ready, 101)
    assert out <= bad & ready
    assert len(ready - out) >= max(1, len(ready) / 2)
    assert len(out) == min(len(bad & ready), len(ready) // 2)


def test_an_ejection_ends_by_itself() -> None:
    standings = {_IDS[0]: _failed(FAILURES_MAX)}
    assert ejected(standings, _IDS, 129) == {_IDS[0]}
    assert ejected(standings, _IDS, 131) == frozenset()


def test_only_the_last_quarter_of_an_hour_counts_towards_replacing_a_worker() -> None:
    now_s = 10_000.0
    within, before = now_s - ejection.RECYCLE_WINDOW_S, now_s - ejection.RECYCLE_WINDOW_S - 1
    assert ejection.recent((before, within, now_s), now_s) == (within, now_s)

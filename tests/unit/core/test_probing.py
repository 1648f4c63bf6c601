from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.probing import (
    FIRST_PROBE_S,
    ProbeOutcome,
    ProbeResult,
    ProbeStreak,
    ReadinessVerdict,
    describe,
    judge,
    startup_interval_s,
)

OK = ProbeResult(outcome=ProbeOutcome.OK, status=200)
COUNTING = [ProbeOutcome.BAD_STATUS, ProbeOutcome.REFUSED, ProbeOutcome.RESET, ProbeOutcome.TIMEOUT]

results = st.builds(ProbeResult, outcome=st.sampled_from(ProbeOutcome), status=st.sampled_from([0, 200, 503]))


def failed(outcome: ProbeOutcome) -> ProbeResult:
    return ProbeResult(outcome=outcome)


def after(streak: ProbeStreak, *taken: ProbeResult, in_flight: int = 0, successes: int = 1) -> ProbeStreak:
    for result in taken:
        streak, _ = judge(streak, result, in_flight=in_flight, fail_threshold=3, success_threshold=successes)
    return streak


def probe_times_until(end_s: float) -> list[float]:
    times, now_s = [], 0.0
    while (now_s := now_s + startup_interval_s(now_s)) <= end_s:
        times.append(now_s)
    return times


def test_a_refused_startup_probe_is_repeated_after_a_millisecond() -> None:
    assert startup_interval_s(0.0) == startup_interval_s(0.4) == FIRST_PROBE_S == 0.001


def test_startup_intervals_grow_with_the_start_to_two_seconds() -> None:
    assert startup_interval_s(3.0) == pytest.approx(0.0075)
    assert startup_interval_s(60.0) == pytest.approx(0.6)
    assert startup_interval_s(86_400.0) == 2.0


def test_a_worker_that_listens_while_it_loads_is_asked_less_often() -> None:
    assert startup_interval_s(10.0, listens=True) > 4 * startup_interval_s(10.0)


def test_a_start_of_a_minute_costs_fewer_than_seventeen_hundred_probes() -> None:
    assert len(probe_times_until(60.0)) < 1700


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_startup_intervals_never_shrink(one_s: float, other_s: float) -> None:
    assert startup_interval_s(min(one_s, other_s)) <= startup_interval_s(max(one_s, other_s))


@given(st.floats(0.001, 100))
def test_a_workers_readiness_is_noticed_within_a_hundredth_of_its_start(ready_s: float) -> None:
    seen_s = next(at for at in probe_times_until(2 * ready_s + 1) if at >= ready_s)
    assert seen_s - ready_s <= FIRST_PROBE_S + (0.0025 if ready_s < 4 else 0.01) * ready_s + 1e-9


@pytest.mark.parametrize("outcome", COUNTING)
def test_an_idle_worker_leaves_the_rotation_at_the_third_failure(outcome: ProbeOutcome) -> None:
    streak, verdict = ProbeStreak(), ReadinessVerdict.UNCHANGED
    for _ in range(2):
        streak, verdict = judge(streak, failed(outcome), in_flight=0, fail_threshold=3)
        assert (streak.ready, verdict) == (True, ReadinessVerdict.UNCHANGED)
    streak, verdict = judge(streak, failed(outcome), in_flight=0, fail_threshold=3)
    assert (streak.ready, verdict) == (False, ReadinessVerdict.BECAME_NOT_READY)


def test_a_threshold_of_one_takes_the_worker_out_at_once() -> None:
    streak, verdict = judge(ProbeStreak(), failed(ProbeOutcome.REFUSED), in_flight=0, fail_threshold=1)
    assert (streak.ready, verdict) == (False, ReadinessVerdict.BECAME_NOT_READY)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    refused = failed(ProbeOutcome.REFUSED)
    assert after(ProbeStreak(), refused, refused, OK, refused, refused).ready


def test_one_success_brings_the_worker_back() -> None:
    streak, verdict = judge(ProbeStreak(ready=False), OK, in_flight=0, fail_threshold=3)
    assert (streak, verdict) == (ProbeStreak(), ReadinessVerdict.BECAME_READY)


def test_after_an_ejection_two_successes_in_a_row_are_needed() -> None:
    out = ProbeStreak(ready=False)
    assert not after(out, OK, successes=2).ready
    assert not after(out, OK, failed(ProbeOutcome.RESET), OK, successes=2).ready
    assert after(out, OK, OK, successes=2).ready


def test_a_busy_worker_that_does_not_answer_stays_in_rotation() -> None:
    timeouts = [failed(ProbeOutcome.TIMEOUT)] * 100
    assert after(ProbeStreak(), *timeouts, in_flight=1) == ProbeStreak()


def test_a_busy_worker_whose_request_is_overdue_does_not_stay() -> None:
    streak = ProbeStreak(failures=2)
    streak, _ = judge(streak, failed(ProbeOutcome.TIMEOUT), in_flight=1, fail_threshold=3, overdue=True)
    assert not streak.ready


@pytest.mark.parametrize("outcome", [ProbeOutcome.REFUSED, ProbeOutcome.RESET, ProbeOutcome.BAD_STATUS])
def test_a_busy_worker_that_refuses_breaks_or_complains_is_not_excused(outcome: ProbeOutcome) -> None:
    assert not after(ProbeStreak(), *[failed(outcome)] * 3, in_flight=8).ready


@given(st.booleans(), st.integers(0, 2), st.integers(0, 9), st.booleans())
def test_an_error_of_our_own_changes_nothing(
    ready: bool, failures: int, in_flight: int, overdue: bool
) -> None:
    streak = ProbeStreak(ready=ready, failures=failures if ready else 0)
    told = judge(
        streak,
        failed(ProbeOutcome.LOCAL_ERROR),
        in_flight=in_flight,
        fail_threshold=1,
        overdue=overdue,
    )
    assert told == (streak, ReadinessVerdict.UNCHANGED)


@given(st.lists(st.tuples(results, st.integers(0, 2))), st.integers(1, 5), st.integers(1, 3))
def test_a_verdict_is_given_exactly_when_readiness_changes(
    taken: list[tuple[ProbeResult, int]], fail_threshold: int, success_threshold: int
) -> None:
    streak = ProbeStreak()
    for result, in_flight in taken:
        before = streak
        streak, verdict = judge(
            streak,
            result,
            in_flight=in_flight,
            fail_threshold=fail_threshold,
            success_threshold=success_threshold,
        )
        changes = {
            (True, False): ReadinessVerdict.BECAME_NOT_READY,
            (False, True): ReadinessVerdict.BECAME_READY,
        }
        assert verdict is changes.get((before.ready, streak.ready), ReadinessVerdict.UNCHANGED)
        assert 0 <= streak.failures < fail_threshold
        assert 0 <= streak.successes < success_threshold


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (OK, "GET /health answers 200"),
        (ProbeResult(outcome=ProbeOutcome.BAD_STATUS, status=503), "GET /health answers 503"),
        (failed(ProbeOutcome.BAD_STATUS), "port 9000 answers GET /health with something that is not HTTP"),
        (failed(ProbeOutcome.REFUSED), "connection refused on port 9000"),
        (failed(ProbeOutcome.RESET), "connection broken on port 9000 before GET /health was answered"),
        (failed(ProbeOutcome.TIMEOUT), "no answer to GET /health on port 9000 in time"),
        (failed(ProbeOutcome.LOCAL_ERROR), "gpud could not probe 10.0.0.7 port 9000"),
    ],
)
def test_a_result_is_said_in_words(result: ProbeResult, words: str) -> None:
    assert describe(result, address="10.0.0.7", port=9000, path="/health") == words

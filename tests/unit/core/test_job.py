from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpud.core.backoff import BASE_MS, CAP_MS, retry_delay_ms
from gpud.core.ids import EndpointName
from gpud.core.job import (
    EXTRA_DELIVERIES,
    Delivered,
    Ending,
    Job,
    JobState,
    Retention,
    aged_priority,
    cancelled,
    changed,
    claimed,
    expired,
    redriven,
    settled,
)
from gpud.core.job_request import DAY_MS, JobPolicy, accepted, job_id
from gpud.core.timeline import anchored
from gpud.errors import InvalidRequest

KEPT = Retention()
NOW = 1_000_000


def a_job(**changes: Any) -> Job:
    job = accepted(
        job_id(NOW, "job_" + "a" * 16, sync=False),
        endpoint=EndpointName("llm"),
        owner="local",
        policy=JobPolicy(),
        now_ms=NOW,
    )
    return replace(job, seq=1, **changes)


def run(job: Job, now_ms: int = NOW) -> Job:
    return claimed(job, now_ms=now_ms, worker_id="wk", instance="i")


def end(job: Job, ending: Ending, now_ms: int = NOW, **said: Any) -> Job:
    return settled(job, Delivered(ending=ending, **said), now_ms=now_ms, fraction=0.5, kept=KEPT)


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.TIMED_OUT, Ending.WORKER_DIED])
def test_what_the_job_is_to_blame_for_uses_up_its_attempts_and_leaves_it_dead(ending: Ending) -> None:
    job = a_job(max_attempts=2)
    job = end(run(job), ending, error="boom")
    assert (job.state, job.attempt) == (JobState.IN_QUEUE, 1)
    job = end(run(job), ending, error="boom")
    assert (job.state, job.dead, job.error) == (JobState.FAILED, True, "boom")
    assert job.purge_at_ms == NOW + KEPT.dead_ms


@pytest.mark.parametrize("ending", [Ending.INTERRUPTED, Ending.BUSY, Ending.WORKER_DIED_SHARED])
def test_what_others_are_to_blame_for_costs_a_delivery_and_no_attempt(ending: Ending) -> None:
    job = end(run(a_job()), ending)
    assert (job.state, job.attempt, job.deliveries) == (JobState.IN_QUEUE, 0, 1)


def test_deliveries_bound_even_what_is_not_counted() -> None:
    job = a_job()
    for _ in range(job.max_attempts + EXTRA_DELIVERIES):
        assert job.state is JobState.IN_QUEUE
        job = end(run(job), Ending.INTERRUPTED)
    assert (job.state, job.reason, job.dead) == (JobState.FAILED, "too_many_deliveries", True)


def test_a_job_that_may_have_killed_a_shared_worker_runs_alone_next() -> None:
    assert end(run(a_job()), Ending.WORKER_DIED_SHARED).solo


def test_what_cannot_help_is_not_tried_again_and_is_no_dead_letter() -> None:
    job = end(run(a_job()), Ending.FAILED, may_retry=False, error="400")
    assert (job.state, job.dead) == (JobState.FAILED, False)


def test_the_workers_own_wish_for_the_wait_is_taken_up_to_the_cap() -> None:
    assert end(run(a_job()), Ending.BUSY, after_ms=7_000).available_at_ms == NOW + 7_000
    assert end(run(a_job()), Ending.FAILED, after_ms=10**9).available_at_ms == NOW + CAP_MS


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_when_its_attempt_ends() -> None:
    assert cancelled(a_job(), now_ms=NOW, kept=KEPT).state is JobState.CANCELLED
    asked = cancelled(run(a_job()), now_ms=NOW, kept=KEPT)
    assert (asked.state, asked.cancel_requested) == (JobState.IN_PROGRESS, True)
    assert end(asked, Ending.INTERRUPTED).state is JobState.CANCELLED


def test_a_result_that_was_there_first_wins_over_a_cancellation() -> None:
    asked = cancelled(run(a_job()), now_ms=NOW, kept=KEPT)
    assert end(asked, Ending.COMPLETED).state is JobState.COMPLETED


def test_time_to_live_bounds_the_wait_and_not_the_run() -> None:
    job = a_job()
    assert expired(job, now_ms=NOW + DAY_MS - 1, kept=KEPT) is None
    assert expired(run(job), now_ms=NOW + DAY_MS, kept=KEPT) is None
    over = expired(job, now_ms=NOW + DAY_MS, kept=KEPT)
    assert over is not None
    assert (over.state, over.reason, over.dead) == (JobState.TIMED_OUT, "expired", True)


def test_a_deadline_bounds_the_whole_job() -> None:
    job = a_job(deadline_ms=NOW + 20_000)
    assert run(job).stop_by_ms == NOW + 20_000
    failed = end(run(job), Ending.FAILED, now_ms=NOW + 20_000)
    assert (failed.state, failed.reason) == (JobState.TIMED_OUT, "deadline")


def test_a_job_put_back_by_hand_has_a_new_budget_and_stays_fenced() -> None:
    job = a_job(max_attempts=1)
    failed = end(run(job), Ending.FAILED)
    again = redriven(failed, now_ms=NOW + DAY_MS)
    assert again is not None
    assert (again.state, again.attempt, again.deliveries, again.redrives) == (JobState.IN_QUEUE, 0, 1, 1)
    assert again.expires_at_ms == NOW + 2 * DAY_MS
    assert redriven(again, now_ms=NOW) is None


def test_waiting_raises_the_priority_by_a_step_each_five_minutes_up_to_five() -> None:
    job = a_job(priority=2)
    assert [aged_priority(job, now_ms=NOW + minutes * 60_000) for minutes in (0, 5, 12, 600)] == [2, 3, 4, 7]


def test_a_changed_job_is_what_replace_would_make_and_the_old_one_stays() -> None:
    before = a_job()
    kept = replace(before)
    assert changed(before, attempt=2, worker_id="wk_a") == replace(before, attempt=2, worker_id="wk_a")
    after = changed(before)
    assert type(after) is Job
    assert (after, hash(after)) == (before, hash(before))
    with pytest.raises(FrozenInstanceError):
        after.attempt = 3  # type: ignore[misc]
    every: dict[str, Any] = {field.name: object() for field in fields(Job)}
    everything = changed(before, **every)
    assert all(getattr(changed(everything), name) is value for name, value in every.items())
    assert before == kept
    with pytest.raises(AttributeError):
        changed(before, no_such_field=1)


@given(attempt=st.integers(1, 100), fraction=st.floats(0, 0.999))
def test_a_wait_doubles_up_to_its_cap_and_is_spread_over_its_upper_half(
    attempt: int, fraction: float
) -> None:
    full_ms = min(BASE_MS * 2 ** (attempt - 1), CAP_MS)
    assert full_ms // 2 <= retry_delay_ms(counted=True, attempt=attempt, fraction=fraction) <= full_ms


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ttl_ms", 9_999),
        ("ttl_ms", 7 * DAY_MS + 1),
        ("execution_timeout_ms", 4_999),
        ("execution_timeout_ms", 7 * DAY_MS + 1),
        ("priority", 11),
        ("max_attempts", 0),
        ("max_attempts", 26),
        ("deadline_ms", 1),
        ("group_key", "x" * 256),
        ("group_key", "a\nb"),
    ],
)
def test_a_policy_out_of_bounds_cannot_be_made(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        JobPolicy(**{field: value})  # type: ignore[arg-type]
    assert list(refused.value.fields) == [field]


def test_job_ids_sort_by_time_and_say_whose_caller_waits() -> None:
    ids = [job_id(at_ms, "job_" + "a" * 16, sync=False) for at_ms in (NOW, NOW + 1, NOW * 10**6)]
    assert ids == sorted(ids)
    assert job_id(NOW, "job_x", sync=True).startswith("sync-")


def test_no_step_of_the_wall_clock_moves_the_job_timeline_within_a_boot() -> None:
    first = anchored(None, boot_id="a", boot_ns=10**9, wall_ms=5_000)
    later = anchored(first, boot_id="a", boot_ns=3 * 10**9, wall_ms=99_999_999)
    assert later.now_ms(3 * 10**9) == 7_000
    rebooted = anchored(later, boot_id="b", boot_ns=0, wall_ms=1, newest_ms=8_000)
    assert rebooted.now_ms(0) == 8_000


class JobLife(RuleBasedStateMachine):
    """Whatever happens to a job, in whatever order, it keeps to its rules."""

    @initialize(max_attempts=st.integers(1, 4))
    def begin(self, max_attempts: int) -> None:
        self.now_ms = NOW
        self.job = a_job(max_attempts=max_attempts)
        self.counted = 0
        self.before = self.job

    @rule(ms=st.integers(0, DAY_MS // 3))
    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    @precondition(lambda self: self.job.state is JobState.IN_QUEUE)
    @rule()
    def claim(self) -> None:
        over = expired(self.job, now_ms=self.now_ms, kept=KEPT)
        self._become(over or run(self.job, self.now_ms))

    @precondition(lambda self: self.job.state is JobState.IN_PROGRESS)
    @rule(
        ending=st.sampled_from(Ending),
        may_retry=st.booleans(),
        after_ms=st.one_of(st.none(), st.integers(0, 10**7)),
        fraction=st.floats(0, 0.999),
    )
    def settle(self, ending: Ending, may_retry: bool, after_ms: int | None, fraction: float) -> None:
        said = Delivered(ending=ending, may_retry=may_retry, after_ms=after_ms)
        self.counted += ending.counted
        self._become(settled(self.job, said, now_ms=self.now_ms, fraction=fraction, kept=KEPT))
        if ending is Ending.COMPLETED:
            assert self.job.state is JobState.COMPLETED

    @rule()
    def cancel(self) -> None:
        self._become(cancelled(self.job, now_ms=self.now_ms, kept=KEPT))

    @precondition(lambda self: self.job.state in (JobState.FAILED, JobState.TIMED_OUT))
    @rule()
    def redrive(self) -> None:
        again = redriven(self.job, now_ms=self.now_ms)
        assert again is not None
        self.counted = 0
        self.before = self.job = again

    def _become(self, after: Job) -> None:
        self.before, self.job = self.job, after

    @invariant()
    def keeps_to_its_rules(self) -> None:
        before, job = self.before, self.job
        assert job.deliveries >= before.deliveries
        assert 0 <= job.attempt <= job.max_attempts
        if job.state is not JobState.IN_PROGRESS:
            assert job.attempt == self.counted
            assert not job.instance
        assert job.deliveries - job.deliveries_before <= job.max_attempts + EXTRA_DELIVERIES
        assert job.state.terminal == bool(job.finished_at_ms) == bool(job.purge_at_ms)
        if before.state.terminal:
            assert job == before
        if job.dead:
            assert job.state in (JobState.FAILED, JobState.TIMED_OUT)


JobLife.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestJobLife = JobLife.TestCase

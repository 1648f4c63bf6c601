"""What a job is, and which state follows what happened to it. Pure functions over one frozen row.

All times are milliseconds of the job timeline (`core.timeline`), which no change of the wall clock moves.
`deliveries` only ever grows and fences: whatever a worker says of an earlier delivery is dropped.
`attempt` counts what the job itself is to blame for, and is given back when it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from gpud.core.backoff import retry_delay_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName, JobId

EXTRA_DELIVERIES = 10
"""Deliveries beyond `max_attempts`, within one budget; bounds what is not counted as an attempt."""
AGING_STEP_MS = 300_000
AGING_STEPS_MAX = 5


class JobState(StrEnum):
    """Where a job is; the words of RunPod's API."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def terminal(self) -> bool:
        """Whether the job is over; only a retry by hand leads out of it."""
        return self not in (JobState.IN_QUEUE, JobState.IN_PROGRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as its row says.

    Args:
        seq: Order of arrival over all endpoints.
        owner: Id of the API key that made it, or `local`.
        reason: One word for why it is where it is, such as `expired`; empty when nothing is to say.
        priority: As asked for, -10 to 10.
        effective_priority: After aging.
        low_priority: Does not count for scaling.
        group_key: Jobs of one key run one at a time, in order; empty for none.
        solo: Must run alone on its worker, since it may have killed one.
        attempt: Attempts used of the present budget.
        deliveries: Times it was handed to a worker, ever; the fencing token.
        deliveries_before: What `deliveries` was when the present budget was given.
        available_at_ms: Not handed out before.
        expires_at_ms: No attempt starts after this.
        deadline_ms: The whole job must be over by then; 0 for none.
        started_at_ms: Of the present or last delivery; 0 before the first.
        finished_at_ms: Of its terminal state; 0 before.
        purge_at_ms: When its row goes; 0 while it is not over.
        worker_id: Of the present or last delivery.
        instance: Run of the daemon that holds the lease; empty when nobody does.
        cancel_requested: A running attempt was asked to stop.
        dead: Kept for a person to look at, since its budget is used up.
        redrives: Times it was put back by hand.
        sync: Its caller waits for the result (`runsync`).
        error: Of the last attempt that failed.
        gpu_ns: GPU time of all deliveries so far: its part of its workers' time.
        cost_micros: What that cost.
        energy_mj: What was drawn meanwhile, as far as that is known.
        path: Where at its worker it is posted; empty for the endpoint's own path for jobs.
    """

    seq: int
    id: JobId
    endpoint: EndpointName
    owner: str
    state: JobState
    created_at_ms: int
    available_at_ms: int
    expires_at_ms: int
    execution_timeout_ms: int
    ttl_ms: int
    reason: str = ""
    priority: int = 0
    effective_priority: int = 0
    low_priority: bool = False
    group_key: str = ""
    solo: bool = False
    attempt: int = 0
    deliveries: int = 0
    deliveries_before: int = 0
    max_attempts: int = 3
    deadline_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    purge_at_ms: int = 0
    worker_id: str = ""
    instance: str = ""
    cancel_requested: bool = False
    dead: bool = False
    redrives: int = 0
    sync: bool = False
    webhook: str = ""
    error: str = ""
    input_bytes: int = 0
    gpu_ns: int = 0
    cost_micros: int = 0
    energy_mj: int = 0
    path: str = ""

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return max(0, self.attempt - 1)

    @property
    def stop_by_ms(self) -> int:
        """When the present attempt must be over."""
        limit_ms = self.started_at_ms + self.execution_timeout_ms
        return min(limit_ms, self.deadline_ms) if self.deadline_ms else limit_ms


_NAMES = tuple(field.name for field in fields(Job))


class _Draft:
    """A job that is being written: it has the same slots, and becomes a `Job` when all are set."""

    __slots__ = _NAMES


def _make_drafting() -> Callable[[Job], _Draft]:
    """Spell out a function that copies every field, as `dataclasses` spells out `__init__`.

    A loop over the fields takes six times as long, and every job is copied twice at least.
    """
    lines = [f"    draft.{name} = job.{name}" for name in _NAMES]
    text = "\n".join(["def drafted(job):", "    draft = Draft()", *lines, "    return draft"])
    made: dict[str, Any] = {"Draft": _Draft}
    exec(text, made)  # noqa: S102 - of the names of a class that stands above
    drafted: Callable[[Job], _Draft] = made["drafted"]
    return drafted


_drafted = _make_drafting()


def changed(job: Job, **changes: object) -> Job:
    """Do what `dataclasses.replace` does in a tenth of the time: each job passes here three times or more."""
    draft: Any = _drafted(job)
    for name, value in changes.items():
        setattr(draft, name, value)
    draft.__class__ = Job
    new: Job = draft
    return new


class Ending(StrEnum):
    """How one delivery ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The handler said so, or answered nonsense."""
    TIMED_OUT = "timed_out"
    """It ran longer than `execution_timeout`."""
    WORKER_DIED = "worker_died"
    """The worker ended while it ran this job alone."""
    WORKER_DIED_SHARED = "worker_died_shared"
    """The worker ended while it ran several; which one is to blame is not known."""
    INTERRUPTED = "interrupted"
    """gpud took it away: drain, preemption, a restart of the daemon, no connection."""
    BUSY = "busy"
    """The worker had no room: 429, or 503 with Retry-After."""

    @property
    def counted(self) -> bool:
        """Whether it uses up an attempt."""
        return self in (Ending.COMPLETED, Ending.FAILED, Ending.TIMED_OUT, Ending.WORKER_DIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What became of a delivery.

    Args:
        error: What went wrong, for people.
        may_retry: False when the same again cannot help.
        after_ms: The worker's own wish for the wait before the next attempt; None leaves it to gpud.
        reason: One word for the attempt's record; empty takes the ending's.
        exit_code: Of the worker, when it died.
    """

    ending: Ending
    error: str = ""
    may_retry: bool = True
    after_ms: int | None = None
    reason: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long jobs are kept once they are over.

    Args:
        result_ms: Finished ones.
        sync_ms: Finished ones whose caller waited.
        dead_ms: Dead letters.
        cancelled_ms: Cancelled ones.
        used_ms: What is known of their use, of all of them.
    """

    result_ms: int = 24 * 3_600_000
    sync_ms: int = 24 * 3_600_000
    dead_ms: int = 14 * 24 * 3_600_000
    cancelled_ms: int = 24 * 3_600_000
    used_ms: int = 400 * 24 * 3_600_000


def claimed(job: Job, *, now_ms: int, worker_id: str, instance: str) -> Job:
    """The job once it is handed to a worker."""
    return changed(
        job,
        state=JobState.IN_PROGRESS,
        reason="",
        attempt=job.attempt + 1,
        deliveries=job.deliveries + 1,
        started_at_ms=now_ms,
        worker_id=worker_id,
        instance=instance,
    )


def completed(job: Job, *, now_ms: int, purge_at_ms: int) -> Job:
    """The job after a delivery that ended well."""
    return changed(
        job,
        state=JobState.COMPLETED,
        reason="",
        error="",
        instance="",
        finished_at_ms=now_ms,
        purge_at_ms=purge_at_ms,
    )


def settled(job: Job, said: Delivered, *, now_ms: int, fraction: float, kept: Retention) -> Job:
    """The job after a delivery ended.

    Args:
        job: IN_PROGRESS.
        said: What became of it.
        now_ms: On the job timeline.
        fraction: In [0, 1), for jitter.
        kept: For its row's end.
    """
    attempt = job.attempt if said.ending.counted else job.attempt - 1
    held = changed(job, attempt=attempt, instance="", error=said.error or job.error)
    if said.ending is Ending.COMPLETED:
        return _over(changed(held, error=""), JobState.COMPLETED, "", now_ms, kept)
    if job.cancel_requested:
        return _over(held, JobState.CANCELLED, "cancelled", now_ms, kept)
    if not said.may_retry:
        return _over(held, JobState.FAILED, said.reason or "refused", now_ms, kept)
    if said.ending.counted and attempt >= job.max_attempts:
        return _over(held, JobState.FAILED, said.reason or said.ending.value, now_ms, kept, dead=True)
    if job.deliveries - job.deliveries_before >= job.max_attempts + EXTRA_DELIVERIES:
        return _over(held, JobState.FAILED, "too_many_deliveries", now_ms, kept, dead=True)
    if job.deadline_ms and now_ms >= job.deadline_ms:
        return _over(held, JobState.TIMED_OUT, "deadline", now_ms, kept, dead=True)
    wait_ms = retry_delay_ms(said.ending.counted, attempt, fraction=fraction, asked_ms=said.after_ms)
    return changed(
        held,
        state=JobState.IN_QUEUE,
        reason=said.reason or said.ending.value,
        available_at_ms=now_ms + wait_ms,
        solo=job.solo or said.ending is Ending.WORKER_DIED_SHARED,
    )


def cancelled(job: Job, *, now_ms: int, kept: Retention) -> Job:
    """The job after a request to cancel; itself when it is over."""
    if job.state is JobState.IN_QUEUE:
        return _over(job, JobState.CANCELLED, "cancelled", now_ms, kept)
    if job.state is JobState.IN_PROGRESS:
        return changed(job, cancel_requested=True)
    return job


def expired(job: Job, *, now_ms: int, kept: Retention) -> Job | None:
    """The job once its time to start is over; None while it is not, or it runs or ended."""
    if job.state is not JobState.IN_QUEUE:
        return None
    if job.deadline_ms and now_ms >= job.deadline_ms:
        return _over(job, JobState.TIMED_OUT, "deadline", now_ms, kept, dead=True)
    if now_ms >= job.expires_at_ms:
        return _over(job, JobState.TIMED_OUT, "expired", now_ms, kept, dead=True)
    return None


def orphaned(job: Job, *, now_ms: int, kept: Retention) -> Job | None:
    """The job once its endpoint is deleted; None when it does not wait. It can be put back by hand."""
    if job.state is not JobState.IN_QUEUE:
        return None
    error = f"The endpoint {job.endpoint} was deleted while the job waited."
    over = _over(job, JobState.FAILED, "endpoint_deleted", now_ms, kept, dead=True)
    return changed(over, error=error)


def redriven(job: Job, *, now_ms: int) -> Job | None:
    """The job put back by hand, with a new budget; None unless it FAILED or TIMED_OUT."""
    if job.state not in (JobState.FAILED, JobState.TIMED_OUT):
        return None
    return changed(
        job,
        state=JobState.IN_QUEUE,
        reason="",
        attempt=0,
        deliveries_before=job.deliveries,
        effective_priority=job.priority,
        available_at_ms=now_ms,
        expires_at_ms=now_ms + job.ttl_ms,
        deadline_ms=0,
        started_at_ms=0,
        finished_at_ms=0,
        purge_at_ms=0,
        cancel_requested=False,
        dead=False,
        error="",
        redrives=job.redrives + 1,
    )


def aged_priority(job: Job, *, now_ms: int) -> int:
    """Its priority with one step for each five minutes it could have run and did not."""
    waited_ms = max(0, now_ms - job.available_at_ms)
    return job.priority + min(AGING_STEPS_MAX, waited_ms // AGING_STEP_MS)


def _over(job: Job, state: JobState, reason: str, now_ms: int, kept: Retention, *, dead: bool = False) -> Job:
    if dead:
        keep_ms = kept.dead_ms
    elif state is JobState.CANCELLED:
        keep_ms = kept.cancelled_ms
    else:
        keep_ms = kept.sync_ms if job.sync else kept.result_ms
    return changed(
        job,
        state=state,
        reason=reason,
        dead=dead,
        instance="",
        finished_at_ms=now_ms,
        purge_at_ms=now_ms + keep_ms,
    )

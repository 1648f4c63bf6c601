"""Rows of jobs into core types and back."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gpud.core.ids import JobId
from gpud.core.job import Job, JobState
from gpud.core.ready_jobs import Ready
from gpud.ports.jobs import AttemptRecord

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from gpud.core.job import Delivered

    PayloadRow = Callable[[int, str], tuple[object, ...]]
    """What `job_payload_put` is told, for a job's seq and a kind."""

_NAMES = tuple(field.name for field in fields(Job))
_FLAGS = tuple(field.name for field in fields(Job) if field.type == "bool")


def job_of(row: sqlite3.Row) -> Job:
    """Read a job from its row."""
    values: dict[str, Any] = {name: row[name] for name in _NAMES}
    values["state"] = JobState(values["state"])
    for name in _FLAGS:
        values[name] = bool(values[name])
    return Job(**values)


def job_params(job: Job, *, scheduled: bool = False) -> dict[str, object]:
    """What a statement is told of a job."""
    params: dict[str, object] = {name: getattr(job, name) for name in _NAMES}
    params["state"] = job.state.value
    params["scheduled"] = scheduled
    return params


def new_job_params(job: Job, seq: int | None) -> tuple[object, ...]:
    """What `job_insert` is told, in the order of its columns; `seq` None has the row choose one."""
    return (
        seq,
        job.id,
        job.endpoint,
        job.owner,
        job.priority,
        job.effective_priority,
        job.low_priority,
        job.group_key,
        job.max_attempts,
        job.created_at_ms,
        job.available_at_ms,
        job.expires_at_ms,
        job.deadline_ms,
        job.ttl_ms,
        job.execution_timeout_ms,
        job.sync,
        job.webhook,
        job.input_bytes,
        job.path,
    )


def ready_of(row: sqlite3.Row) -> Ready:
    """Read a waiting job's place."""
    return Ready(
        -row["effective_priority"],
        row["available_at_ms"],
        row["seq"],
        JobId(row["id"]),
        row["group_key"],
        bool(row["solo"]),
    )


def attempt_params(job: Job, said: Delivered, *, ended_at_ms: int, log_tail: str) -> dict[str, object]:
    """The record of a delivery that ended, from the job as it was while it ran."""
    return {
        "seq": job.seq,
        "delivery": job.deliveries,
        "attempt": job.attempt,
        "worker_id": job.worker_id,
        "started_at_ms": job.started_at_ms,
        "ended_at_ms": ended_at_ms,
        "ending": said.ending.value,
        "reason": said.reason,
        "error": said.error,
        "exit_code": said.exit_code,
        "log_tail": log_tail,
    }


def attempt_of(row: sqlite3.Row) -> AttemptRecord:
    """Read the record of a delivery that ended."""
    return AttemptRecord(
        delivery=row["delivery"],
        attempt=row["attempt"],
        worker_id=row["worker_id"],
        started_at_ms=row["started_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        ending=row["ending"],
        reason=row["reason"],
        error=row["error"],
        exit_code=row["exit_code"],
        log_tail=row["log_tail"],
    )

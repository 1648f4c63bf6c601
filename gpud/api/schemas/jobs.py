"""Jobs as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gpud.api.schemas.base import Document, PageQuery, Query, Timestamp, timestamp, timestamp_or_none
from gpud.core.job import JobState
from gpud.core.metering import whole_ms
from gpud.core.preference import PATH_CHARS_MAX

if TYPE_CHECKING:
    from gpud.core.job import Job
    from gpud.jobs.queue import JobQueue
    from gpud.ports.jobs import AttemptRecord


class JobsQuery(PageQuery):
    """Which jobs to list."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only of this endpoint; empty for all."""
    state: JobState | None = None
    """Only in this state."""
    dead: bool = False
    """Only dead letters."""


class DeadQuery(Query):
    """Which dead letters are meant."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only of this endpoint; empty for all."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Most jobs at once."""


class StreamQuery(Query):
    """From where to stream."""

    after: Annotated[int, Field(ge=0)] = 0
    """Number of the last chunk that is known; 0 for all."""


class JobPathQuery(Query):
    """What of its worker a request asks for."""

    path: Annotated[str, Field(max_length=PATH_CHARS_MAX, pattern=r"^(/[!-~]*)?$")] = ""
    """Path and query, as `/predict?size=large`; empty for the endpoint's `jobs.path`."""


class JobAccepted(Document):
    """A job that was taken; `Location` tells where it can be asked for."""

    id: str
    state: JobState


class AttemptDocument(Document):
    """One time a job was handed to a worker."""

    delivery: int
    """Counts every handing out."""
    attempt: int
    """Counts those the job is to blame for."""
    worker: str
    started_at: Timestamp
    ended_at: Timestamp | None
    """Null while it runs."""
    ending: str
    """How it ended, such as `failed`, `timed_out`, `worker_died`, `interrupted`; `running` while it runs."""
    reason: str
    error: str
    exit_code: int | None
    """Of the worker, when it ended."""
    log_tail: str
    """Last output of the worker, when it ended by itself."""


class JobDocument(Document):
    """A job."""

    id: str
    endpoint: str
    owner: str
    """Id of the key that made it, or `local`."""
    state: JobState
    reason: str
    """Why it is where it is, such as `waiting_for_gpu`, `image_pulling`, `circuit_open` or `expired`."""
    estimate_ms: int | None
    """How long it will wait at the present pace; null when that is not known, or it does not wait."""
    error: str
    priority: int
    effective_priority: int
    low_priority: bool
    group_key: str
    attempt: int
    max_attempts: int
    deliveries: int
    redrives: int
    dead: bool
    cancel_requested: bool
    worker: str
    created_at: Timestamp
    available_at: Timestamp
    expires_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    kept_until: Timestamp | None
    queue_ms: int | None
    """From its making, or its last retry, to the start of its last delivery."""
    exec_ms: int | None
    """Length of its last delivery."""
    gpu_ms: int
    """GPU time of all its deliveries: of a worker that ran several at once its part, not billed on top."""
    cost_micros: int
    """What that cost at the prices in force, in millionths."""
    energy_mj: int
    """Millijoules that its part of its workers' time drew; 0 where no GPU tells."""
    execution_timeout_ms: int
    input_bytes: int
    path: str
    """Where at its worker it is posted; empty for the endpoint's `jobs.path`."""


class JobDetail(JobDocument):
    """A job with everything that is known of it."""

    attempts: tuple[AttemptDocument, ...]
    output: Any
    """Its result; null before it has one."""
    progress: Any
    """What its worker said last of it."""


class JobPage(Document):
    """Jobs, newest first."""

    items: tuple[JobDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class JobCount(Document):
    """How many jobs a request changed."""

    count: int


def job_fields(job: Job, queue: JobQueue, *, reason: str, estimate_ms: int | None) -> dict[str, Any]:
    """The fields of a job that both documents have."""
    shown = queue.shown_ms
    used = job if job.finished_at_ms else queue.metering.charged(job)
    ended_ms = job.finished_at_ms or queue.now_ms()
    return {
        "id": job.id,
        "endpoint": job.endpoint,
        "owner": job.owner,
        "state": job.state,
        "reason": reason,
        "estimate_ms": estimate_ms,
        "error": job.error,
        "priority": job.priority,
        "effective_priority": job.effective_priority,
        "low_priority": job.low_priority,
        "group_key": job.group_key,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "deliveries": job.deliveries,
        "redrives": job.redrives,
        "dead": job.dead,
        "cancel_requested": job.cancel_requested,
        "worker": job.worker_id,
        "created_at": timestamp(shown(job.created_at_ms)),
        "available_at": timestamp(shown(job.available_at_ms)),
        "expires_at": timestamp(shown(job.expires_at_ms)),
        "started_at": timestamp_or_none(shown(job.started_at_ms)),
        "finished_at": timestamp_or_none(shown(job.finished_at_ms)),
        "kept_until": timestamp_or_none(shown(job.purge_at_ms)),
        "queue_ms": max(0, job.started_at_ms - job.created_at_ms) if job.started_at_ms else None,
        "exec_ms": max(0, ended_ms - job.started_at_ms) if job.started_at_ms else None,
        "gpu_ms": whole_ms(used.gpu_ns),
        "cost_micros": used.cost_micros,
        "energy_mj": used.energy_mj,
        "execution_timeout_ms": job.execution_timeout_ms,
        "input_bytes": job.input_bytes,
        "path": job.path,
    }


def attempt_document(record: AttemptRecord, queue: JobQueue, *, log_tail: str) -> AttemptDocument:
    """Show one delivery."""
    return AttemptDocument(
        delivery=record.delivery,
        attempt=record.attempt,
        worker=record.worker_id,
        started_at=timestamp(queue.shown_ms(record.started_at_ms)),
        ended_at=timestamp_or_none(queue.shown_ms(record.ended_at_ms)),
        ending=record.ending,
        reason=record.reason,
        error=record.error,
        exit_code=record.exit_code,
        log_tail=record.log_tail or log_tail,
    )

"""What is a webhook told when a job ends?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, assert_never

from gpud.core.job import JobState
from gpud.core.webhook import WebhookFormat, WebhookMessage, WebhookType
from gpud.errors import InvariantBroken

if TYPE_CHECKING:
    from gpud.core.job import Job

RUNPOD_MARK = "runpod+"
"""Stands before a job's address that is to be called as RunPod does."""


def kind_of(job: Job) -> WebhookType:
    """The type of message that a job's end is.

    Raises:
        InvariantBroken: It has not ended.
    """
    match job.state:
        case JobState.COMPLETED:
            return WebhookType.JOB_COMPLETED
        case JobState.FAILED:
            return WebhookType.JOB_DEAD if job.dead else WebhookType.JOB_FAILED
        case JobState.CANCELLED:
            return WebhookType.JOB_CANCELLED
        case JobState.TIMED_OUT:
            return WebhookType.JOB_TIMED_OUT
        case JobState.IN_QUEUE | JobState.IN_PROGRESS:
            raise InvariantBroken(f"Job {job.id} is {job.state} and has no end to tell of.")
    assert_never(job.state)


def job_message(
    job: Job, *, at_ms: int, given: object, output: object, output_bytes_max: int
) -> WebhookMessage:
    """What is told of a job's end, once for each end: a job put back by hand ends again.

    Args:
        job: Over.
        at_ms: Unix wall time.
        given: Its input as JSON; None when it is too large to be told.
        output: Its result, likewise.
        output_bytes_max: A larger result is left out of the standard message.
    """
    runpod = job.webhook.startswith(RUNPOD_MARK)
    return WebhookMessage(
        kind=kind_of(job),
        subject=f"{job.id} {job.redrives}",
        endpoint=job.endpoint,
        at_ms=at_ms,
        sequence=job.redrives + 1,
        data=_data(job, output, output_bytes_max),
        job_url=job.webhook.removeprefix(RUNPOD_MARK),
        job_format=WebhookFormat.RUNPOD if runpod else WebhookFormat.STANDARD,
        runpod_body=_runpod_body(job, given, output) if runpod else b"",
    )


def _data(job: Job, output: object, output_bytes_max: int) -> dict[str, object]:
    data: dict[str, object] = {
        "id": job.id,
        "status": job.state,
        "attempts": job.attempt,
        "deliveries": job.deliveries,
        "dead": job.dead,
        "queue_ms": max(0, job.started_at_ms - job.created_at_ms) if job.started_at_ms else None,
        "exec_ms": max(0, job.finished_at_ms - job.started_at_ms) if job.started_at_ms else None,
    }
    said = {"reason": job.reason, "error": job.error, "worker_id": job.worker_id}
    data |= {name: value for name, value in said.items() if value}
    if output is not None:
        if len(json.dumps(output)) <= output_bytes_max:
            data["output"] = output
        else:
            data["output_href"] = f"/v1/jobs/{job.id}"
    return data


def _runpod_body(job: Job, given: object, output: object) -> bytes:
    """The job object of RunPod's API, with its input and its address."""
    body: dict[str, object] = {
        "id": job.id,
        "status": job.state,
        "delayTime": max(0, job.started_at_ms - job.created_at_ms) if job.started_at_ms else 0,
        "executionTime": max(0, job.finished_at_ms - job.started_at_ms) if job.started_at_ms else 0,
        "input": given,
        "webhook": job.webhook.removeprefix(RUNPOD_MARK),
    }
    if output is not None:
        body["output"] = output
    if job.error:
        body["error"] = job.error
    if job.worker_id:
        body["workerId"] = job.worker_id
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")

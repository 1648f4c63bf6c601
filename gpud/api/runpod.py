"""RunPod's job API: what an unmodified client of RunPod Serverless calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gpud.api.identity import CALLER
from gpud.api.job_access import (
    changes,
    idempotency_of,
    only_owner,
    read_body,
    visible_job,
    wait_of,
)
from gpud.api.job_drain import DRAIN
from gpud.api.job_output import over, shown
from gpud.api.operations import Operation, Scope
from gpud.api.services import SERVICES
from gpud.core.audit_log import Audited
from gpud.core.job import Job, JobState
from gpud.core.job_call import RUNPOD_MARK
from gpud.core.runpod import policy_of, wait_ms_of
from gpud.core.webhook import WebhookFormat
from gpud.core.worker import STEPPED_DOWN, WorkerState
from gpud.errors import Conflict, IdempotencyMismatch, InvalidRequest, NotFound, QueueFull, StorageFull
from gpud.jobs.submission import Submission
from gpud.ports.jobs import JobQuery, Payload

if TYPE_CHECKING:
    from gpud.api.operations import Handler
    from gpud.api.services import Services

RUN_BYTES_MAX = 10 << 20
RUNSYNC_BYTES_MAX = 20 << 20
_WAIT_MS = 90_000
_STREAM_HOLD_MS = 5_000
_REQUESTS_MAX = 100
_PROBLEMS = (InvalidRequest, QueueFull, StorageFull, IdempotencyMismatch)


async def run(request: web.Request) -> web.StreamResponse:
    """Take a job and answer at once."""
    job, replayed = await _submit(request, sync=False, bytes_max=RUN_BYTES_MAX)
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    return _json({"id": job.id, "status": job.state.value}, headers)


async def runsync(request: web.Request) -> web.StreamResponse:
    """Take a job and wait for its end, for as long as the caller will."""
    wait_s = wait_ms_of(request.query.get("wait"), default=_WAIT_MS) / 1000
    job, _ = await _submit(request, sync=True, bytes_max=RUNSYNC_BYTES_MAX)
    services = request.app[SERVICES]
    job = await over(services.jobs.queue, job, wait_s, services.stopping)
    if job.state.terminal:
        return _json(await _job_object(services, job))
    return _json({"id": job.id, "status": job.state.value})


async def status(request: web.Request) -> web.StreamResponse:
    """A job as it is now."""
    job = await visible_job(request, endpoint=request.match_info["endpoint"])
    return _json(await _job_object(request.app[SERVICES], job))


async def status_sync(request: web.Request) -> web.StreamResponse:
    """A job once it is over, or when the wait is."""
    wait_s = wait_ms_of(request.query.get("wait"), default=_WAIT_MS) / 1000
    services = request.app[SERVICES]
    job = await visible_job(request, endpoint=request.match_info["endpoint"])
    job = await over(services.jobs.queue, job, wait_s, services.stopping)
    return _json(await _job_object(services, job))


async def stream(request: web.Request) -> web.StreamResponse:
    """What a job gave since it was last asked; at its end everything that is left."""
    hold_s = wait_ms_of(request.query.get("wait"), default=_STREAM_HOLD_MS) / 1000
    job = await visible_job(request, endpoint=request.match_info["endpoint"])
    job, found = await request.app[DRAIN].take(job, hold_s=hold_s, stopping=request.app[SERVICES].stopping)
    outputs = [{"output": json.loads(chunk)} for chunk in found]
    return _json({"status": job.state.value, "stream": outputs})


async def cancel(request: web.Request) -> web.StreamResponse:
    """Cancel a job; one that is over answers with the state it has."""
    job = await visible_job(request, endpoint=request.match_info["endpoint"])
    after = await request.app[SERVICES].jobs.by_hand.cancel(job.id, allowed=changes(request[CALLER]))
    state = JobState.CANCELLED if after.cancel_requested and not after.state.terminal else after.state
    return _json({"id": after.id, "status": state.value})


async def retry(request: web.Request) -> web.StreamResponse:
    """Put a job that FAILED or TIMED_OUT back."""
    job = await visible_job(request, endpoint=request.match_info["endpoint"])
    after = await request.app[SERVICES].jobs.by_hand.retry(job.id, allowed=changes(request[CALLER]))
    return _json({"id": after.id, "status": after.state.value})


async def purge_queue(request: web.Request) -> web.StreamResponse:
    """Cancel every job of the endpoint that waits."""
    services = request.app[SERVICES]
    endpoint = services.control.endpoint(request.match_info["endpoint"]).endpoint.name
    removed = await services.jobs.by_hand.cancel_waiting(endpoint, allowed=changes(request[CALLER]))
    return _json({"removed": removed, "status": "completed"})


async def health(request: web.Request) -> web.StreamResponse:
    """Jobs and workers of the endpoint, counted."""
    services = request.app[SERVICES]
    view = services.control.endpoint(request.match_info["endpoint"])
    lane = services.jobs.queue.lane(view.endpoint.name)
    states = [worker.state for worker in view.workers]
    ready = states.count(WorkerState.READY)
    running = min(ready, view.in_flight)
    starting = sum(s in _STARTING for s in states)
    return _json(
        {
            "jobs": {
                "completed": lane.totals.get("completed", 0),
                "failed": lane.totals.get("failed", 0),
                "inProgress": lane.running,
                "inQueue": lane.waiting,
                "retried": lane.totals.get("retried", 0),
            },
            "workers": {
                "idle": ready - running + sum(s in STEPPED_DOWN for s in states),
                "initializing": starting,
                "ready": ready - running,
                "running": running,
                "throttled": states.count(WorkerState.PENDING),
                "unhealthy": states.count(WorkerState.NOT_READY) + states.count(WorkerState.FAILED),
            },
        }
    )


async def list_requests(request: web.Request) -> web.StreamResponse:
    """The newest jobs of the endpoint that the caller may see."""
    services, caller = request.app[SERVICES], request[CALLER]
    endpoint = services.control.endpoint(request.match_info["endpoint"]).endpoint.name
    query = JobQuery(endpoint=endpoint, owner=only_owner(caller), limit=_REQUESTS_MAX)
    jobs = await services.jobs.queue.store.page(query)
    return _json({"requests": [{"id": job.id, "status": job.state.value} for job in jobs]})


_STARTING = frozenset({WorkerState.PULLING, WorkerState.RESERVED, WorkerState.CREATING, WorkerState.STARTING})


async def _submit(request: web.Request, *, sync: bool, bytes_max: int) -> tuple[Job, bool]:
    services, caller = request.app[SERVICES], request[CALLER]
    endpoint = services.control.endpoint(request.match_info["endpoint"]).endpoint
    body = await read_body(request, bytes_max=bytes_max)
    document = _document(body)
    policy = policy_of(document.get("policy"), endpoint.spec.jobs)
    return await services.jobs.queue.submit(
        Submission(
            endpoint=endpoint.name,
            owner=caller.name,
            payload=Payload(content=body),
            policy=policy,
            sync=sync,
            webhook=_webhook_of(document, services),
            idempotency=idempotency_of(request, body, endpoint.name),
        )
    )


def _webhook_of(document: dict[str, Any], services: Services) -> str:
    """The address to call once the job is over; as RunPod calls it unless the request says otherwise."""
    url, spelling = document.get("webhook") or "", document.get("webhook_format", WebhookFormat.RUNPOD)
    if spelling not in set(WebhookFormat):
        why = "must be runpod or standard"
        raise InvalidRequest(f"webhook_format: {why}.", fields={"webhook_format": why})
    fault = services.webhooks.url_fault(url) if isinstance(url, str) else "must be a URL"
    if url and fault:
        raise InvalidRequest(f"webhook: {fault}.", fields={"webhook": fault})
    return f"{RUNPOD_MARK}{url}" if url and spelling == WebhookFormat.RUNPOD else url


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object with the member input.")
    if document.get("input") is None:
        raise InvalidRequest("input is required", fields={"input": "is required"})
    return document


async def _job_object(services: Services, job: Job) -> dict[str, Any]:
    """A job in the shape RunPod's clients know; what does not apply is left out."""
    queue = services.jobs.queue
    shape: dict[str, Any] = {"id": job.id, "status": job.state.value}
    if job.state is JobState.IN_QUEUE:
        shape["reason"], estimate_ms = wait_of(services, job)
        if estimate_ms is not None:
            shape["estimateMs"] = estimate_ms
    if job.started_at_ms and job.state is not JobState.IN_QUEUE:
        shape["delayTime"] = max(0, job.started_at_ms - job.created_at_ms)
        shape["workerId"] = job.worker_id
        if job.finished_at_ms:
            shape["executionTime"] = max(0, job.finished_at_ms - job.started_at_ms)
    if job.retries:
        shape["retries"] = job.retries
    kind = "progress" if job.state is JobState.IN_PROGRESS else "result"
    payload = await queue.store.payload(job.seq, kind) if job.started_at_ms else None
    if payload is not None:
        shape["output"] = shown(payload)
    if job.error and job.state in (JobState.FAILED, JobState.TIMED_OUT):
        shape["error"] = job.error
    elif job.state is JobState.TIMED_OUT:
        shape["error"] = f"The job was not started in time ({job.reason})."
    return shape


def _json(document: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return web.Response(
        body=text.encode(errors="backslashreplace"), content_type="application/json", headers=headers
    )


def _operation(
    name: str,
    methods: str,
    path: str,
    handler: Handler,
    summary: str,
    *,
    makes: bool = False,
) -> list[Operation]:
    return [
        Operation(
            name=name if method == "POST" or "/" not in methods else f"{name}_by_get",
            method=method,
            path=f"/v2/{{endpoint}}/{path}",
            handler=handler,
            scope=Scope.INVOKE,
            summary=summary,
            tag="runpod",
            problems=(*_PROBLEMS, NotFound) if makes else (InvalidRequest, NotFound, Conflict),
            repeats_itself=True,
            audited=Audited.JOBS if makes else Audited.NEVER if "/" in methods else Audited.ALWAYS,
        )
        for method in methods.split("/")
    ]


OPERATIONS_HERE = (
    *_operation("runpod_run", "POST", "run", run, "Take a job", makes=True),
    *_operation("runpod_runsync", "POST", "runsync", runsync, "Take a job and wait for it", makes=True),
    *_operation("runpod_status", "GET/POST", "status/{job}", status, "Show a job"),
    *_operation("runpod_status_sync", "GET/POST", "status-sync/{job}", status_sync, "Wait for a job"),
    *_operation("runpod_stream", "GET/POST", "stream/{job}", stream, "Read what a job gave so far"),
    *_operation("runpod_cancel", "POST", "cancel/{job}", cancel, "Cancel a job"),
    *_operation("runpod_retry", "POST", "retry/{job}", retry, "Try a job again"),
    *_operation("runpod_purge_queue", "POST", "purge-queue", purge_queue, "Cancel every job that waits"),
    *_operation("runpod_health", "GET", "health", health, "Count jobs and workers"),
    *_operation("runpod_requests", "GET", "requests", list_requests, "List the newest jobs"),
)

"""gpud's own routes for jobs: everything that is known of one, dead letters, streams."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.identity import CALLER
from gpud.api.job_access import changes, only_owner, visible_job, wait_of
from gpud.api.job_output import chunks_behind, shown
from gpud.api.job_progress import put_progress_of
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer, cursor_for, position_of
from gpud.api.schemas.jobs import (
    AttemptDocument,
    DeadQuery,
    JobCount,
    JobDetail,
    JobDocument,
    JobPage,
    JobsQuery,
    StreamQuery,
    attempt_document,
    job_fields,
)
from gpud.api.services import SERVICES, Services
from gpud.core.audit_log import Audited
from gpud.core.ids import EndpointName
from gpud.core.job import Job, JobState
from gpud.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from gpud.ports.jobs import AttemptRecord, ChunkPlace, JobQuery

if TYPE_CHECKING:
    from gpud.api.operations import Handler

_HOLD_S = 15.0


async def list_jobs(request: web.Request) -> web.StreamResponse:
    """Jobs the caller may see, newest first."""
    query, services = query_of(request, JobsQuery), request.app[SERVICES]
    position = position_of(query.cursor)
    if position and not position.isdigit():
        raise InvalidRequest("cursor: must be `next` of an earlier answer.")
    jobs = await services.jobs.queue.store.page(
        JobQuery(
            endpoint=EndpointName(query.endpoint) if query.endpoint else None,
            owner=only_owner(request[CALLER]),
            state=query.state.value if query.state else None,
            dead=query.dead,
            before_seq=int(position) if position else 1 << 62,
            limit=query.limit + 1,
        )
    )
    page = jobs[: query.limit]
    following = cursor_for(str(page[-1].seq)) if len(jobs) > len(page) else None
    return answer(JobPage(items=tuple(_document(services, job) for job in page), next=following))


async def show_job(request: web.Request) -> web.StreamResponse:
    """One job with every attempt."""
    job = await visible_job(request)
    return answer(await _detail(request.app[SERVICES], job))


async def cancel_job(request: web.Request) -> web.StreamResponse:
    """Cancel a job; answers with the state it has then."""
    services = request.app[SERVICES]
    job = await visible_job(request)
    after = await services.jobs.by_hand.cancel(job.id, allowed=changes(request[CALLER]))
    return answer(_document(services, after))


async def retry_job(request: web.Request) -> web.StreamResponse:
    """Put a job that FAILED or TIMED_OUT back, with a new budget."""
    services = request.app[SERVICES]
    job = await visible_job(request)
    after = await services.jobs.by_hand.retry(job.id, allowed=changes(request[CALLER]))
    return answer(_document(services, after))


async def delete_job(request: web.Request) -> web.StreamResponse:
    """Delete a job that is over."""
    job = await visible_job(request)
    store = request.app[SERVICES].jobs.queue.store
    if not await store.delete(job.id, allowed=changes(request[CALLER])):
        raise Conflict(
            f"The job {job.id} is {job.state}. Only one that is over can be deleted; cancel it first."
        )
    return web.Response(status=204)


async def redrive_jobs(request: web.Request) -> web.StreamResponse:
    """Put dead letters back."""
    count = await request.app[SERVICES].jobs.by_hand.redrive(_dead(request), allowed=changes(request[CALLER]))
    return answer(JobCount(count=count))


async def purge_jobs(request: web.Request) -> web.StreamResponse:
    """Delete dead letters."""
    count = await request.app[SERVICES].jobs.by_hand.purge(_dead(request), allowed=changes(request[CALLER]))
    return answer(JobCount(count=count))


async def stream_job(request: web.Request) -> web.StreamResponse:
    """What a job gives, as it comes, as server-sent events; ends with the job."""
    after = query_of(request, StreamQuery).after
    services = request.app[SERVICES]
    job = await visible_job(request)
    place = ChunkPlace(delivery=job.deliveries, n=after)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        job, found = await chunks_behind(
            services.jobs.queue, job, place, hold_s=_HOLD_S, stopping=services.stopping
        )
        for number, chunk in found:
            await response.write(b"id: %d\nevent: chunk\ndata: %s\n\n" % (number, chunk))
            place = ChunkPlace(delivery=job.deliveries, n=number)
        if job.state.terminal or services.stopping.is_set():
            break
        if not found:
            await response.write(b": still waiting\n\n")
    await response.write(b"event: end\ndata: %s\n\n" % json.dumps({"state": job.state.value}).encode())
    return response


async def put_progress(request: web.Request) -> web.StreamResponse:
    """Take what a worker says of the delivery it was given; the token stands for that delivery alone."""
    return await put_progress_of(request.app[SERVICES].jobs, request)


def _dead(request: web.Request) -> JobQuery:
    query = query_of(request, DeadQuery)
    return JobQuery(
        endpoint=EndpointName(query.endpoint) if query.endpoint else None,
        owner=only_owner(request[CALLER]),
        dead=True,
        limit=query.limit,
    )


def _document(services: Services, job: Job) -> JobDocument:
    reason, estimate_ms = wait_of(services, job)
    return JobDocument(**job_fields(job, services.jobs.queue, reason=reason, estimate_ms=estimate_ms))


async def _detail(services: Services, job: Job) -> JobDetail:
    store, queue = services.jobs.queue.store, services.jobs.queue
    reason, estimate_ms = wait_of(services, job)
    fields = job_fields(job, queue, reason=reason, estimate_ms=estimate_ms)
    records = [*await store.attempts(job.seq)]
    if job.started_at_ms and (not records or records[-1].delivery < job.deliveries):
        records.append(_last(job))
    attempts = [await _attempt(services, record) for record in records]
    return JobDetail(
        **fields,
        attempts=tuple(attempts),
        output=shown(await store.payload(job.seq, "result")),
        progress=shown(await store.payload(job.seq, "progress")),
    )


def _last(job: Job) -> AttemptRecord:
    """The delivery that runs, or that completed: the job's own row tells it."""
    return AttemptRecord(
        delivery=job.deliveries,
        attempt=job.attempt,
        worker_id=job.worker_id,
        started_at_ms=job.started_at_ms,
        ended_at_ms=job.finished_at_ms,
        ending="running" if job.state is JobState.IN_PROGRESS else job.state.value.lower(),
    )


async def _attempt(services: Services, record: AttemptRecord) -> AttemptDocument:
    """An attempt, with its worker's exit code and last output where it ended by itself."""
    exit_code, log_tail = record.exit_code, record.log_tail
    if record.ending.startswith("worker_died"):
        worker = await services.reads.worker(record.worker_id)
        exit_code = worker.exit_code if worker is not None and exit_code is None else exit_code
        for event in await services.reads.latest_events(worker_id=record.worker_id, limit=50):
            if event.kind == "worker.log_kept":
                log_tail = str(event.facts.get("log_tail", ""))[-4000:]
    shown_record = AttemptRecord(
        delivery=record.delivery,
        attempt=record.attempt,
        worker_id=record.worker_id,
        started_at_ms=record.started_at_ms,
        ended_at_ms=record.ended_at_ms,
        ending=record.ending,
        reason=record.reason,
        error=record.error,
        exit_code=exit_code,
    )
    return attempt_document(shown_record, services.jobs.queue, log_tail=log_tail)


def _one(name: str, verb: str, handler: Handler, summary: str) -> Operation:
    return Operation(
        name=name,
        method="POST",
        path=f"/v1/jobs/{{job}}/{verb}",
        handler=handler,
        scope=Scope.ANY,
        summary=summary,
        tag="jobs",
        answer=JobDocument,
        problems=(NotFound, Conflict),
    )


OPERATIONS_HERE = (
    Operation(
        name="list_jobs",
        method="GET",
        path="/v1/jobs",
        handler=list_jobs,
        scope=Scope.ANY,
        summary="List jobs, newest first: the key's own, or all with the scope read",
        tag="jobs",
        query=JobsQuery,
        answer=JobPage,
    ),
    Operation(
        name="redrive_jobs",
        method="POST",
        path="/v1/dead-letters/redrive",
        handler=redrive_jobs,
        scope=Scope.ANY,
        summary="Put dead letters back",
        tag="jobs",
        query=DeadQuery,
        answer=JobCount,
    ),
    Operation(
        name="purge_jobs",
        method="POST",
        path="/v1/dead-letters/purge",
        handler=purge_jobs,
        scope=Scope.ANY,
        summary="Delete dead letters",
        tag="jobs",
        query=DeadQuery,
        answer=JobCount,
    ),
    Operation(
        name="show_job",
        method="GET",
        path="/v1/jobs/{job}",
        handler=show_job,
        scope=Scope.ANY,
        summary="Show a job with every attempt and its output",
        tag="jobs",
        answer=JobDetail,
        problems=(NotFound,),
    ),
    Operation(
        name="delete_job",
        method="DELETE",
        path="/v1/jobs/{job}",
        handler=delete_job,
        scope=Scope.ANY,
        summary="Delete a job that is over",
        tag="jobs",
        statuses=((204, "Deleted"),),
        problems=(NotFound, Conflict),
    ),
    _one("cancel_job", "cancel", cancel_job, "Cancel a job"),
    _one("retry_job", "retry", retry_job, "Try a job that FAILED or TIMED_OUT again"),
    Operation(
        name="stream_job",
        method="GET",
        path="/v1/jobs/{job}/stream",
        handler=stream_job,
        scope=Scope.ANY,
        summary="Stream what a job gives, as server-sent events",
        tag="jobs",
        query=StreamQuery,
        media_type="text/event-stream",
        problems=(NotFound,),
    ),
    Operation(
        name="put_progress",
        method="POST",
        path="/v1/jobs/{job}/progress",
        handler=put_progress,
        scope=Scope.OPEN,
        audited=Audited.NEVER,
        summary="Tell a job's progress, with the token of its delivery in X-Gpud-Job-Token",
        tag="jobs",
        statuses=((204, "Taken"),),
        repeats_itself=True,
        problems=(Unauthenticated, Conflict),
    ),
)

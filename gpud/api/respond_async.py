"""Makes a job of a request as it is: what the gateway hands on for callers who prefer `respond-async`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.identity import CALLER
from gpud.api.job_access import idempotency_of, read_body
from gpud.api.job_output import over
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer
from gpud.api.schemas.jobs import JobAccepted, JobPathQuery
from gpud.api.services import SERVICES
from gpud.core.audit_log import Audited
from gpud.core.denied import denied, denied_paths
from gpud.core.endpoint import EndpointType
from gpud.core.job import JobState
from gpud.core.preference import JOB_BYTES_MAX, preference_of
from gpud.core.request_path import REQUEST_PATH, is_request_path
from gpud.core.runpod import policy_of
from gpud.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    PathDenied,
    QueueFull,
    StorageFull,
)
from gpud.jobs.submission import Submission
from gpud.ports.jobs import Payload

if TYPE_CHECKING:
    from gpud.core.endpoint import EndpointSpec
    from gpud.core.job import Job


async def make_job(request: web.Request) -> web.StreamResponse:
    """Take a request as a job; its answer, if it comes within the time its caller would wait."""
    services, caller = request.app[SERVICES], request[CALLER]
    endpoint = services.control.endpoint(request.match_info["endpoint"]).endpoint
    path = query_of(request, JobPathQuery).path
    _refuse_path(path, endpoint.name, endpoint.spec)
    body = await read_body(request, bytes_max=JOB_BYTES_MAX)
    kind = request.headers.get("Content-Type", "application/octet-stream")
    job, replayed = await services.jobs.queue.submit(
        Submission(
            endpoint=endpoint.name,
            owner=caller.name,
            payload=Payload(content=body, content_type=kind),
            policy=policy_of(None, endpoint.spec.jobs),
            idempotency=idempotency_of(request, b"%s\n%s" % (path.encode(), body), endpoint.name),
            path=path,
        )
    )
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    wait_s = preference_of(",".join(request.headers.getall("Prefer", ()))).wait_s
    if wait_s:
        job = await over(services.jobs.queue, job, wait_s, services.stopping)
        if job.state is JobState.COMPLETED:
            result = await services.jobs.queue.store.payload(job.seq, "result")
            return _answered(job, result, wait_s, headers)
    headers |= {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": "respond-async"}
    return answer(JobAccepted(id=job.id, state=job.state), status=202, headers=headers)


def _answered(job: Job, result: Payload | None, wait_s: float, headers: dict[str, str]) -> web.Response:
    headers = headers | {"X-Gpud-Job-Id": job.id, "Preference-Applied": f"wait={wait_s:.0f}"}
    if result is None:
        return web.Response(status=204, headers=headers)
    return web.Response(body=result.content, headers={**headers, "Content-Type": result.content_type})


def _refuse_path(path: str, name: str, spec: EndpointSpec) -> None:
    if spec.type is not EndpointType.HTTP:
        raise InvalidRequest(
            f"The workers of {name} fetch their jobs, so a request cannot be one. POST to /v2/{name}/run."
        )
    if path and not is_request_path(path):
        raise InvalidRequest(f"path: {REQUEST_PATH}.", fields={"path": REQUEST_PATH})
    if denied(denied_paths(spec), path or spec.jobs.path):
        raise PathDenied(f"Callers of {name} may not use this path of its workers.")


OPERATIONS_HERE = (
    Operation(
        name="make_job",
        method="POST",
        path="/v1/endpoints/{endpoint}/jobs",
        handler=make_job,
        scope=Scope.INVOKE,
        summary="Make a job of a body as it is; what the gateway does for Prefer: respond-async",
        tag="jobs",
        query=JobPathQuery,
        answer=JobAccepted,
        statuses=((202, "Taken"), (200, "The worker's answer, which came within Prefer: wait=<seconds>")),
        problems=(InvalidRequest, PathDenied, NotFound, QueueFull, StorageFull, IdempotencyMismatch),
        repeats_itself=True,
        audited=Audited.JOBS,
    ),
)

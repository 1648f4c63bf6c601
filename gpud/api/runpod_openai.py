"""OpenAI's API on queue endpoints: each call becomes a job, as images made for RunPod expect it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gpud.api.identity import CALLER
from gpud.api.job_access import read_body
from gpud.api.job_output import chunks_behind, over, shown
from gpud.api.operations import Operation, Scope
from gpud.api.services import SERVICES
from gpud.core.audit_log import Audited
from gpud.core.endpoint import EndpointType
from gpud.core.job import JobState
from gpud.core.job_stream import sse_of
from gpud.core.runpod import policy_of
from gpud.errors import Conflict, InvalidRequest, NotFound, QueueFull, StorageFull
from gpud.jobs.submission import Submission
from gpud.ports.jobs import ChunkPlace, Payload

if TYPE_CHECKING:
    from gpud.api.services import Services
    from gpud.core.job import Job

BODY_BYTES_MAX = 20 << 20
_LOOK_S = 1.0
"""How often it is looked whether the client is still there."""
_STATUS_IN_ERROR = re.compile(r"returned HTTP (4\d\d|5\d\d)\b")


async def call(request: web.Request) -> web.StreamResponse:
    """Make a job of a call, and of the job's output the answer; a client that leaves cancels it."""
    services = request.app[SERVICES]
    given = await _given(request)
    job = await _submit(request, services, given)
    try:
        if isinstance(given, dict) and given.get("stream") is True:
            return await _streamed(request, services, job)
        return await _whole(request, services, job)
    except (ConnectionResetError, _Gone):
        await services.jobs.by_hand.cancel(job.id, allowed=lambda _: True)
        raise ConnectionResetError from None


class _Gone(Exception):
    """The client left."""


async def _given(request: web.Request) -> object:
    if request.method == "GET":
        return None
    body = await read_body(request, bytes_max=BODY_BYTES_MAX)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error


async def _submit(request: web.Request, services: Services, given: object) -> Job:
    endpoint = services.control.endpoint(request.match_info["endpoint"]).endpoint
    if endpoint.spec.type is not EndpointType.QUEUE:
        raise Conflict(
            f"{endpoint.name} is an http endpoint: its workers are sent the call itself. Send it to "
            f"/e/{endpoint.name}/{request.match_info['route']}."
        )
    asked: dict[str, object] = {"openai_route": f"/{request.match_info['route']}"}
    if given is not None:
        asked["openai_input"] = given
    job, _ = await services.jobs.queue.submit(
        Submission(
            endpoint=endpoint.name,
            owner=request[CALLER].name,
            payload=Payload(content=json.dumps({"input": asked}, ensure_ascii=False).encode()),
            policy=policy_of(None, endpoint.spec.jobs),
            sync=True,
        )
    )
    return job


async def _whole(request: web.Request, services: Services, job: Job) -> web.StreamResponse:
    while not job.state.terminal:
        job = await over(services.jobs.queue, job, _LOOK_S, services.stopping)
        _look_after(request, services, job)
    if job.state is not JobState.COMPLETED:
        return _failed(job)
    output = shown(await services.jobs.queue.store.payload(job.seq, "result"))
    if output in (None, []):  # what a generator gave, without return_aggregate_stream
        found = await services.jobs.queue.store.chunks(job.seq, job.deliveries, after=0, limit=1)
        output = [json.loads(chunk) for _n, chunk in found]
    if isinstance(output, list) and len(output) == 1:
        output = output[0]
    return web.json_response(output)


async def _streamed(request: web.Request, services: Services, job: Job) -> web.StreamResponse:
    job, found = await _more(request, services, job, 0)
    if not found and job.state is not JobState.COMPLETED:
        return _failed(job)  # before anything was sent it can be told by a status
    response, delivery = await _opened(request), job.deliveries
    while found:
        if job.deliveries != delivery:
            # The worker was lost and another began anew: what was sent cannot be taken back.
            await response.write(sse_of(_document(job, "The worker was lost in the middle of its answer.")))
            raise _Gone
        for _number, chunk in found:
            await response.write(sse_of(json.loads(chunk)))
        job, found = await _more(request, services, job, found[-1][0])
    if job.state is not JobState.COMPLETED:
        await response.write(sse_of(_document(job)))
    return response


async def _more(
    request: web.Request, services: Services, job: Job, after: int
) -> tuple[Job, list[tuple[int, bytes]]]:
    """Wait for chunks behind the n-th; without any the job is over."""
    while True:
        delivery = job.deliveries
        place = ChunkPlace(delivery=delivery, n=after)
        job, found = await chunks_behind(
            services.jobs.queue, job, place, hold_s=_LOOK_S, stopping=services.stopping
        )
        if found or job.state.terminal:
            return job, found
        if after and job.deliveries != delivery:
            return job, [(0, b"null")]
        _look_after(request, services, job)


async def _opened(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


def _look_after(request: web.Request, services: Services, job: Job) -> None:
    """Go on only while somebody is there to answer."""
    if job.state.terminal:
        return
    if services.stopping.is_set() or request.transport is None or request.transport.is_closing():
        raise _Gone


def _failed(job: Job) -> web.Response:
    said = _STATUS_IN_ERROR.search(job.error)
    return web.json_response(_document(job), status=int(said.group(1)) if said else 500)


def _document(job: Job, message: str = "") -> dict[str, Any]:
    message = message or job.error or f"The job {job.id} ended as {job.state} ({job.reason})."
    code = job.reason or job.state.value.lower()
    return {"error": {"message": message, "type": "server_error", "param": None, "code": code}}


OPERATIONS_HERE = tuple(
    Operation(
        name=f"runpod_openai{suffix}",
        method=method,
        path="/v2/{endpoint}/openai/{route}",
        pattern="/v2/{endpoint}/openai/{route:.+}",
        streams=method == "POST",
        handler=call,
        scope=Scope.INVOKE,
        summary="Make a job of an OpenAI call, and answer with its output",
        tag="runpod",
        problems=(InvalidRequest, NotFound, Conflict, QueueFull, StorageFull),
        repeats_itself=True,
        audited=Audited.JOBS,
    )
    for method, suffix in (("POST", ""), ("GET", "_by_get"))
)

"""Whose jobs a caller may see and change, and what is read of a request that makes one."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING

from gpud.api.identity import CALLER
from gpud.api.parsing import BODY_TIMEOUT_S
from gpud.api.services import SERVICES
from gpud.core import keys
from gpud.core.ids import JobId
from gpud.core.job import JobState
from gpud.errors import InvalidRequest, NotFound
from gpud.ports.control import EndpointCondition
from gpud.ports.jobs import IdempotencyClaim

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from gpud.api.identity import Caller
    from gpud.api.services import Services
    from gpud.core.ids import EndpointName
    from gpud.core.job import Job

JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_LEGAL_KEY = re.compile(r"[!-~]{1,255}\Z")
_CONDITION_REASONS = {
    EndpointCondition.PAUSED: "paused",
    EndpointCondition.FAILING: "circuit_open",
    EndpointCondition.PULLING: "image_pulling",
    EndpointCondition.STARTING: "worker_starting",
    EndpointCondition.WAITING_FOR_GPU: "waiting_for_gpu",
    EndpointCondition.READY: "waiting_for_slot",
    EndpointCondition.SLEEPING: "worker_starting",
}


def sees(caller: Caller) -> Callable[[Job], bool]:
    """Whether a job may be shown to a caller: its owner, and whoever may read everything."""
    everything = keys.allows(caller.scopes, keys.READ)
    return lambda job: everything or job.owner == caller.name


def only_owner(caller: Caller) -> str | None:
    """Whose jobs a caller may list; None for everybody's."""
    return None if keys.allows(caller.scopes, keys.READ) else caller.name


def changes(caller: Caller) -> Callable[[Job], bool]:
    """Whether a caller may change a job: its owner, and whoever may change everything."""
    everything = keys.allows(caller.scopes, keys.WRITE)
    return lambda job: everything or job.owner == caller.name


async def visible_job(request: web.Request, *, endpoint: str | None = None) -> Job:
    """The job that a path names, if its caller may see it.

    Raises:
        NotFound: There is none, or it is somebody else's.
    """
    name = request.match_info["job"]
    job = None
    if JOB_ID.match(name):
        job = await request.app[SERVICES].jobs.queue.store.job(JobId(name))
    if job is None or not sees(request[CALLER])(job) or (endpoint is not None and job.endpoint != endpoint):
        raise NotFound(f"There is no job {name[:100]}, or it was deleted after its time.")
    return job


async def read_body(request: web.Request, *, bytes_max: int) -> bytes:
    """Read a body to its end, which must come in time.

    Raises:
        InvalidRequest: It does not.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.clone(client_max_size=bytes_max).read()
    except TimeoutError as error:
        raise InvalidRequest(
            f"The body did not arrive whole within {BODY_TIMEOUT_S:g} s. Send it faster, and as long as "
            "its Content-Length says."
        ) from error


def idempotency_of(request: web.Request, body: bytes, endpoint: EndpointName) -> IdempotencyClaim | None:
    """The caller's own name for a submission, if it sent one.

    Raises:
        InvalidRequest: It is not spelled as one may be.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _LEGAL_KEY.match(key):
        raise InvalidRequest(
            "Idempotency-Key must have 1 to 255 printable ASCII characters without spaces.",
            fields={"Idempotency-Key": "must have 1 to 255 printable ASCII characters without spaces"},
        )
    head = f"{request.method}\n{request.path}\n".encode()
    return IdempotencyClaim(
        scope=f"{request[CALLER].name}/{endpoint}",
        key=key,
        fingerprint=hashlib.sha256(head + body).digest(),
    )


def wait_of(services: Services, job: Job) -> tuple[str, int | None]:
    """Why a job waits, in one word, and how many milliseconds it may take; empty when it does not wait."""
    if job.state is not JobState.IN_QUEUE:
        return job.reason, None
    queue = services.jobs.queue
    if job.available_at_ms > queue.now_ms():
        return "retry_scheduled", job.available_at_ms - queue.now_ms()
    lane = queue.lane(job.endpoint)
    if job.group_key and lane.ready.holders.get(job.group_key, job.seq) != job.seq:
        return "waiting_for_group", None
    try:
        view = services.control.endpoint(job.endpoint)
    except NotFound:
        return "endpoint_deleted", None
    reason = _CONDITION_REASONS[view.condition]
    if view.waits and view.condition is not EndpointCondition.READY:
        reason = view.waits[0].reason
    pace_per_s = lane.pace_per_s(services.clock.now_s())
    estimate_ms = int(1000 * lane.ready.ahead_of(job.seq, lane.waiting) / pace_per_s) if pace_per_s else None
    return reason, estimate_ms

"""Takes what a worker says of a delivery that was pushed to it, on whichever listener it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.job_access import read_body
from gpud.core.ids import JobId
from gpud.errors import Conflict, Unauthenticated
from gpud.ports.jobs import Payload

if TYPE_CHECKING:
    from gpud.jobs.jobs import Jobs

PROGRESS_BYTES_MAX = 1 << 20


async def put_progress_of(jobs: Jobs, request: web.Request) -> web.StreamResponse:
    """Keep a progress; the token stands for one delivery alone.

    Raises:
        Unauthenticated: The job does not run here, or there is no token.
        Conflict: The token is of a delivery that was taken away.
    """
    token = request.headers.get("X-Gpud-Job-Token", "")
    running = jobs.queue.running.get(JobId(request.match_info["job"]))
    if not token or running is None:
        raise Unauthenticated(
            "The job does not run here, or the token is missing. It was given away or ended."
        )
    if not jobs.tokens.fits(token, running):
        raise Conflict("The token is of another delivery; this one was taken away. Stop working on the job.")
    body = await read_body(request, bytes_max=PROGRESS_BYTES_MAX)
    kind = request.headers.get("Content-Type", "application/json")[:200]
    if not await jobs.queue.store.put_progress(running, Payload(content=body, content_type=kind)):
        raise Conflict("The job was taken away from this worker. Stop working on it.")
    jobs.queue.news.tell(running.id)
    return web.Response(status=204)

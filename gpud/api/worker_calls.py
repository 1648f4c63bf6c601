"""What workers call: RunPod's worker protocol, and the progress of jobs that were pushed to them.

Served on a listener of its own that only the workers' network reaches, never on the public port.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, TypeVar

import structlog
from aiohttp import hdrs, web

from gpud.api.job_progress import put_progress_of
from gpud.core.ids import JobId, WorkerId
from gpud.core.pull_protocol import (
    bare_id,
    batch_of,
    complaint_of,
    ids_of,
    in_progress_of,
    job_document,
    read_chunk,
    read_report,
    too_large,
)
from gpud.errors import GpudError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gpud.jobs.jobs import Jobs
    from gpud.jobs.pull import Pull
    from gpud.jobs.worker_tokens import WorkerTokens
    from gpud.ports.jobs import Claim

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEEPALIVE_S = 900.0
"""Far above the 15 s after which RunPod's SDK drops an idle connection: it must never meet a closing one."""
_LINE_BYTES_MAX = 65_536
_CLOSE = {"Connection": "close"}
"""On every answer after which a worker may compute for long. A handler that blocks its process does not see
that gpud was restarted meanwhile, would post its result on the dead connection, and loses it; a fresh one
reaches the next daemon."""
_FORGED_PAUSE_S = 2.0
_INLINE_BYTES = 1 << 18
_log = structlog.get_logger(__name__)

A = TypeVar("A")
R = TypeVar("R")


class WorkerCalls:
    """The handlers.

    Args:
        jobs: Started, or about to be.
        tokens: What workers identify themselves with.
        result_bytes_max: Longest result that is kept.
    """

    def __init__(self, jobs: Jobs, tokens: WorkerTokens, *, result_bytes_max: int) -> None:
        self._jobs = jobs
        self._tokens = tokens
        self._result_bytes_max = result_bytes_max

    def runner(self) -> web.AppRunner:
        """The application, to be run on a listening socket."""
        app = web.Application(middlewares=[_errors], client_max_size=2 * self._result_bytes_max)
        prefix = "/v2/{endpoint}"
        app.router.add_get(prefix + "/job-take/{worker}", self.take)
        app.router.add_get(prefix + "/job-take-batch/{worker}", self.take)
        app.router.add_get(prefix + "/job-stop/{worker}", self.jobs_to_stop)
        app.router.add_post(prefix + "/job-done/{worker}/{job}", self.done)
        app.router.add_post(prefix + "/job-stream/{worker}/{job}", self.stream)
        app.router.add_get(prefix + "/ping/{worker}", self.ping)
        app.router.add_post("/v1/jobs/{job}/progress", self.progress)
        return web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            # A worker that gives up a poll must not be given what came for it.
            handler_cancellation=True,
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=_LINE_BYTES_MAX,
            shutdown_timeout=5.0,
        )

    # -- calls ---------------------------------------------------------------------------------

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Hold until there is a job; RunPod's `job-take` and `job-take-batch`."""
        pull, worker_id = await self._caller(request)
        batch = "/job-take-batch/" in request.path
        room = batch_of(request.query) if batch else 1
        claims = await pull.take(worker_id, room, in_progress_of(request.query))
        if not claims:
            return web.Response(status=204, headers=_CLOSE)
        try:
            documents = [
                await _off_loop(_document_of, claim, size=len(claim.payload.content)) for claim in claims
            ]
            body = b"[" + b",".join(documents) + b"]" if batch else documents[0]
            response = web.Response(body=body, content_type="application/json", headers=_CLOSE)
            await response.prepare(request)
            await response.write_eof()
        except BaseException:
            pull.give_back(worker_id, claims)
            raise
        if request.transport is None or request.transport.is_closing():
            pull.give_back(worker_id, claims)
        return response

    async def jobs_to_stop(self, request: web.Request) -> web.StreamResponse:
        """Hold until a job is to be stopped."""
        pull, worker_id = await self._caller(request)
        job_ids = await pull.jobs_to_stop(worker_id)
        if job_ids:
            return web.json_response({"jobsToStop": job_ids}, headers=_CLOSE)
        return web.Response(status=204, headers=_CLOSE)

    async def done(self, request: web.Request) -> web.StreamResponse:
        """Take a result, an error or a progress; one that is late or comes again is ignored."""
        pull, worker_id = await self._caller(request)
        job_id = JobId(bare_id(request.match_info["job"]))
        body = await _read(request, self._result_bytes_max)
        if body is None:
            report = too_large(self._result_bytes_max + 1, self._result_bytes_max)
            await pull.report(worker_id, job_id, report)
            return web.json_response({"error": report.said.error}, status=400, headers=_CLOSE)
        await pull.report(worker_id, job_id, await _off_loop(read_report, body, size=len(body)))
        return web.Response(headers=_CLOSE)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Take one yield of a generator."""
        pull, worker_id = await self._caller(request)
        job_id = JobId(bare_id(request.match_info["job"]))
        body = await _read(request, self._result_bytes_max)
        if body is None:
            why = (
                f"A part of a stream may have at most {self._result_bytes_max} bytes (jobs.result_bytes_max)."
            )
            return web.json_response({"error": why}, status=400, headers=_CLOSE)
        await pull.chunk(worker_id, job_id, await _off_loop(read_chunk, body, size=len(body)))
        return web.Response()

    async def ping(self, request: web.Request) -> web.StreamResponse:
        """Take note of a sign of life."""
        pull, worker_id = await self._caller(request)
        pull.ping(worker_id, ids_of(request.query), complaint_of(request.query))
        return web.Response()

    async def progress(self, request: web.Request) -> web.StreamResponse:
        """Take the progress of a job that was pushed; the token is of that delivery alone."""
        return await put_progress_of(self._jobs, request)

    # -- inside --------------------------------------------------------------------------------

    async def _caller(self, request: web.Request) -> tuple[Pull, WorkerId]:
        """Who calls.

        Raises:
            Unauthenticated: Its token is another worker's, or nobody's.
            Unavailable: The queue is not up yet.
        """
        worker_id = WorkerId(bare_id(request.match_info["worker"]))
        if not self._tokens.fits(request.headers.get(hdrs.AUTHORIZATION, ""), worker_id):
            await asyncio.sleep(_FORGED_PAUSE_S)  # RunPod's SDK asks again without a pause
            raise Unauthenticated(
                f"The token in Authorization is not that of worker {worker_id[:40]}. A worker sends the "
                "RUNPOD_AI_API_KEY that it was started with, unless its image has a ~/.runpod/config.toml."
            )
        pull = self._jobs.pull
        if pull is None:
            await asyncio.sleep(0.2)
            raise Unavailable("gpud is starting; try again in a moment.", retry_after_s=1.0)
        endpoint = request.match_info["endpoint"]
        if not pull.admits(worker_id, endpoint):
            _log.info("worker.unknown_call", worker=worker_id, endpoint=endpoint, path=request.path)
        return pull, worker_id


def _document_of(claim: Claim) -> bytes:
    document = job_document(claim.job.id, claim.payload.content)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")


async def _off_loop(work: Callable[[A], R], given: A, *, size: int) -> R:
    """Do what takes long for much data in a thread, so that other calls go on."""
    if size <= _INLINE_BYTES:
        return work(given)
    return await asyncio.get_running_loop().run_in_executor(None, work, given)


async def _read(request: web.Request, bytes_max: int) -> bytes | None:
    """A body to its end; None when it is longer than it may be."""
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > bytes_max:
            return None
        parts.append(part)
    return b"".join(parts)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer in the dialect's own shape, whatever goes wrong."""
    try:
        return await handler(request)
    except GpudError as error:
        return web.json_response({"error": error.detail}, status=error.status)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        why = f"There is nothing for {request.method[:20]} at {request.path[:200]}: {error.reason}."
        return web.json_response({"error": why}, status=error.status)
    except ConnectionResetError:
        raise  # the worker went away: there is nobody to answer
    except Exception:  # noqa: BLE001 - the last resort of every call: logged and answered
        _log.exception("worker.call_failed", method=request.method, path=request.path)
        return web.json_response({"error": "gpud failed while answering; its log says more."}, status=500)

"""The workers' output: in pages, or as it comes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.following import NOTHING_NEW, QUIET_S_MAX, Followers, begun_stream, ended_early, rest
from gpud.api.identity import caller_of
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer
from gpud.api.schemas.base import at_ms
from gpud.api.schemas.logs import LogOrder, LogPageDocument, LogsQuery, line_document
from gpud.api.services import SERVICES, Services
from gpud.core.ids import JobId
from gpud.core.job import JobState
from gpud.core.log_cursor import LogCursor
from gpud.errors import InvalidRequest, NotFound
from gpud.ports.logs import LogQuery, LogWindow

if TYPE_CHECKING:
    from gpud.ports.logs import LogPage

_POLL_S = (0.1, 0.2, 0.3, 0.5)
_NS_PER_MS = 1_000_000
_JOB_SLACK_MS = 1000
"""A worker may write a line of a job a moment after it gave the job back."""

READERS = web.AppKey("READERS", Followers)


async def list_logs(request: web.Request) -> web.StreamResponse:
    """Lines in pages, or as server-sent events."""
    asked = query_of(request, LogsQuery)
    given = asked.cursor or (request.headers.get("Last-Event-ID", "") if asked.follow else "")
    query = replace(await _question(request.app[SERVICES], asked), cursor=_cursor_of(given, asked))
    if asked.follow:
        return await _follow(request, query)
    page = await request.app[SERVICES].archive.read(query)
    if not page.lines and page.cursor == LogCursor():
        await _refuse_unknown(request.app[SERVICES], asked)
    return answer(
        LogPageDocument(
            items=tuple(line_document(found) for found in page.lines),
            next=page.cursor.spelled(),
            complete=page.complete,
            lost_bytes=page.lost_bytes,
        )
    )


def _cursor_of(given: str, asked: LogsQuery) -> LogCursor | None:
    if not given:
        return LogCursor() if asked.order is LogOrder.OLDEST else None
    try:
        return LogCursor.parse(given)
    except ValueError as error:
        why = "must be `next` or a line's `cursor` of an earlier answer"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why}) from error


async def _question(services: Services, asked: LogsQuery) -> LogQuery:
    if asked.worker and asked.job:
        why = "names the workers itself; leave `worker` out"
        raise InvalidRequest(f"job: {why}.", fields={"job": why})
    windows: tuple[LogWindow, ...] = ()
    if asked.worker:
        windows = (LogWindow(worker_id=asked.worker),)
    elif asked.job:
        windows = await _windows_of(services, asked.job)
    return LogQuery(
        endpoint=asked.endpoint,
        windows=windows,
        streams=frozenset({asked.stream} if asked.stream else ()),
        since_ns=at_ms(asked.since) * _NS_PER_MS,
        until_ns=at_ms(asked.until) * _NS_PER_MS,
        grep=asked.grep,
        ignore_case=asked.ignore_case,
        regex=asked.regex,
        limit=asked.limit,
        live=_live(services),
        previous=asked.previous,
    )


async def _refuse_unknown(services: Services, asked: LogsQuery) -> None:
    """Where no log is kept at all, the name may be wrong.

    Raises:
        NotFound: It is.
    """
    if asked.endpoint:
        services.control.endpoint(asked.endpoint)
    if asked.worker and await services.reads.worker(asked.worker) is None:
        services.control.worker(asked.worker)


def _live(services: Services) -> frozenset[str]:
    return frozenset(worker.id for view in services.control.endpoints() for worker in view.workers)


async def _windows_of(services: Services, name: str) -> tuple[LogWindow, ...]:
    """When which workers had a job.

    Raises:
        NotFound: There is no such job, or no worker ever had it.
    """
    store = services.jobs.queue.store
    job = await store.job(JobId(name))
    if job is None:
        raise NotFound(f"There is no job {name}, or it was deleted after its time.")
    spans = [(r.worker_id, r.started_at_ms, r.ended_at_ms) for r in await store.attempts(job.seq)]
    running = job.state is JobState.IN_PROGRESS
    if job.worker_id and job.started_at_ms:
        spans.append((job.worker_id, job.started_at_ms, 0 if running else job.finished_at_ms))
    windows = tuple(
        LogWindow(
            worker_id=worker_id,
            since_ns=since_ms * _NS_PER_MS,
            until_ns=(until_ms + _JOB_SLACK_MS) * _NS_PER_MS if until_ms else 0,
        )
        for worker_id, since_ms, until_ms in dict.fromkeys(spans)
        if worker_id
    )
    if not windows:
        raise NotFound(f"No worker has had the job {name} yet, so there is no output of it.")
    return windows


async def _follow(request: web.Request, query: LogQuery) -> web.StreamResponse:
    with request.app[READERS].place():
        # Before the head, which could not take back that all is well.
        page = await request.app[SERVICES].archive.read(query)
        response = await begun_stream(request)
        with ended_early(request):
            await _tell(request, response, query, page)
        return response


async def _tell(request: web.Request, response: web.StreamResponse, query: LogQuery, page: LogPage) -> None:
    """Write lines as they come, as fast as the client takes them, until it goes or the daemon stops."""
    services, quiet, quiet_s = request.app[SERVICES], 0, 0.0
    while True:
        if page.lost_bytes:
            await response.write(f'event: lost\ndata: {{"lost_bytes": {page.lost_bytes}}}\n\n'.encode())
        for found in page.lines:
            document = line_document(found)
            await response.write(f"id: {document.cursor}\ndata: {document.model_dump_json()}\n\n".encode())
        if page.complete:
            wait_s = _POLL_S[min(quiet, len(_POLL_S) - 1)]
            quiet, quiet_s = (0, 0.0) if page.lines else (quiet + 1, quiet_s + wait_s)
            if quiet_s >= QUIET_S_MAX:
                await response.write(NOTHING_NEW)
                quiet_s = 0.0
            await rest(services.stopping, wait_s)
        if services.stopping.is_set() or request.transport is None:
            return
        caller_of(request, Scope.READ)  # Whose key was disabled or has expired is told no more.
        asked = replace(query, cursor=page.cursor, live=_live(services), limit=max(query.limit, 500))
        page = await services.archive.read(asked)


OPERATIONS_HERE = (
    Operation(
        name="list_logs",
        method="GET",
        path="/v1/logs",
        handler=list_logs,
        scope=Scope.READ,
        summary="Search the workers' output, or follow it",
        tag="logs",
        query=LogsQuery,
        answer=LogPageDocument,
        streams=True,
        problems=(NotFound,),
    ),
)

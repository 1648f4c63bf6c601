"""Recorded events: in pages, or as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.following import NOTHING_NEW, QUIET_S_MAX, Followers, begun_stream, ended_early, rest
from gpud.api.identity import caller_of
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer, cursor_for, position_of
from gpud.api.schemas.access import EventOrder, EventPage, EventsQuery, event_document
from gpud.api.services import SERVICES, Services
from gpud.errors import InvalidRequest

if TYPE_CHECKING:
    from gpud.ports.store import EventRow

_POLL_PERIOD_S = 0.5
_BATCH = 100

FOLLOWERS = web.AppKey("FOLLOWERS", Followers)


async def list_events(request: web.Request) -> web.StreamResponse:
    """Events in pages, or as server-sent events."""
    query = query_of(request, EventsQuery)
    position = _seq_of(position_of(query.cursor))
    if query.follow:
        return await _follow(request, query, position)
    rows = await _rows(request.app[SERVICES], query, position)
    page = rows[: query.limit]
    following = cursor_for(str(page[-1].seq)) if len(rows) > len(page) else None
    return answer(EventPage(items=tuple(event_document(row) for row in page), next=following))


async def _rows(services: Services, query: EventsQuery, position: int) -> tuple[EventRow, ...]:
    limit = query.limit + 1
    if query.order is EventOrder.OLDEST:
        return await services.reads.list_events(
            endpoint=query.endpoint, worker_id=query.worker, after_seq=position, limit=limit
        )
    return await services.reads.latest_events(
        endpoint=query.endpoint, worker_id=query.worker, before_seq=position, limit=limit
    )


async def _follow(request: web.Request, query: EventsQuery, position: int) -> web.StreamResponse:
    with request.app[FOLLOWERS].place():
        seq = await _first_seq(request, request.app[SERVICES], position)
        response = await begun_stream(request)
        with ended_early(request):
            await _tell(request, response, query, seq)
        return response


async def _first_seq(request: web.Request, services: Services, position: int) -> int:
    """Where to begin: after what the client has seen, or after the newest event of all."""
    seen = _seq_of(request.headers.get("Last-Event-ID", "")) or position
    if seen:
        return seen
    newest = await services.reads.latest_events(limit=1)
    return newest[0].seq if newest else 0


async def _tell(request: web.Request, response: web.StreamResponse, query: EventsQuery, seq: int) -> None:
    """Write events after `seq` as they are recorded, until the client goes or the application stops."""
    services, quiet_s = request.app[SERVICES], 0.0
    while not services.stopping.is_set() and request.transport is not None:
        caller_of(request, Scope.READ)  # Whose key was disabled or has expired is told no more.
        rows = await services.reads.list_events(
            endpoint=query.endpoint, worker_id=query.worker, after_seq=seq, limit=_BATCH
        )
        for row in rows:
            text = event_document(row).model_dump_json()
            await response.write(f"id: {row.seq}\nevent: {row.kind}\ndata: {text}\n\n".encode())
            seq = row.seq
        if len(rows) == _BATCH:
            continue
        quiet_s = 0.0 if rows else quiet_s + _POLL_PERIOD_S
        if quiet_s >= QUIET_S_MAX:
            await response.write(NOTHING_NEW)
            quiet_s = 0.0
        await rest(services.stopping, _POLL_PERIOD_S)


def _seq_of(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        why = "must be `next` of an earlier answer, or the id of an event"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why})
    return int(text)


OPERATIONS_HERE = (
    Operation(
        name="list_events",
        method="GET",
        path="/v1/events",
        handler=list_events,
        scope=Scope.READ,
        summary="List recorded events, or follow them",
        tag="events",
        query=EventsQuery,
        answer=EventPage,
        streams=True,
    ),
)

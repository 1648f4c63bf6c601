"""Workers: list, look, stop."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer, cursor_for, position_of
from gpud.api.schemas.fleet import (
    StopQuery,
    WorkerDocument,
    WorkerPage,
    WorkersQuery,
    worker_document,
)
from gpud.api.schemas.standby import StandbyList, StandbysQuery, standby_document
from gpud.api.services import SERVICES
from gpud.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from gpud.core.worker import Worker


async def list_workers(request: web.Request) -> web.StreamResponse:
    """Workers of the whole box, newest first: live ones as the fleet sees them now, as everywhere else."""
    query, services = query_of(request, WorkersQuery), request.app[SERVICES]
    live = services.control.live_workers()
    if query.include_gone:
        recorded = await services.reads.list_workers(
            endpoint=query.endpoint,
            include_gone=True,
            after=position_of(query.cursor),
            limit=query.limit + 1,
        )
        seen = {worker.id: worker for worker in live}
        found = tuple(seen.get(worker.id, worker) for worker in recorded)
        page = found[: query.limit]
        following = cursor_for(page[-1].id) if len(found) > len(page) else None
    else:
        before = _before(position_of(query.cursor))
        found = tuple(
            worker
            for worker in reversed(live)
            if query.endpoint in ("", worker.endpoint) and (before is None or _age(worker) < before)
        )
        page = found[: query.limit]
        following = cursor_for("{}.{}".format(*_age(page[-1]))) if len(found) > len(page) else None
    return answer(WorkerPage(items=tuple(worker_document(worker) for worker in page), next=following))


def _age(worker: Worker) -> tuple[int, str]:
    return worker.created_at_ms, worker.id


def _before(position: str) -> tuple[int, str] | None:
    if not position:
        return None
    moment, _, worker_id = position.partition(".")
    if not (moment.isascii() and moment.isdigit() and len(moment) < 16):
        why = "must be `next` of an earlier answer"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why})
    return int(moment), worker_id


async def show_worker(request: web.Request) -> web.StreamResponse:
    """One worker: a live one as the fleet sees it now, one that has ended as it was recorded."""
    services, worker_id = request.app[SERVICES], request.match_info["id"]
    try:
        return answer(worker_document(services.control.worker(worker_id)))
    except NotFound:
        recorded = await services.reads.worker(worker_id)
        if recorded is None:
            raise
        return answer(worker_document(recorded))


async def stop_worker(request: web.Request) -> web.StreamResponse:
    """Drain a worker, or kill it at once; answers with the worker, which is then on its way out."""
    query = query_of(request, StopQuery)
    control = request.app[SERVICES].control
    worker = control.worker(request.match_info["id"])
    await control.stop_worker(worker.id, force=query.force)
    with contextlib.suppress(NotFound):  # Gone already: the last that was seen of it is the answer.
        worker = control.worker(worker.id)
    return answer(worker_document(worker), status=202)


async def list_standbys(request: web.Request) -> web.StreamResponse:
    """Containers of the whole box that are kept for a fast start."""
    query = query_of(request, StandbysQuery)
    kept = [s for view in request.app[SERVICES].control.endpoints() for s in view.standbys]
    shown = [s for s in kept if query.endpoint in ("", s.endpoint)]
    return answer(StandbyList(items=tuple(standby_document(standby) for standby in shown)))


OPERATIONS_HERE = (
    Operation(
        name="list_standbys",
        method="GET",
        path="/v1/standbys",
        handler=list_standbys,
        scope=Scope.READ,
        summary="List containers kept for a fast start",
        tag="workers",
        query=StandbysQuery,
        answer=StandbyList,
    ),
    Operation(
        name="list_workers",
        method="GET",
        path="/v1/workers",
        handler=list_workers,
        scope=Scope.READ,
        summary="List workers, newest first",
        tag="workers",
        query=WorkersQuery,
        answer=WorkerPage,
    ),
    Operation(
        name="show_worker",
        method="GET",
        path="/v1/workers/{id}",
        handler=show_worker,
        scope=Scope.READ,
        summary="Show a worker, also one that has ended",
        tag="workers",
        answer=WorkerDocument,
        problems=(NotFound,),
    ),
    Operation(
        name="stop_worker",
        method="DELETE",
        path="/v1/workers/{id}",
        handler=stop_worker,
        scope=Scope.WRITE,
        summary="Drain a worker, or kill it at once",
        tag="workers",
        query=StopQuery,
        answer=WorkerDocument,
        statuses=((202, "On its way out"),),
        problems=(NotFound,),
    ),
)

"""What workers used, lately."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer
from gpud.api.schemas.stats import StatsPage, StatsQuery, StatsSpan, stats_document
from gpud.api.services import SERVICES
from gpud.core.stats_history import ROLLED_STEP_S
from gpud.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web


async def show_worker_stats(request: web.Request) -> web.StreamResponse:
    """A worker's history, also of one that has ended lately."""
    query, services, worker_id = (
        query_of(request, StatsQuery),
        request.app[SERVICES],
        request.match_info["id"],
    )
    history = services.readings.history
    samples = history.fine(worker_id) if query.span is StatsSpan.HOUR else history.rolled(worker_id)
    if not samples and await services.reads.worker(worker_id) is None:
        services.control.worker(worker_id)  # says that there is none
    return answer(
        StatsPage(
            worker_id=worker_id,
            step_s=history.step_s if query.span is StatsSpan.HOUR else float(ROLLED_STEP_S),
            items=tuple(stats_document(sample) for sample in samples),
        )
    )


OPERATIONS_HERE = (
    Operation(
        name="show_worker_stats",
        method="GET",
        path="/v1/workers/{id}/stats",
        handler=show_worker_stats,
        scope=Scope.READ,
        summary="Show what a worker used",
        tag="workers",
        query=StatsQuery,
        answer=StatsPage,
        problems=(NotFound,),
    ),
)

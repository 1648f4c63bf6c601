"""Tells job by job what was used, for whoever bills by job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.identity import CALLER
from gpud.api.job_access import only_owner
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer, cursor_for, position_of
from gpud.api.schemas import job_usage as schemas
from gpud.api.schemas.base import at_ms
from gpud.api.services import SERVICES
from gpud.core.energy import EnergyTariff
from gpud.errors import InvalidRequest
from gpud.ports.job_usage import JobUsageQuery

if TYPE_CHECKING:
    from aiohttp import web

_FAR_FUTURE = 1 << 62
_STEP_MS = 10
"""Two clocks are never read at one moment: by the millisecond a line would not be the same twice."""


async def list_job_usage(request: web.Request) -> web.StreamResponse:
    """Jobs that are over, with what they used."""
    query, services = query_of(request, schemas.JobUsageQuery), request.app[SERVICES]
    ahead_ms = _STEP_MS * round((services.clock.at_ms() - services.jobs.queue.now_ms()) / _STEP_MS)
    own = only_owner(request[CALLER])
    page = await services.jobs.queue.store.usage(
        JobUsageQuery(
            endpoint=query.endpoint,
            owner=query.owner or None if own is None else own,
            since_ms=at_ms(query.since) - ahead_ms if query.since else 0,
            until_ms=at_ms(query.until) - ahead_ms if query.until else _FAR_FUTURE,
            after_seq=_after(position_of(query.cursor)),
            limit=query.limit,
        )
    )
    energy = services.settings.energy
    rates = EnergyTariff(kwh_micros=energy.kwh_micros, co2_g_per_kwh=energy.co2_g_per_kwh)
    return answer(
        schemas.JobUsagePage(
            currency=services.settings.prices.currency,
            items=tuple(schemas.job_usage_document(used, rates, ahead_ms=ahead_ms) for used in page.items),
            next=None if page.more_after is None else cursor_for(str(page.more_after)),
        )
    )


def _after(position: str) -> int:
    if position and not (position.isascii() and position.isdigit() and len(position) <= 18):
        why = "must be `next` of an earlier answer"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why})
    return int(position or 0)


OPERATIONS_HERE = (
    Operation(
        name="list_job_usage",
        method="GET",
        path="/v1/usage/jobs",
        handler=list_job_usage,
        scope=Scope.ANY,
        summary="Export what was used, job by job: the key's own, or all with the scope read",
        tag="usage",
        query=schemas.JobUsageQuery,
        answer=schemas.JobUsagePage,
    ),
)

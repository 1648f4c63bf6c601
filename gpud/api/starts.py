"""Cold starts of an endpoint: where their time went, and which were slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer
from gpud.api.schemas.starts import StartList, StartsQuery, start_documents
from gpud.api.services import SERVICES
from gpud.core.cold_start import COMPARED_MAX
from gpud.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web


async def list_starts(request: web.Request) -> web.StreamResponse:
    """The newest starts of an endpoint, each beside its twenty predecessors."""
    query = query_of(request, StartsQuery)
    services = request.app[SERVICES]
    endpoint = services.control.endpoint(request.match_info["name"]).endpoint
    starts = await services.reads.cold_starts(endpoint.name, limit=query.limit + COMPARED_MAX)
    return answer(StartList(items=start_documents(starts, query.limit), next=None))


OPERATIONS_HERE = (
    Operation(
        name="list_starts",
        method="GET",
        path="/v1/endpoints/{name}/starts",
        handler=list_starts,
        scope=Scope.READ,
        summary="List an endpoint's cold starts by phase, and what made one slow",
        tag="endpoints",
        query=StartsQuery,
        answer=StartList,
        problems=(NotFound,),
    ),
)

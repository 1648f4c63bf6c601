"""Revisions of an endpoint: list them, go back to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of, query_of
from gpud.api.rendering import answer, page_of
from gpud.api.schemas.base import PageQuery
from gpud.api.schemas.fleet import EndpointDocument, endpoint_document
from gpud.api.schemas.revisions import RevisionPage, RollbackBody, revision_document
from gpud.api.services import SERVICES
from gpud.core.ids import EndpointName
from gpud.errors import Conflict, NotFound, StorageFull

if TYPE_CHECKING:
    from aiohttp import web

_NUMBER_MAX = 1 << 40


async def list_revisions(request: web.Request) -> web.StreamResponse:
    """Every revision an endpoint ever had, newest first."""
    query = query_of(request, PageQuery)
    records = await request.app[SERVICES].control.revisions(request.match_info["name"])
    # Positions grow along the page, and the newest comes first.
    page, following = page_of(records, lambda record: f"{_NUMBER_MAX - record.number:013d}", query)
    return answer(RevisionPage(items=tuple(revision_document(record) for record in page), next=following))


async def roll_back(request: web.Request) -> web.StreamResponse:
    """End the rollout under way, or roll out an earlier revision."""
    services, name = request.app[SERVICES], request.match_info["name"]
    body = await body_of(request, RollbackBody)
    async with services.one_at_a_time(name):
        await services.control.rollback(EndpointName(name), body.revision)
        return answer(endpoint_document(services.control.endpoint(name)))


OPERATIONS_HERE = (
    Operation(
        name="list_revisions",
        method="GET",
        path="/v1/endpoints/{name}/revisions",
        handler=list_revisions,
        scope=Scope.READ,
        summary="List an endpoint's revisions, newest first",
        tag="endpoints",
        query=PageQuery,
        answer=RevisionPage,
        problems=(NotFound,),
    ),
    Operation(
        name="rollback_endpoint",
        method="POST",
        path="/v1/endpoints/{name}/rollback",
        handler=roll_back,
        scope=Scope.WRITE,
        summary="End the rollout under way, or roll out an earlier revision",
        tag="endpoints",
        body=RollbackBody,
        answer=EndpointDocument,
        problems=(NotFound, Conflict, StorageFull),
    ),
)

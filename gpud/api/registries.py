"""Registry credentials: store, list without passwords, forget."""

from __future__ import annotations

import re

from aiohttp import web

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of, query_of
from gpud.api.rendering import answer, page_of
from gpud.api.schemas.access import RegistryBody, RegistryDocument, RegistryPage, registry_document
from gpud.api.schemas.base import PageQuery
from gpud.api.services import SERVICES
from gpud.errors import Conflict, InvalidRequest, NotFound
from gpud.ports.images import RegistryCredential
from gpud.ports.store import StoredRegistry

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")


async def list_registries(request: web.Request) -> web.StreamResponse:
    """Every credential, without its password."""
    query = query_of(request, PageQuery)
    stored = await request.app[SERVICES].access.list_registries()
    page, following = page_of(sorted(stored, key=lambda one: one.name), lambda one: one.name, query)
    return answer(RegistryPage(items=tuple(registry_document(one) for one in page), next=following))


async def put_registry(request: web.Request) -> web.StreamResponse:
    """Store a credential; replaces one of that name."""
    services, name = request.app[SERVICES], request.match_info["name"]
    if not _NAME.match(name):
        why = "must have 1 to 40 characters of a-z, 0-9 and '-', and not start with '-'"
        raise InvalidRequest(f"name: {why}.", fields={"name": why})
    body = await body_of(request, RegistryBody)
    credential = RegistryCredential(
        host=body.host, username=body.username, password=body.password.get_secret_value()
    )
    at_ms = services.clock.at_ms()
    await services.access.put_registry(name, credential, at_ms)
    stored = StoredRegistry(name=name, host=body.host, username=body.username, created_at_ms=at_ms)
    return answer(registry_document(stored))


async def delete_registry(request: web.Request) -> web.StreamResponse:
    """Forget a credential that no endpoint uses."""
    services, name = request.app[SERVICES], request.match_info["name"]
    users = [v.endpoint.name for v in services.control.endpoints() if v.endpoint.spec.registry == name]
    if users:
        raise Conflict(
            f"The endpoints {', '.join(users)} pull with the registry {name!r}. Change or delete them first.",
            extra={"endpoints": users},
        )
    if not await services.access.delete_registry(name):
        raise NotFound(f"There is no registry named {name[:100]!r}. GET /v1/registries lists them.")
    return web.Response(status=204)


OPERATIONS_HERE = (
    Operation(
        name="list_registries",
        method="GET",
        path="/v1/registries",
        handler=list_registries,
        scope=Scope.READ,
        summary="List registry credentials, without passwords",
        tag="registries",
        query=PageQuery,
        answer=RegistryPage,
    ),
    Operation(
        name="put_registry",
        method="PUT",
        path="/v1/registries/{name}",
        handler=put_registry,
        scope=Scope.ADMIN,
        summary="Store a registry credential",
        tag="registries",
        body=RegistryBody,
        answer=RegistryDocument,
        statuses=((200, "Stored"),),
    ),
    Operation(
        name="delete_registry",
        method="DELETE",
        path="/v1/registries/{name}",
        handler=delete_registry,
        scope=Scope.ADMIN,
        summary="Forget a registry credential that no endpoint uses",
        tag="registries",
        statuses=((204, "Forgotten"),),
        problems=(NotFound, Conflict),
    ),
)

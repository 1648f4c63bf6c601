"""Endpoints: deploy, change, look, retry, delete."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic_core import from_json

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of, document_from, query_of, raw_body_of, require_json
from gpud.api.rendering import answer, page_of
from gpud.api.schemas.base import PageQuery
from gpud.api.schemas.fleet import (
    EndpointDocument,
    EndpointPage,
    WorkerPage,
    endpoint_document,
    worker_document,
)
from gpud.api.schemas.spec import EndpointSpecDocument, spec_document
from gpud.api.services import SERVICES, Services
from gpud.core.ids import EndpointName
from gpud.errors import (
    Conflict,
    ImagePullFailed,
    InvalidRequest,
    InvalidSpec,
    NotFound,
    RegistryDenied,
    StorageFull,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MERGE_PATCH = "application/merge-patch+json"

_DEPLOY_PROBLEMS = (InvalidSpec, ImagePullFailed, RegistryDenied, StorageFull)


async def list_endpoints(request: web.Request) -> web.StreamResponse:
    """Every endpoint, by name."""
    query = query_of(request, PageQuery)
    views = request.app[SERVICES].control.endpoints()
    page, following = page_of(views, lambda view: view.endpoint.name, query)
    return answer(EndpointPage(items=tuple(endpoint_document(view) for view in page), next=following))


async def create_endpoint(request: web.Request) -> web.StreamResponse:
    """Deploy an endpoint whose name is free."""
    services = request.app[SERVICES]
    document = await body_of(request, EndpointSpecDocument, error=InvalidSpec)
    async with services.one_at_a_time(document.name):
        if _present(services, document.name):
            raise Conflict(
                f"The endpoint {document.name!r} exists. Change it with PUT or PATCH "
                f"/v1/endpoints/{document.name}, or take another name."
            )
        return await _deploy(services, document)


async def show_endpoint(request: web.Request) -> web.StreamResponse:
    """One endpoint as it is now."""
    return answer(endpoint_document(request.app[SERVICES].control.endpoint(request.match_info["name"])))


async def put_endpoint(request: web.Request) -> web.StreamResponse:
    """Deploy an endpoint, or replace its whole spec."""
    services, name = request.app[SERVICES], request.match_info["name"]
    document = await body_of(request, EndpointSpecDocument, error=InvalidSpec)
    _require_same_name(document, name)
    async with services.one_at_a_time(name):
        return await _deploy(services, document)


async def patch_endpoint(request: web.Request) -> web.StreamResponse:
    """Change some fields of an endpoint's spec and keep the rest; null takes a field's default."""
    services, name = request.app[SERVICES], request.match_info["name"]
    require_json(request, MERGE_PATCH)
    patch = _object_from(await raw_body_of(request))
    async with services.one_at_a_time(name):
        present = spec_document(services.control.endpoint(name).endpoint.spec).model_dump(mode="json")
        merged = json.dumps(merge(present, patch)).encode()
        document = document_from(merged, EndpointSpecDocument, error=InvalidSpec)
        _require_same_name(document, name)
        return await _deploy(services, document)


async def delete_endpoint(request: web.Request) -> web.StreamResponse:
    """Drain an endpoint's workers and forget it; its usage and events stay."""
    await request.app[SERVICES].control.delete_endpoint(EndpointName(request.match_info["name"]))
    return web.Response(status=204)


async def retry_endpoint(request: web.Request) -> web.StreamResponse:
    """Forget an endpoint's start failures, so that it is tried at once."""
    control, name = request.app[SERVICES].control, request.match_info["name"]
    await control.retry(EndpointName(name))
    return answer(endpoint_document(control.endpoint(name)))


async def list_endpoint_workers(request: web.Request) -> web.StreamResponse:
    """Live workers of an endpoint."""
    query = query_of(request, PageQuery)
    workers = request.app[SERVICES].control.endpoint(request.match_info["name"]).workers
    ordered = sorted(workers, key=lambda worker: worker.id)
    page, following = page_of(ordered, lambda worker: worker.id, query)
    return answer(WorkerPage(items=tuple(worker_document(worker) for worker in page), next=following))


def merge(present: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply an RFC 7396 merge patch.

    A null for a name that is not there stays, so that a misspelt one is refused like any
    other; only the free names of `env` may be taken away twice.
    """
    merged = dict(present)
    for name, value in patch.items():
        held = merged.get(name)
        if isinstance(value, dict):
            merged[name] = merge(held if isinstance(held, dict) else {}, value)
            if name == "env":
                merged[name] = {key: text for key, text in merged[name].items() if text is not None}
        elif value is None and name in merged:
            del merged[name]
        else:
            merged[name] = value
    return merged


async def _deploy(services: Services, document: EndpointSpecDocument) -> web.Response:
    endpoint, new = await services.control.deploy(document.to_spec())
    view = endpoint_document(services.control.endpoint(endpoint.name))
    headers = {"Location": f"/v1/endpoints/{endpoint.name}"} if new else None
    return answer(view, status=201 if new else 200, headers=headers)


def _present(services: Services, name: str) -> bool:
    try:
        services.control.endpoint(name)
    except NotFound:
        return False
    return True


def _require_same_name(document: EndpointSpecDocument, name: str) -> None:
    if document.name != name:
        why = f"must be {name!r}, the name in the path: an endpoint cannot be renamed"
        raise InvalidSpec(f"name: {why}.", fields={"name": why})


def _object_from(raw: bytes) -> dict[str, Any]:
    try:
        parsed = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The body cannot be read as JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("The body must be a JSON object with the fields to change.")
    return parsed


_CREATED_OR_CHANGED = ((200, "Changed"), (201, "Created"))

OPERATIONS_HERE = (
    Operation(
        name="list_endpoints",
        method="GET",
        path="/v1/endpoints",
        handler=list_endpoints,
        scope=Scope.READ,
        summary="List endpoints",
        tag="endpoints",
        query=PageQuery,
        answer=EndpointPage,
    ),
    Operation(
        name="create_endpoint",
        method="POST",
        path="/v1/endpoints",
        handler=create_endpoint,
        scope=Scope.WRITE,
        summary="Deploy an endpoint whose name is free",
        tag="endpoints",
        body=EndpointSpecDocument,
        answer=EndpointDocument,
        statuses=((201, "Created"),),
        problems=(Conflict, NotFound, *_DEPLOY_PROBLEMS),
    ),
    Operation(
        name="show_endpoint",
        method="GET",
        path="/v1/endpoints/{name}",
        handler=show_endpoint,
        scope=Scope.READ,
        summary="Show an endpoint",
        tag="endpoints",
        answer=EndpointDocument,
        problems=(NotFound,),
    ),
    Operation(
        name="put_endpoint",
        method="PUT",
        path="/v1/endpoints/{name}",
        handler=put_endpoint,
        scope=Scope.WRITE,
        summary="Deploy an endpoint, or replace its whole spec",
        tag="endpoints",
        body=EndpointSpecDocument,
        answer=EndpointDocument,
        statuses=_CREATED_OR_CHANGED,
        problems=(NotFound, *_DEPLOY_PROBLEMS),
    ),
    Operation(
        name="patch_endpoint",
        method="PATCH",
        path="/v1/endpoints/{name}",
        handler=patch_endpoint,
        scope=Scope.WRITE,
        summary="Change some fields of an endpoint's spec; null takes a field's default",
        tag="endpoints",
        body=EndpointSpecDocument,
        answer=EndpointDocument,
        problems=(NotFound, *_DEPLOY_PROBLEMS),
    ),
    Operation(
        name="delete_endpoint",
        method="DELETE",
        path="/v1/endpoints/{name}",
        handler=delete_endpoint,
        scope=Scope.WRITE,
        summary="Drain an endpoint's workers and forget it; its usage and events stay",
        tag="endpoints",
        statuses=((204, "Forgotten"),),
        problems=(NotFound,),
    ),
    Operation(
        name="retry_endpoint",
        method="POST",
        path="/v1/endpoints/{name}/retry",
        handler=retry_endpoint,
        scope=Scope.WRITE,
        summary="Forget an endpoint's start failures, so that it is tried at once",
        tag="endpoints",
        answer=EndpointDocument,
        problems=(NotFound,),
    ),
    Operation(
        name="list_endpoint_workers",
        method="GET",
        path="/v1/endpoints/{name}/workers",
        handler=list_endpoint_workers,
        scope=Scope.READ,
        summary="List an endpoint's live workers",
        tag="endpoints",
        query=PageQuery,
        answer=WorkerPage,
        problems=(NotFound,),
    ),
)

"""API keys: make, list, disable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.idempotency import KEPT_BODY
from gpud.api.identity import CALLER
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of, query_of
from gpud.api.rendering import answer, page_of
from gpud.api.schemas.access import KeyBody, KeyPage, NewKeyDocument, OwnKeyDocument, key_document
from gpud.api.schemas.base import PageQuery, at_ms
from gpud.api.services import SERVICES
from gpud.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gpud.ports.store import ApiKey


async def list_keys(request: web.Request) -> web.StreamResponse:
    """Every key, oldest first, without its secret."""
    query = query_of(request, PageQuery)
    page, following = page_of(request.app[SERVICES].keyring.list_keys(), _age, query)
    return answer(KeyPage(items=tuple(key_document(key) for key in page), next=following))


async def create_key(request: web.Request) -> web.StreamResponse:
    """Make a key and show its token, this once."""
    services = request.app[SERVICES]
    body = await body_of(request, KeyBody)
    expires_at_ms = at_ms(body.expires_at)
    if body.expires_at is not None and expires_at_ms <= services.clock.at_ms():
        why = "must be later than now"
        raise InvalidRequest(f"expires_at: {why}.", fields={"expires_at": why})
    key, token = await services.keyring.create(
        label=body.label, scopes=body.scopes, expires_at_ms=expires_at_ms
    )
    shown = NewKeyDocument(token=token, **dict(key_document(key)))
    request[KEPT_BODY] = shown.model_copy(update={"token": None}).model_dump_json().encode()
    return answer(shown, status=201)


async def show_own_key(request: web.Request) -> web.StreamResponse:
    """What the caller's own key may do; the administrator at the Unix socket has none."""
    caller = request[CALLER]
    return answer(OwnKeyDocument(id=caller.name, scopes=caller.scopes))


async def disable_key(request: web.Request) -> web.StreamResponse:
    """Disable a key for good; it stays in the list."""
    key_id = request.match_info["id"]
    if not await request.app[SERVICES].keyring.disable(key_id):
        raise NotFound(f"There is no key {key_id[:100]!r}. GET /v1/keys lists them.")
    return web.Response(status=204)


def _age(key: ApiKey) -> str:
    return f"{key.created_at_ms:016d}{key.id}"


OPERATIONS_HERE = (
    Operation(
        name="list_keys",
        method="GET",
        path="/v1/keys",
        handler=list_keys,
        scope=Scope.ADMIN,
        summary="List API keys, without secrets",
        tag="keys",
        query=PageQuery,
        answer=KeyPage,
    ),
    Operation(
        name="create_key",
        method="POST",
        path="/v1/keys",
        handler=create_key,
        scope=Scope.ADMIN,
        summary="Make an API key; its token is shown this once",
        tag="keys",
        body=KeyBody,
        answer=NewKeyDocument,
        statuses=((201, "Made"),),
        keeps_secret=True,
    ),
    Operation(
        name="show_own_key",
        method="GET",
        path="/v1/own-key",
        handler=show_own_key,
        scope=Scope.ANY,
        summary="Show what the key of this request may do",
        tag="keys",
        answer=OwnKeyDocument,
    ),
    Operation(
        name="disable_key",
        method="DELETE",
        path="/v1/keys/{id}",
        handler=disable_key,
        scope=Scope.ADMIN,
        summary="Disable an API key for good",
        tag="keys",
        statuses=((204, "Disabled"),),
        problems=(NotFound,),
    ),
)

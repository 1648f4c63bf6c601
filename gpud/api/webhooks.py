"""Webhooks: subscribe, change, rotate, and see or repeat what was delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.idempotency import KEPT_BODY
from gpud.api.operations import Operation, Scope
from gpud.api.parsing import body_of, query_of
from gpud.api.rendering import answer, cursor_for, page_of, position_of
from gpud.api.schemas.base import PageQuery, at_ms
from gpud.api.schemas.webhooks import (
    DeliveriesQuery,
    DeliveryDetail,
    DeliveryPage,
    NewWebhookDocument,
    ReplayBody,
    ReplayDocument,
    RotateBody,
    WebhookBody,
    WebhookChange,
    WebhookDocument,
    WebhookPage,
    delivery_detail,
    delivery_document,
    webhook_document,
)
from gpud.api.services import SERVICES
from gpud.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from gpud.ports.webhooks import Webhook
    from gpud.webhooks.control import WebhookControl


async def list_webhooks(request: web.Request) -> web.StreamResponse:
    """Every webhook, without its secret."""
    query = query_of(request, PageQuery)
    found = await _control(request).list()
    page, following = page_of(found, lambda one: f"{one.created_at_ms:016d}{one.id}", query)
    return answer(WebhookPage(items=tuple(webhook_document(one) for one in page), next=following))


async def create_webhook(request: web.Request) -> web.StreamResponse:
    """Subscribe an address and show its secret, this once."""
    body = await body_of(request, WebhookBody)
    webhook, secret = await _control(request).create(
        url=body.url, types=body.types, endpoint=body.endpoint, description=body.description
    )
    return _with_secret(request, webhook, secret, status=201)


async def get_webhook(request: web.Request) -> web.StreamResponse:
    """One webhook."""
    return answer(webhook_document(await _control(request).get(request.match_info["id"])))


async def change_webhook(request: web.Request) -> web.StreamResponse:
    """Change what the body names."""
    body = await body_of(request, WebhookChange)
    changed = await _control(request).change(
        request.match_info["id"],
        url=body.url,
        types=body.types,
        endpoint=body.endpoint,
        description=body.description,
        enabled=body.enabled,
    )
    return answer(webhook_document(changed))


async def delete_webhook(request: web.Request) -> web.StreamResponse:
    """Forget a webhook and its deliveries."""
    await _control(request).delete(request.match_info["id"])
    return web.Response(status=204)


async def rotate_webhook_secret(request: web.Request) -> web.StreamResponse:
    """Give a webhook a new secret and show it, this once."""
    body = await body_of(request, RotateBody)
    webhook, secret = await _control(request).rotate(request.match_info["id"], overlap_s=body.overlap_s)
    return _with_secret(request, webhook, secret, status=200)


async def test_webhook(request: web.Request) -> web.StreamResponse:
    """Send a message that tells of nothing."""
    webhook_id = request.match_info["id"]
    control = _control(request)
    delivery_id = await control.test(webhook_id)
    return answer(delivery_detail(*await control.delivery(webhook_id, delivery_id)), status=202)


async def replay_webhook(request: web.Request) -> web.StreamResponse:
    """Send what was missed in a period again."""
    body = await body_of(request, ReplayBody)
    replayed = await _control(request).replay(
        request.match_info["id"], since_ms=at_ms(body.since), until_ms=at_ms(body.until), every=body.all
    )
    return answer(ReplayDocument(replayed=replayed), status=202)


async def list_webhook_deliveries(request: web.Request) -> web.StreamResponse:
    """Deliveries of a webhook, newest first."""
    query = query_of(request, DeliveriesQuery)
    found = await _control(request).deliveries(
        request.match_info["id"],
        state=query.state or "",
        before=_before(position_of(query.cursor)),
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    following = cursor_for(f"{page[-1].created_at_ms}.{page[-1].id}") if len(found) > len(page) else None
    return answer(DeliveryPage(items=tuple(delivery_document(one) for one in page), next=following))


async def get_webhook_delivery(request: web.Request) -> web.StreamResponse:
    """One delivery, with what was sent and every try."""
    found = await _control(request).delivery(request.match_info["id"], request.match_info["delivery"])
    return answer(delivery_detail(*found))


async def redeliver_webhook_delivery(request: web.Request) -> web.StreamResponse:
    """Send a delivery again, with the same id and body."""
    webhook_id, delivery_id = request.match_info["id"], request.match_info["delivery"]
    control = _control(request)
    await control.redeliver(webhook_id, delivery_id)
    return answer(delivery_detail(*await control.delivery(webhook_id, delivery_id)), status=202)


def _control(request: web.Request) -> WebhookControl:
    return request.app[SERVICES].webhooks


def _with_secret(request: web.Request, webhook: Webhook, secret: str, *, status: int) -> web.Response:
    shown = NewWebhookDocument(secret=secret, **dict(webhook_document(webhook)))
    request[KEPT_BODY] = shown.model_copy(update={"secret": None}).model_dump_json().encode()
    return answer(shown, status=status)


def _before(position: str) -> tuple[int, str]:
    if not position:
        return 0, ""
    moment, _, delivery_id = position.partition(".")
    if not (moment.isascii() and moment.isdigit() and len(moment) < 16):
        why = "must be `next` of an earlier answer"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why})
    return int(moment), delivery_id


_ONE = "/v1/webhooks/{id}"
_DELIVERY = "/v1/webhooks/{id}/deliveries/{delivery}"

OPERATIONS_HERE = (
    Operation(
        name="list_webhooks",
        method="GET",
        path="/v1/webhooks",
        handler=list_webhooks,
        scope=Scope.READ,
        summary="List webhooks, without secrets",
        tag="webhooks",
        query=PageQuery,
        answer=WebhookPage,
    ),
    Operation(
        name="create_webhook",
        method="POST",
        path="/v1/webhooks",
        handler=create_webhook,
        scope=Scope.ADMIN,
        summary="Subscribe an address to events; its secret is shown this once",
        tag="webhooks",
        body=WebhookBody,
        answer=NewWebhookDocument,
        statuses=((201, "Made"),),
        problems=(Conflict,),
        keeps_secret=True,
    ),
    Operation(
        name="get_webhook",
        method="GET",
        path=_ONE,
        handler=get_webhook,
        scope=Scope.READ,
        summary="Show a webhook",
        tag="webhooks",
        answer=WebhookDocument,
        problems=(NotFound,),
    ),
    Operation(
        name="change_webhook",
        method="PATCH",
        path=_ONE,
        handler=change_webhook,
        scope=Scope.ADMIN,
        summary="Change a webhook, or enable or disable it",
        tag="webhooks",
        body=WebhookChange,
        answer=WebhookDocument,
        problems=(NotFound,),
    ),
    Operation(
        name="delete_webhook",
        method="DELETE",
        path=_ONE,
        handler=delete_webhook,
        scope=Scope.ADMIN,
        summary="Forget a webhook and its deliveries",
        tag="webhooks",
        statuses=((204, "Forgotten"),),
        problems=(NotFound,),
    ),
    Operation(
        name="rotate_webhook_secret",
        method="POST",
        path=f"{_ONE}/rotate",
        handler=rotate_webhook_secret,
        scope=Scope.ADMIN,
        summary="Give a webhook a new secret; `jobs` names the addresses that jobs bring along",
        tag="webhooks",
        body=RotateBody,
        answer=NewWebhookDocument,
        problems=(NotFound,),
        keeps_secret=True,
    ),
    Operation(
        name="test_webhook",
        method="POST",
        path=f"{_ONE}/test",
        handler=test_webhook,
        scope=Scope.WRITE,
        summary="Send a test message",
        tag="webhooks",
        answer=DeliveryDetail,
        statuses=((202, "On its way"),),
        problems=(NotFound,),
    ),
    Operation(
        name="replay_webhook",
        method="POST",
        path=f"{_ONE}/replay",
        handler=replay_webhook,
        scope=Scope.WRITE,
        summary="Send what a webhook missed in a period again",
        tag="webhooks",
        body=ReplayBody,
        answer=ReplayDocument,
        statuses=((202, "On their way"),),
        problems=(NotFound,),
    ),
    Operation(
        name="list_webhook_deliveries",
        method="GET",
        path=f"{_ONE}/deliveries",
        handler=list_webhook_deliveries,
        scope=Scope.READ,
        summary="List deliveries, newest first; `jobs` lists those to addresses that jobs brought along",
        tag="webhooks",
        query=DeliveriesQuery,
        answer=DeliveryPage,
        problems=(NotFound,),
    ),
    Operation(
        name="get_webhook_delivery",
        method="GET",
        path=_DELIVERY,
        handler=get_webhook_delivery,
        scope=Scope.READ,
        summary="Show a delivery: what was sent, and every try",
        tag="webhooks",
        answer=DeliveryDetail,
        problems=(NotFound,),
    ),
    Operation(
        name="redeliver_webhook_delivery",
        method="POST",
        path=f"{_DELIVERY}/redeliver",
        handler=redeliver_webhook_delivery,
        scope=Scope.WRITE,
        summary="Send a delivery again at once, with the same id and body",
        tag="webhooks",
        answer=DeliveryDetail,
        statuses=((202, "On its way"),),
        problems=(NotFound,),
    ),
)

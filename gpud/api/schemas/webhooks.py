"""Webhooks and their deliveries as the API shows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from gpud.api.schemas.base import Document, PageQuery, Timestamp, timestamp, timestamp_or_none
from gpud.core.webhook import DeliveryState, WebhookFormat, WebhookType, type_fault
from gpud.core.webhook_guard import URL_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.ports.webhooks import Attempt, Delivery, Webhook


def _legal_type(pattern: str) -> str:
    fault = type_fault(pattern)
    if fault:
        raise ValueError(fault)
    return pattern


TypeText = Annotated[str, AfterValidator(_legal_type), Field(max_length=40)]
Url = Annotated[str, Field(min_length=1, max_length=URL_CHARACTERS_MAX)]
EndpointText = Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]{0,39})?$")]
Description = Annotated[str, Field(max_length=200)]
Types = Annotated[tuple[TypeText, ...], Field(min_length=1, max_length=20)]


class WebhookBody(Document):
    """A webhook to make."""

    url: Url
    """Where calls go: `https://…`. Private addresses and plain http need a setting of gpud.toml."""
    types: Types = ("*",)
    """What it is told: types such as `worker.failed`, families such as `job.*`, or `*`."""
    endpoint: EndpointText = ""
    """Only what concerns this endpoint; empty for everything."""
    description: Description = ""
    """For people."""


class WebhookChange(Document):
    """What to change of a webhook; what is left out stays."""

    url: Url | None = None
    types: Types | None = None
    endpoint: EndpointText | None = None
    description: Description | None = None
    enabled: bool | None = None
    """False stops calls and drops what waits; true begins anew."""


class WebhookDocument(Document):
    """A webhook, without its secret."""

    id: str
    url: str
    types: tuple[str, ...]
    endpoint: str
    description: str
    enabled: bool
    disabled_reason: str
    """Why nothing is sent; empty while something is."""
    failures: int
    """Failed calls since the last good one."""
    failing_since: Timestamp | None
    old_secret_until: Timestamp | None
    """Until when calls are signed with the secret before the last rotation as well."""
    created_at: Timestamp


class NewWebhookDocument(WebhookDocument):
    """A webhook that was just made, or whose secret was just changed."""

    secret: str | None
    """`whsec_…`: what receivers verify signatures with. Shown this once, and null when the answer is
    repeated for an Idempotency-Key."""


class WebhookPage(Document):
    """Webhooks, oldest first."""

    items: tuple[WebhookDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class RotateBody(Document):
    """How a secret is rotated."""

    overlap_s: Annotated[float, Field(ge=0, le=604_800)] = 86_400.0
    """How long calls are signed with the old secret as well, so that receivers can change over."""


class ReplayBody(Document):
    """Which messages are sent again."""

    since: Timestamp
    """Those of this moment and later."""
    until: Timestamp | None = None
    """Those before this moment; leave it out for now."""
    all: bool = False
    """Also those that were delivered."""


class ReplayDocument(Document):
    """What a replay began."""

    replayed: int
    """How many messages are sent again."""


class DeliveriesQuery(PageQuery):
    """Which deliveries are listed."""

    state: DeliveryState | None = None
    """Only those in this state."""


class DeliveryDocument(Document):
    """One message on its way to one webhook."""

    id: str
    """The message's id: the header `webhook-id` of every try."""
    webhook_id: str
    type: WebhookType
    endpoint: str
    url: str
    format: WebhookFormat
    state: DeliveryState
    """`waiting` for its next try, `delivered`, `failed` (its tries are used up), or `dropped` (the webhook
    was disabled)."""
    attempts: int
    next_at: Timestamp | None
    """When it is tried next; null unless it is waiting."""
    created_at: Timestamp


class AttemptDocument(Document):
    """One try."""

    number: int
    at: Timestamp
    took_ms: int
    status: int | None
    """Of the answer; null when there was none."""
    error: str
    answer: str
    """First 64 KiB of the answer's body, of the last try only."""


class DeliveryDetail(DeliveryDocument):
    """A delivery with what was sent, and every try."""

    body: Any
    """What was sent, as JSON."""
    log: tuple[AttemptDocument, ...]


class DeliveryPage(Document):
    """Deliveries, newest first."""

    items: tuple[DeliveryDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


def webhook_document(webhook: Webhook) -> WebhookDocument:
    """Show a webhook."""
    return WebhookDocument(
        id=webhook.id,
        url=webhook.url,
        types=webhook.types,
        endpoint=webhook.endpoint,
        description=webhook.description,
        enabled=not webhook.disabled_reason,
        disabled_reason=webhook.disabled_reason,
        failures=webhook.failures,
        failing_since=timestamp_or_none(webhook.failing_since_ms),
        old_secret_until=timestamp_or_none(webhook.old_secret_until_ms),
        created_at=timestamp(webhook.created_at_ms),
    )


def delivery_document(delivery: Delivery) -> DeliveryDocument:
    """Show a delivery."""
    waiting = delivery.state is DeliveryState.WAITING
    return DeliveryDocument(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        type=delivery.kind,
        endpoint=delivery.endpoint,
        url=delivery.url,
        format=delivery.format,
        state=delivery.state,
        attempts=delivery.attempts,
        next_at=timestamp(delivery.next_at_ms) if waiting else None,
        created_at=timestamp(delivery.created_at_ms),
    )


def delivery_detail(delivery: Delivery, attempts: Sequence[Attempt]) -> DeliveryDetail:
    """Show a delivery with its body and its tries."""
    return DeliveryDetail(
        **dict(delivery_document(delivery)),
        body=json.loads(delivery.body),
        log=tuple(
            AttemptDocument(
                number=one.number,
                at=timestamp(one.at_ms),
                took_ms=one.took_ms,
                status=one.status or None,
                error=one.error,
                answer=one.answer.decode("utf-8", "replace"),
            )
            for one in attempts
        ),
    )

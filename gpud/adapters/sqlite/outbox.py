"""Puts messages in the outbox, inside the transaction of what they tell of."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite.statements import SQL
from gpud.core.records import EventRecorded
from gpud.core.webhook import (
    JOBS,
    DeliveryState,
    WebhookFormat,
    WebhookMessage,
    destination_of,
    message_id,
    standard_body,
    type_of_event,
    wants,
)

if TYPE_CHECKING:
    import sqlite3

    from gpud.core.records import FleetChange


def put_message(
    message: WebhookMessage, connection: sqlite3.Connection, *, now_ms: int, webhook_id: str = ""
) -> int:
    """Put a message in the outbox of every webhook that wants it; returns how many were new.

    Call it in the transaction that writes what the message tells of, and tell the dispatcher
    after its commit (`SqliteWebhookStore.note_put`).

    Args:
        message: What is told.
        connection: In the transaction.
        now_ms: The store's timeline: from now on it is due.
        webhook_id: Only this subscription's; empty for all, and the address of the job.
    """
    body = b""
    put = 0
    for row in connection.execute(SQL["webhooks_all"]):
        if webhook_id and row["id"] != webhook_id:
            continue
        if row["endpoint"] not in ("", message.endpoint) or not wants(json.loads(row["types"]), message.kind):
            continue
        body = body or standard_body(message, _rfc_3339(message.at_ms))
        # What a disabled one misses can be replayed to it.
        state = DeliveryState.DROPPED if row["disabled_reason"] and not webhook_id else DeliveryState.WAITING
        params = _params(message, row["id"], row["url"], body, now_ms) | {"state": state}
        put += connection.execute(SQL["webhook_deliver"], params).rowcount
    if message.job_url and not webhook_id:
        if message.job_format is WebhookFormat.RUNPOD:
            body = message.runpod_body
        else:
            body = body or standard_body(message, _rfc_3339(message.at_ms))
        params = _params(message, JOBS, message.job_url, body, now_ms) | {"format": message.job_format}
        put += connection.execute(SQL["webhook_deliver"], params).rowcount
    return put


def calls_out(change: FleetChange) -> bool:
    """Whether a change is an event that webhooks may be called for."""
    return isinstance(change, EventRecorded) and type_of_event(change.kind, change.facts) is not None


def put_event(event: EventRecorded, seq: int, connection: sqlite3.Connection, *, now_ms: int) -> int:
    """Put a recorded event in the outbox, if anybody is called for its kind."""
    kind = type_of_event(event.kind, event.facts)
    if kind is None:
        return 0
    data: dict[str, object] = {**event.facts, "event": event.kind}
    if event.worker_id:
        data["worker_id"] = event.worker_id
    message = WebhookMessage(
        kind=kind,
        subject=f"event {seq}",
        endpoint=event.endpoint,
        at_ms=event.at_ms,
        sequence=seq,
        data=data,
    )
    return put_message(message, connection, now_ms=now_ms)


def _params(message: WebhookMessage, webhook_id: str, url: str, body: bytes, now_ms: int) -> dict[str, Any]:
    return {
        "id": message_id(webhook_id, message),
        "webhook_id": webhook_id,
        "kind": message.kind,
        "endpoint": message.endpoint,
        "url": url,
        "destination": destination_of(url),
        "format": WebhookFormat.STANDARD,
        "state": DeliveryState.WAITING,
        "created_at_ms": message.at_ms,
        "now_ms": now_ms,
        "body": body,
    }


def _rfc_3339(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

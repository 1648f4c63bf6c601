"""Webhook subscriptions, the outbox and the delivery log, on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite import rows
from gpud.adapters.sqlite.outbox import put_message
from gpud.adapters.sqlite.sealing import WEBHOOK
from gpud.adapters.sqlite.statements import SQL
from gpud.core.records import EventRecorded
from gpud.core.webhook import (
    JOBS,
    DeliveryState,
    WebhookFormat,
    WebhookHealth,
    WebhookMessage,
    WebhookType,
    after_call,
    destination_of,
    disabled_for,
)
from gpud.ports.webhooks import Attempt, Delivery, Webhook

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from gpud.adapters.sqlite.committer import GroupCommitter
    from gpud.adapters.sqlite.hops import Read
    from gpud.adapters.sqlite.sealing import Sealer
    from gpud.core.webhook import CallOutcome, Verdict

_FAR_FUTURE = 1 << 62


class SqliteWebhookStore:
    """Subscriptions and the outbox (port `WebhookStore`)."""

    def __init__(
        self, committer: GroupCommitter, read: Read, sealer: Sealer, now_ms: Callable[[], int]
    ) -> None:
        self._committer = committer
        self._read = read
        self._sealer = sealer
        self.now_ms = now_ms
        self._told: Callable[[], None] | None = None
        self._put_in_batch = False

    def on_put(self, told: Callable[[], None]) -> None:
        """Have `told` called whenever the outbox got something new."""
        self._told = told

    def note_put(self, put: int) -> None:
        """Say that so many messages were committed to the outbox."""
        if put and self._told is not None:
            self._told()

    def note_in_batch(self) -> None:
        """Say that the transaction that is open put messages in the outbox; from the store's thread."""
        self._put_in_batch = True

    def batch_committed(self) -> None:
        """Tell what was put in the transactions that are committed now."""
        if self._put_in_batch:
            self._put_in_batch = False
            self.note_put(1)

    async def add(self, webhook: Webhook, secret: str) -> None:
        """Store a subscription."""
        params = _webhook_params(webhook) | self._sealed(webhook.id, secret)
        await self._committer.write(lambda connection: _run("webhook_insert", params, connection))

    async def change(self, webhook: Webhook) -> bool:
        """Store what may change; False when it is gone."""
        params = _webhook_params(webhook)

        def change(connection: sqlite3.Connection) -> bool:
            if webhook.disabled_reason:
                _run("webhook_deliveries_drop", {"webhook_id": webhook.id}, connection)
            return _run("webhook_change", params, connection) == 1

        return await self._committer.write(change)

    async def rotate(self, webhook_id: str, secret: str, *, old_until_ms: int, at_ms: int) -> bool:
        """Sign with a new secret, and with the present one until `old_until_ms`; False when it is gone."""
        sealed = self._sealed(webhook_id, secret)
        params = {"id": webhook_id, "old_secret_until_ms": old_until_ms, **sealed}

        def rotate(connection: sqlite3.Connection) -> bool:
            if _run("webhook_rotate", params, connection) == 1:
                return True
            if webhook_id != JOBS:
                return False
            signer = Webhook(id=JOBS, url="", types=(), created_at_ms=at_ms)
            return _run("webhook_insert", _webhook_params(signer) | sealed, connection) == 1

        return await self._committer.write(rotate)

    async def delete(self, webhook_id: str) -> bool:
        """Forget a subscription and what it was still to be told."""

        def delete(connection: sqlite3.Connection) -> bool:
            _run("webhook_deliveries_delete", {"webhook_id": webhook_id}, connection)
            return _run("webhook_delete", {"id": webhook_id}, connection) == 1

        return await self._committer.write(delete)

    async def webhook(self, webhook_id: str) -> Webhook | None:
        """One subscription."""
        row = await self._row("webhook_read", {"id": webhook_id})
        return _webhook_of(row) if row else None

    async def webhooks(self) -> tuple[Webhook, ...]:
        """Every subscription, oldest first, without `jobs`."""
        return tuple(map(_webhook_of, await self._rows("webhooks_all", {})))

    async def secrets(self, webhook_id: str) -> tuple[str, ...]:
        """What its calls are signed with now: the present secret first.

        Raises:
            StoreUnusable: It cannot be decrypted under the present master key.
        """
        row = await self._row("webhook_read", {"id": webhook_id})
        if row is None:
            return ()
        sealed = [(row["secret_nonce"], row["secret_sealed"])]
        if row["old_secret_nonce"] is not None and self.now_ms() < row["old_secret_until_ms"]:
            sealed.append((row["old_secret_nonce"], row["old_secret_sealed"]))
        return tuple(
            self._sealer.unseal(nonce, text, kind=WEBHOOK, name=webhook_id) for nonce, text in sealed
        )

    async def put(self, message: WebhookMessage, *, webhook_id: str = "") -> int:
        """Put a message in the outbox; how many were new."""
        put = await self._committer.write(
            lambda connection: put_message(message, connection, now_ms=self.now_ms(), webhook_id=webhook_id)
        )
        self.note_put(put)
        return put

    async def due(self) -> tuple[tuple[str, int, int], ...]:
        """Every destination with something waiting: its earliest (destination, next_at_ms, delay_ms)."""

        def read(connection: sqlite3.Connection) -> tuple[tuple[str, int, int], ...]:
            found = []
            for (destination,) in connection.execute(SQL["webhook_destinations"]).fetchall():
                params = {"destination": destination, "limit": 1}
                row = connection.execute(SQL["webhook_deliveries_next"], params).fetchone()
                found.append((destination, row["next_at_ms"], row["delay_ms"]))
            return tuple(found)

        return await self._read(read)

    async def take(self, destination: str, *, limit: int) -> tuple[Delivery, ...]:
        """What waits for a destination, earliest first."""
        params = {"destination": destination, "limit": limit}
        return tuple(map(_delivery_of, await self._rows("webhook_deliveries_next", params)))

    async def settle(self, delivery: Delivery, outcome: CallOutcome, verdict: Verdict, *, at_ms: int) -> str:
        """Write what a try came to, in one transaction; returns why its subscription was disabled by it."""
        now_ms, delay_ms = self.now_ms(), round(verdict.delay_s * 1000)
        moved = {
            "id": delivery.id,
            "attempts": delivery.attempts,
            "state": verdict.state,
            "next_at_ms": now_ms + delay_ms,
            "delay_ms": delay_ms,
        }
        tried = {
            "delivery_id": delivery.id,
            "number": delivery.attempts + 1,
            "at_ms": at_ms,
            "took_ms": outcome.took_ms,
            "status": outcome.status,
            "error": outcome.error,
            "answer": outcome.answer,
        }

        def settle(connection: sqlite3.Connection) -> str:
            # Deleted meanwhile: then there is nothing to write to.
            if _run("webhook_delivery_settle", moved, connection) != 1:
                return ""
            _run("webhook_attempt_insert", tried, connection)
            _run("webhook_answers_trim", tried, connection)
            return _note_health(delivery, outcome, verdict, (at_ms, now_ms), connection)

        return await self._committer.write(settle)

    async def delivery(self, webhook_id: str, delivery_id: str) -> Delivery | None:
        """One delivery of a subscription."""
        row = await self._row("webhook_delivery_read", {"id": delivery_id, "webhook_id": webhook_id})
        return _delivery_of(row) if row else None

    async def deliveries(
        self, webhook_id: str, *, state: str = "", before: tuple[int, str] = (0, ""), limit: int = 100
    ) -> tuple[Delivery, ...]:
        """Deliveries of a subscription, newest first, those before `(created_at_ms, id)`."""
        params = {
            "webhook_id": webhook_id,
            "state": state,
            "before_ms": before[0] or _FAR_FUTURE,
            "before_id": before[1],
            "limit": limit,
        }
        return tuple(map(_delivery_of, await self._rows("webhook_deliveries_page", params)))

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """The log of a delivery, first try first."""
        found = await self._rows("webhook_attempts", {"delivery_id": delivery_id})
        return [Attempt(**dict(row)) for row in found]

    async def redeliver(self, webhook_id: str, delivery_id: str) -> bool:
        """Begin a delivery's schedule anew, whatever became of it; False when there is none."""
        params = {"id": delivery_id, "webhook_id": webhook_id, "now_ms": self.now_ms()}
        begun = await self._committer.write(lambda connection: _run("webhook_redeliver", params, connection))
        self.note_put(begun)
        return begun == 1

    async def replay(self, webhook_id: str, *, since_ms: int, until_ms: int, every: bool) -> int:
        """Begin the schedules of a period anew; how many."""
        params = {
            "webhook_id": webhook_id,
            "since_ms": since_ms,
            "until_ms": until_ms,
            "every": every,
            "now_ms": self.now_ms(),
        }
        begun = await self._committer.write(lambda connection: _run("webhook_replay", params, connection))
        self.note_put(begun)
        return begun

    async def forget(self, *, before_ms: int) -> int:
        """Drop a batch of deliveries that ended before this moment of the timeline; how many."""
        params = {"before_ms": before_ms}
        return await self._committer.write(
            lambda connection: _run("webhook_deliveries_forget", params, connection)
        )

    def _sealed(self, webhook_id: str, secret: str) -> dict[str, bytes]:
        nonce, sealed = self._sealer.seal(secret, kind=WEBHOOK, name=webhook_id)
        return {"secret_nonce": nonce, "secret_sealed": sealed}

    async def _row(self, statement: str, params: dict[str, Any]) -> sqlite3.Row | None:
        return next(iter(await self._rows(statement, params)), None)

    async def _rows(self, statement: str, params: dict[str, Any]) -> list[sqlite3.Row]:
        return await self._read(lambda connection: connection.execute(SQL[statement], params).fetchall())


def _run(statement: str, params: dict[str, Any], connection: sqlite3.Connection) -> int:
    return connection.execute(SQL[statement], params).rowcount


def _note_health(
    delivery: Delivery,
    outcome: CallOutcome,
    verdict: Verdict,
    moment: tuple[int, int],
    connection: sqlite3.Connection,
) -> str:
    at_ms, now_ms = moment  # for people, and for decisions
    row = connection.execute(SQL["webhook_read"], {"id": delivery.webhook_id}).fetchone()
    if row is None or row["id"] == JOBS:
        return ""
    before = WebhookHealth(failing_since_ms=row["failing_since_ms"], failures=row["failures"])
    health = after_call(before, good=outcome.good, at_ms=now_ms)
    reason = disabled_for(verdict, health, at_ms=now_ms)
    well = {
        "id": delivery.webhook_id,
        "failing_since_ms": health.failing_since_ms,
        "failures": health.failures,
        "disabled_reason": reason,
    }
    _run("webhook_health_write", well, connection)
    if reason and not row["disabled_reason"]:
        _run("webhook_deliveries_drop", {"webhook_id": delivery.webhook_id}, connection)
        facts: dict[str, object] = {
            "webhook_id": delivery.webhook_id,
            "destination": delivery.destination,
            "reason": reason,
        }
        event = EventRecorded(kind="webhook.disabled", at_ms=at_ms, endpoint=row["endpoint"], facts=facts)
        _run("event_insert", rows.event_params(event), connection)
    return reason


def _webhook_params(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "destination": destination_of(webhook.url),
        "types": rows.to_json(webhook.types),
        "endpoint": webhook.endpoint,
        "description": webhook.description,
        "created_at_ms": webhook.created_at_ms,
        "disabled_reason": webhook.disabled_reason,
    }


def _webhook_of(row: sqlite3.Row) -> Webhook:
    return Webhook(
        id=row["id"],
        url=row["url"],
        types=tuple(json.loads(row["types"])),
        endpoint=row["endpoint"],
        description=row["description"],
        created_at_ms=row["created_at_ms"],
        old_secret_until_ms=row["old_secret_until_ms"],
        disabled_reason=row["disabled_reason"],
        failing_since_ms=row["failing_since_ms"],
        failures=row["failures"],
    )


def _delivery_of(row: sqlite3.Row) -> Delivery:
    return Delivery(
        id=row["id"],
        webhook_id=row["webhook_id"],
        kind=WebhookType(row["kind"]),
        endpoint=row["endpoint"],
        url=row["url"],
        destination=row["destination"],
        format=WebhookFormat(row["format"]),
        state=DeliveryState(row["state"]),
        created_at_ms=row["created_at_ms"],
        body=row["body"],
        attempts=row["attempts"],
        tries=row["tries"],
        next_at_ms=row["next_at_ms"],
        delay_ms=row["delay_ms"],
    )

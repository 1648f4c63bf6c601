"""Delivers the outbox: claims what is due, calls the receivers, and writes down what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core.webhook import (
    JOBS,
    DeliveryState,
    WebhookFormat,
    slots,
    verdict_on,
    wait_s,
)
from gpud.errors import GpudError

if TYPE_CHECKING:
    from gpud.core.webhook import CallOutcome, Verdict
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.webhooks import Delivery, WebhookSender, WebhookSigner, WebhookStore

log = structlog.get_logger(__name__)

_IN_FLIGHT_MAX = 512
"""Calls at once to everybody; a dead destination holds one of them, for 15 s."""
_LOOK_AT_LEAST_EVERY_S = 30.0
_STORE_RETRY_S = 1.0
_FORGET_EVERY_S = 600.0
_REMEMBERED_MAX = 4096
"""Destinations in trouble that are remembered as such."""


class WebhookDispatcher:
    """One task that looks what is due, and one task a call.

    The rows are the only state that counts: a call that a crash interrupts is made again, and
    receivers know it by its id.

    Args:
        store: Subscriptions and outbox.
        sender: Calls receivers.
        signer: Signs.
        clock: Durations by the loop's time, labels by the wall's; what is due, by the store's timeline.
        ids: For jitter.
        retention_s: How long ended deliveries are kept for the log and for replays.
    """

    def __init__(
        self,
        *,
        store: WebhookStore,
        sender: WebhookSender,
        signer: WebhookSigner,
        clock: Clock,
        ids: IdSource,
        retention_s: float,
    ) -> None:
        self._store = store
        self._sender = sender
        self._signer = signer
        self._clock = clock
        self._ids = ids
        self._retention_s = retention_s
        self._wake = asyncio.Event()
        self._tasks: asyncio.TaskGroup
        self._calls: set[str] = set()
        self._at: dict[str, set[str]] = {}
        self._failures: dict[str, int] = {}
        store.on_put(self._wake.set)

    async def run(self) -> None:
        """Deliver until cancelled; calls under way are then broken off, and made again later."""
        forget_s = self._clock.now_s()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                self._wake.clear()
                try:
                    sleep_s = await self._begin_due()
                    if self._clock.now_s() >= forget_s:
                        more = await self._forget()
                        forget_s = self._clock.now_s() + (1.0 if more else _FORGET_EVERY_S)
                except GpudError as error:
                    # A full disk, or a store that is closing: the rows wait, and so do their calls.
                    log.warning("webhook.store_unavailable", error=error.detail)
                    sleep_s = _STORE_RETRY_S
                try:
                    async with asyncio.timeout(sleep_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _begin_due(self) -> float:
        """Begin every call that is due and has a slot; returns when to look again."""
        look_again_s = _LOOK_AT_LEAST_EVERY_S
        now_ms = self._store.now_ms()
        for destination, next_at_ms, delay_ms in await self._store.due():
            until_s = wait_s(next_at_ms=next_at_ms, delay_ms=delay_ms, now_ms=now_ms)
            if until_s > 0:
                look_again_s = min(look_again_s, until_s)
                continue
            look_again_s = min(look_again_s, await self._begin_for(destination, now_ms))
        return look_again_s

    async def _begin_for(self, destination: str, now_ms: int) -> float:
        busy = self._at.get(destination, ())
        room = min(
            slots(failures_in_a_row=self._failures.get(destination, 0)) - len(busy),
            _IN_FLIGHT_MAX - len(self._calls),
        )
        if room <= 0:
            return _LOOK_AT_LEAST_EVERY_S  # the end of a call looks again
        return await self._fill(destination, room, frozenset(self._calls), now_ms)

    async def _fill(self, destination: str, room: int, were_called: frozenset[str], now_ms: int) -> float:
        """Begin calls of a destination.

        What was under way when the rows were asked for may have ended since, so its row is old.
        """
        at_once = room + len(self._at.get(destination, ()))
        for delivery in await self._store.take(destination, limit=at_once):
            if delivery.id in were_called or delivery.id in self._calls or room <= 0:
                continue
            until_s = wait_s(next_at_ms=delivery.next_at_ms, delay_ms=delivery.delay_ms, now_ms=now_ms)
            if until_s > 0:
                return until_s
            room -= 1
            self._at.setdefault(destination, set()).add(delivery.id)
            self._calls.add(delivery.id)
            self._tasks.create_task(self._call(delivery), name=f"webhook-{delivery.id}")
        return _LOOK_AT_LEAST_EVERY_S

    def _ended(self, delivery: Delivery) -> None:
        self._calls.discard(delivery.id)
        busy = self._at[delivery.destination]
        busy.discard(delivery.id)
        if not busy:
            del self._at[delivery.destination]
        self._wake.set()

    async def _call(self, delivery: Delivery) -> None:
        try:
            await self._settle(delivery, await self._send(delivery))
        except GpudError as error:
            # Not written, so the row still waits and the call is made again; not at once, though.
            log.warning("webhook.not_settled", delivery=delivery.id, error=error.detail)
            await asyncio.sleep(_STORE_RETRY_S)
        finally:
            self._ended(delivery)

    async def _send(self, delivery: Delivery) -> CallOutcome:
        headers: dict[str, str] = {}
        if delivery.format is WebhookFormat.STANDARD:
            at_ms = self._clock.at_ms()
            secrets = await self._secrets(delivery.webhook_id)
            headers = self._signer.headers(secrets, message_id=delivery.id, at_ms=at_ms, body=delivery.body)
        return await self._sender.post(delivery.url, delivery.body, headers)

    async def _secrets(self, webhook_id: str) -> tuple[str, ...]:
        secrets = await self._store.secrets(webhook_id)
        if not secrets and webhook_id == JOBS:
            at_ms = self._clock.at_ms()
            await self._store.rotate(JOBS, self._signer.new_secret(), old_until_ms=0, at_ms=at_ms)
            secrets = await self._store.secrets(webhook_id)
        return secrets

    async def _settle(self, delivery: Delivery, outcome: CallOutcome) -> None:
        at_ms = self._clock.at_ms()
        verdict = verdict_on(
            outcome,
            spelling=delivery.format,
            tries=delivery.tries + 1,
            at_ms=at_ms,
            jitter=self._ids.fraction(),
        )
        if outcome.good:
            self._failures.pop(delivery.destination, None)
        else:
            if len(self._failures) >= _REMEMBERED_MAX:
                self._failures.clear()
            self._failures[delivery.destination] = self._failures.get(delivery.destination, 0) + 1
        reason = await self._store.settle(delivery, outcome, verdict, at_ms=at_ms)
        _tell(delivery, outcome, verdict, reason)

    async def _forget(self) -> bool:
        before_ms = self._store.now_ms() - round(self._retention_s * 1000)
        return await self._store.forget(before_ms=before_ms) > 0


def _tell(delivery: Delivery, outcome: CallOutcome, verdict: Verdict, reason: str) -> None:
    facts = {
        "delivery": delivery.id,
        "webhook": delivery.webhook_id,
        "destination": delivery.destination,
        "status": outcome.status,
        "took_ms": outcome.took_ms,
    }
    if verdict.state is DeliveryState.DELIVERED:
        log.info("webhook.delivered", **facts)
    elif verdict.state is DeliveryState.WAITING:
        log.info("webhook.refused", error=outcome.error, again_in_s=round(verdict.delay_s, 1), **facts)
    else:
        log.warning("webhook.given_up", error=outcome.error, disabled=bool(reason), **facts)

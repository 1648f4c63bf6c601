"""What the API may do with webhooks: subscribe, change, rotate, test, deliver again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.webhook import JOBS, WebhookMessage, WebhookType, message_id
from gpud.errors import Conflict, InvalidRequest, NotFound
from gpud.ports.webhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.ports.time import Clock, IdSource
    from gpud.ports.webhooks import Attempt, Delivery, WebhookSender, WebhookSigner, WebhookStore

WEBHOOKS_MAX = 200
OVERLAP_S = 86_400.0
"""How long calls are signed with the secret before as well."""

_DISABLED = "Disabled by its owner."


class WebhookControl:
    """The one door to webhooks.

    Args:
        store: Subscriptions and outbox.
        sender: Judges addresses.
        signer: Makes secrets.
        clock: For labels.
        ids: For ids.
    """

    def __init__(
        self,
        *,
        store: WebhookStore,
        sender: WebhookSender,
        signer: WebhookSigner,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._store = store
        self._sender = sender
        self._signer = signer
        self._clock = clock
        self._ids = ids

    def url_fault(self, url: str) -> str:
        """What is wrong with an address that a job brings along; empty when nothing is seen yet."""
        return self._sender.url_fault(url)

    async def list(self) -> tuple[Webhook, ...]:
        """Every subscription, oldest first."""
        return tuple(map(self._shown, await self._store.webhooks()))

    async def get(self, webhook_id: str) -> Webhook:
        """One subscription.

        Raises:
            NotFound: There is none.
        """
        found = await self._store.webhook(webhook_id)
        if found is None:
            raise NotFound(f"There is no webhook {webhook_id[:100]!r}. GET /v1/webhooks lists them.")
        return self._shown(found)

    async def create(
        self, *, url: str, types: Sequence[str], endpoint: str, description: str
    ) -> tuple[Webhook, str]:
        """Subscribe an address; returns the subscription and its secret, which is shown this once.

        Raises:
            InvalidRequest: The address must not be called.
            Conflict: There are too many.
        """
        await self._judge(url)
        if len(await self._store.webhooks()) >= WEBHOOKS_MAX:
            raise Conflict(f"There are {WEBHOOKS_MAX} webhooks already. Delete one first.")
        webhook = Webhook(
            id=self._ids.new_id("whk"),
            url=url,
            types=tuple(types),
            endpoint=endpoint,
            description=description,
            created_at_ms=self._clock.at_ms(),
        )
        secret = self._signer.new_secret()
        await self._store.add(webhook, secret)
        return webhook, secret

    async def change(
        self,
        webhook_id: str,
        *,
        url: str | None,
        types: Sequence[str] | None,
        endpoint: str | None,
        description: str | None,
        enabled: bool | None,
    ) -> Webhook:
        """Change what is given; what is None stays.

        Raises:
            NotFound: There is none.
            InvalidRequest: The address must not be called.
        """
        before = await self.get(webhook_id)
        if url is not None:
            await self._judge(url)
        reason = before.disabled_reason
        if enabled is not None:
            reason = "" if enabled else reason or _DISABLED
        after = replace(
            before,
            url=before.url if url is None else url,
            types=before.types if types is None else tuple(types),
            endpoint=before.endpoint if endpoint is None else endpoint,
            description=before.description if description is None else description,
            disabled_reason=reason,
        )
        await self._store.change(after)
        return await self.get(webhook_id)

    async def delete(self, webhook_id: str) -> None:
        """Forget a subscription and its deliveries.

        Raises:
            NotFound: There is none.
        """
        await self._require(webhook_id)
        await self._store.delete(webhook_id)

    async def rotate(self, webhook_id: str, *, overlap_s: float = OVERLAP_S) -> tuple[Webhook, str]:
        """Give a subscription, or the jobs' addresses, a new secret; returns it, this once.

        Raises:
            NotFound: There is none.
        """
        await self._require(webhook_id)
        secret, at_ms = self._signer.new_secret(), self._clock.at_ms()
        until_ms = self._store.now_ms() + round(overlap_s * 1000)
        await self._store.rotate(webhook_id, secret, old_until_ms=until_ms, at_ms=at_ms)
        return await self.get(webhook_id), secret

    async def test(self, webhook_id: str) -> str:
        """Send a message that tells of nothing; returns its delivery's id.

        Raises:
            NotFound: There is none.
        """
        webhook = await self.get(webhook_id)
        message = WebhookMessage(
            kind=WebhookType.WEBHOOK_TEST,
            subject=self._ids.new_id("test"),
            endpoint=webhook.endpoint,
            at_ms=self._clock.at_ms(),
            data={"webhook_id": webhook_id, "note": "A test that was asked for. Nothing happened."},
        )
        await self._store.put(message, webhook_id=webhook_id)
        return message_id(webhook_id, message)

    async def deliveries(
        self, webhook_id: str, *, state: str, before: tuple[int, str], limit: int
    ) -> tuple[Delivery, ...]:
        """Deliveries, newest first, without their bodies.

        Raises:
            NotFound: There is no such webhook.
        """
        await self._require(webhook_id)
        found = await self._store.deliveries(webhook_id, state=state, before=before, limit=limit)
        return tuple(map(self._shown_delivery, found))

    async def delivery(self, webhook_id: str, delivery_id: str) -> tuple[Delivery, Sequence[Attempt]]:
        """One delivery, with every try.

        Raises:
            NotFound: There is none.
        """
        found = await self._store.delivery(webhook_id, delivery_id)
        if found is None:
            raise NotFound(f"Webhook {webhook_id[:100]!r} has no delivery {delivery_id[:100]!r}.")
        return self._shown_delivery(found), await self._store.attempts(delivery_id)

    async def redeliver(self, webhook_id: str, delivery_id: str) -> None:
        """Send a delivery again at once, with the same id and body.

        Raises:
            NotFound: There is none.
        """
        if not await self._store.redeliver(webhook_id, delivery_id):
            raise NotFound(f"Webhook {webhook_id[:100]!r} has no delivery {delivery_id[:100]!r}.")

    async def replay(self, webhook_id: str, *, since_ms: int, until_ms: int, every: bool) -> int:
        """Send what was not delivered in a period again, or everything; returns how many.

        Raises:
            NotFound: There is no such webhook.
        """
        await self._require(webhook_id)
        until_ms = until_ms or self._clock.at_ms() + 1
        return await self._store.replay(webhook_id, since_ms=since_ms, until_ms=until_ms, every=every)

    async def _require(self, webhook_id: str) -> None:
        if webhook_id != JOBS:
            await self.get(webhook_id)

    def _shown(self, webhook: Webhook) -> Webhook:
        """With the times it has on the store's timeline as wall time, for people."""
        return replace(
            webhook,
            failing_since_ms=self._wall_ms(webhook.failing_since_ms),
            old_secret_until_ms=self._wall_ms(webhook.old_secret_until_ms),
        )

    def _shown_delivery(self, delivery: Delivery) -> Delivery:
        return replace(delivery, next_at_ms=self._wall_ms(delivery.next_at_ms))

    def _wall_ms(self, moment_ms: int) -> int:
        return max(1, self._clock.at_ms() - (self._store.now_ms() - moment_ms)) if moment_ms else 0

    async def _judge(self, url: str) -> None:
        fault = await self._sender.resolved_fault(url)
        if fault:
            raise InvalidRequest(f"url: {fault}.", fields={"url": fault})

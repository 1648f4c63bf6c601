"""Webhooks: who is told, what is still to be said, and how it is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpud.core.webhook import (
        CallOutcome,
        DeliveryState,
        Verdict,
        WebhookFormat,
        WebhookMessage,
        WebhookType,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A subscription; its secrets are asked for apart.

    Args:
        id: `whk_…`; `jobs` for the addresses that jobs bring along.
        endpoint: Only what concerns it; empty for everything.
        types: Types, families or `*`.
        old_secret_until_ms: Until when calls are signed with the secret before as well; 0 if none. As
            `failing_since_ms` a moment of the store's timeline.
        disabled_reason: Why nothing is sent; empty while something is.
    """

    id: str
    url: str
    types: tuple[str, ...]
    endpoint: str = ""
    description: str = ""
    created_at_ms: int = 0
    old_secret_until_ms: int = 0
    disabled_reason: str = ""
    failing_since_ms: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message on its way to one webhook.

    Args:
        id: Also the message's id, which every try repeats.
        webhook_id: Of its subscription, or `jobs`.
        destination: Scheme, host and port: what has its own slots.
        tries: Of its present schedule; `attempts` counts all there ever were.
        next_at_ms: When it is due, or when it ended, on the store's timeline; `delay_ms` is how long was
            to be waited.
    """

    id: str
    webhook_id: str
    kind: WebhookType
    endpoint: str
    url: str
    destination: str
    format: WebhookFormat
    state: DeliveryState
    created_at_ms: int
    body: bytes = field(repr=False)
    attempts: int = 0
    tries: int = 0
    next_at_ms: int = 0
    delay_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a delivery, for its log; `answer` is kept of the last one only."""

    number: int
    at_ms: int
    took_ms: int
    status: int
    error: str
    answer: bytes = field(repr=False)


class WebhookStore(Protocol):
    """Subscriptions and the outbox. Every write is on disk when its await returns."""

    def now_ms(self) -> int:
        """The store's timeline now, which no step of the wall clock moves."""
        ...

    def on_put(self, told: Callable[[], None]) -> None:
        """Have `told` called whenever the outbox got something new."""
        ...

    async def add(self, webhook: Webhook, secret: str) -> None:
        """Store a subscription."""
        ...

    async def change(self, webhook: Webhook) -> bool:
        """Store what may change: address, types, endpoint, description, disabled; False when it is gone."""
        ...

    async def rotate(self, webhook_id: str, secret: str, *, old_until_ms: int, at_ms: int) -> bool:
        """Sign with a new secret, and with the present one until `old_until_ms`; False when it is gone.

        The signer of `jobs` is made when it is missing.
        """
        ...

    async def delete(self, webhook_id: str) -> bool:
        """Forget a subscription and what it was still to be told."""
        ...

    async def webhook(self, webhook_id: str) -> Webhook | None:
        """One subscription."""
        ...

    async def webhooks(self) -> tuple[Webhook, ...]:
        """Every subscription, oldest first, without `jobs`."""
        ...

    async def secrets(self, webhook_id: str) -> tuple[str, ...]:
        """What its calls are signed with now: the present secret first."""
        ...

    async def put(self, message: WebhookMessage, *, webhook_id: str = "") -> int:
        """Put a message in the outbox, to every subscription that wants it or to one; how many were new."""
        ...

    async def due(self) -> tuple[tuple[str, int, int], ...]:
        """Every destination with something waiting: its earliest (destination, next_at_ms, delay_ms)."""
        ...

    async def take(self, destination: str, *, limit: int) -> tuple[Delivery, ...]:
        """What waits for a destination, earliest first."""
        ...

    async def settle(self, delivery: Delivery, outcome: CallOutcome, verdict: Verdict, *, at_ms: int) -> str:
        """Write what a try came to, in one transaction: the log, the delivery, its subscription's health.

        Returns:
            Why the subscription was disabled by it, which also drops what waits for it and records
            an event; empty when it was not.
        """
        ...

    async def delivery(self, webhook_id: str, delivery_id: str) -> Delivery | None:
        """One delivery of a subscription."""
        ...

    async def deliveries(
        self, webhook_id: str, *, state: str = "", before: tuple[int, str] = (0, ""), limit: int = 100
    ) -> tuple[Delivery, ...]:
        """Deliveries of a subscription, newest first, those before `(created_at_ms, id)`; bodies empty."""
        ...

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """The log of a delivery, first try first."""
        ...

    async def redeliver(self, webhook_id: str, delivery_id: str) -> bool:
        """Begin a delivery's schedule anew, whatever became of it; False when there is none."""
        ...

    async def replay(self, webhook_id: str, *, since_ms: int, until_ms: int, every: bool) -> int:
        """Begin the schedules of a period anew: of what was not delivered, or of everything; how many."""
        ...

    async def forget(self, *, before_ms: int) -> int:
        """Drop a batch of deliveries that ended before this moment of the timeline; how many."""
        ...


class WebhookSender(Protocol):
    """Calls receivers, and refuses addresses that must not be called."""

    def url_fault(self, url: str) -> str:
        """What is wrong with an address, without asking anybody; empty when nothing is."""
        ...

    async def resolved_fault(self, url: str) -> str:
        """The same after its name was resolved; a name that does not resolve now is no fault."""
        ...

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> CallOutcome:
        """Call a receiver once; never raises, and follows no redirect."""
        ...


class WebhookSigner(Protocol):
    """Makes secrets and signatures."""

    def new_secret(self) -> str:
        """Make `whsec_` and 32 random bytes in base64."""
        ...

    def headers(self, secrets: Sequence[str], *, message_id: str, at_ms: int, body: bytes) -> dict[str, str]:
        """The headers of Standard Webhooks, one signature for each secret."""
        ...

"""Which events call out, what is said, and when is a call tried again?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DAY_S = 86_400.0
SCHEDULE_S = (0.0, 5.0, 30.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Wait before each try, counted from the one before: three days in all."""
RUNPOD_SCHEDULE_S = (0.0, 10.0, 10.0)
RETRY_AFTER_S_MAX = DAY_S
DISABLE_AFTER_MS = 5 * 86_400_000
"""A subscription that took nothing for this long is disabled."""
DISABLE_FAILURES_MIN = 10
"""So many tries must have failed in that time: a clock that is set forward disables nothing."""
PAYLOAD_BYTES_MAX = 20_000
IN_FLIGHT_MAX = 4
"""Calls at once to one destination."""
TROUBLED_AFTER = 3
"""After so many failures in a row a destination gets one call at a time."""
JOBS = "jobs"
"""In place of a subscription's id: the addresses that jobs bring along."""

_JITTER = 0.2
_MEMBER_BYTES_MAX = 2_000
_GONE = 410


class WebhookType(StrEnum):
    """What a webhook may be told."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_TIMED_OUT = "job.timed_out"
    JOB_DEAD = "job.dead"
    ENDPOINT_SCALED = "endpoint.scaled"
    ENDPOINT_CIRCUIT_OPEN = "endpoint.circuit_open"
    ENDPOINT_ROLLED_BACK = "endpoint.rolled_back"
    WORKER_FAILED = "worker.failed"
    GPU_UNHEALTHY = "gpu.unhealthy"
    BUDGET_THRESHOLD = "budget.threshold"
    WEBHOOK_TEST = "webhook.test"


class WebhookFormat(StrEnum):
    """How a call looks."""

    STANDARD = "standard"
    RUNPOD = "runpod"


class DeliveryState(StrEnum):
    """Where a delivery is: WAITING for its next try, or at one of its ends."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"


_GPU_HEALTH = "gpu.health_changed"
_OF_EVENT = {
    _GPU_HEALTH: WebhookType.GPU_UNHEALTHY,
    "endpoint.scaled": WebhookType.ENDPOINT_SCALED,
    "endpoint.circuit_opened": WebhookType.ENDPOINT_CIRCUIT_OPEN,
    "rollout.rolled_back": WebhookType.ENDPOINT_ROLLED_BACK,
    "worker.failed": WebhookType.WORKER_FAILED,
    "budget.threshold_passed": WebhookType.BUDGET_THRESHOLD,
}


def type_of_event(kind: str, facts: Mapping[str, object]) -> WebhookType | None:
    """The webhook type of a recorded event; None when nobody is called for it."""
    if kind == _GPU_HEALTH and facts.get("health") != "unhealthy":
        return None
    return _OF_EVENT.get(kind)


def events_told() -> dict[str, WebhookType]:
    """The recorded events that call out, and as what."""
    return dict(_OF_EVENT)


def type_fault(pattern: str) -> str:
    """What is wrong with a subscription's type; empty when nothing is.

    Legal are `*`, a family such as `job.*`, and single types.
    """
    families = {f"{one.partition('.')[0]}.*" for one in WebhookType}
    if pattern == "*" or pattern in families or pattern in set(WebhookType):
        return ""
    return f"must be '*', one of {', '.join(sorted(families))}, or a type such as {WebhookType.WORKER_FAILED}"


def wants(patterns: Iterable[str], kind: WebhookType) -> bool:
    """Whether a subscription's types include one; a test reaches every subscription."""
    family = f"{kind.partition('.')[0]}.*"
    return kind is WebhookType.WEBHOOK_TEST or any(one in ("*", family, kind) for one in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookMessage:
    """Something that webhooks are told, once each.

    Args:
        kind: Its type.
        subject: With `kind` it names the happening: putting it in the outbox again adds nothing.
        endpoint: Empty when none is concerned.
        at_ms: Unix wall time of the happening.
        data: JSON-ready values.
        sequence: Grows with each message about the same object, so that receivers can order them.
        job_url: Address that a job brought along; empty when it brought none.
        job_format: How that address is called.
        runpod_body: The job as RunPod posts it, for an address of that format.
    """

    kind: WebhookType
    subject: str
    at_ms: int
    data: Mapping[str, object]
    endpoint: str = ""
    sequence: int = 0
    job_url: str = ""
    job_format: WebhookFormat = WebhookFormat.STANDARD
    runpod_body: bytes = field(default=b"", repr=False)


def message_id(webhook_id: str, message: WebhookMessage) -> str:
    """The id of one message to one webhook: the same each time it is asked for.

    Receivers drop what they had before by this id.
    """
    named = f"{webhook_id}\0{message.kind}\0{message.subject}\0{message.job_url}".encode()
    return f"msg_{hashlib.sha256(named).hexdigest()[:32]}"


def standard_body(message: WebhookMessage, at: str) -> bytes:
    """Spell a message as Standard Webhooks do: `type`, `timestamp`, `data`.

    Large members of `data` are left out and named in `data.omitted`, largest first, until the
    body is at most 20 kB.

    Args:
        message: What is said.
        at: Its time in RFC 3339.
    """
    data: dict[str, object] = {"sequence": message.sequence, **message.data}
    if message.endpoint:
        data.setdefault("endpoint", message.endpoint)
    body = _spelled(message.kind, at, data)
    if len(body) <= PAYLOAD_BYTES_MAX:
        return body
    sizes = {name: len(_json(value)) for name, value in data.items()}
    omitted: list[str] = []
    for name in sorted(sizes, key=lambda one: -sizes[one]):
        if len(body) <= PAYLOAD_BYTES_MAX or sizes[name] < _MEMBER_BYTES_MAX:
            break
        del data[name]
        omitted.append(name)
        body = _spelled(message.kind, at, {**data, "omitted": omitted})
    return body


def _spelled(kind: WebhookType, at: str, data: Mapping[str, object]) -> bytes:
    return _json({"type": kind, "timestamp": at, "data": data})


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What one call came to.

    Args:
        status: Of the answer; 0 when there was none.
        error: Why there was none, or why it does not count; empty when all was well.
        retry_after: The header of that name, as it came.
        answer: First 64 KiB of the answer's body.
        took_ms: From the begin to the end of it.
    """

    status: int = 0
    error: str = ""
    retry_after: str = ""
    answer: bytes = field(default=b"", repr=False)
    took_ms: int = 0

    @property
    def good(self) -> bool:
        """Whether the receiver took it: any 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a delivery after a try.

    Args:
        state: WAITING means that it is tried again.
        delay_s: Until the next try.
        disable: The receiver wants nothing more at all.
    """

    state: DeliveryState
    delay_s: float = 0.0
    disable: bool = False


def verdict_on(
    outcome: CallOutcome, *, spelling: WebhookFormat, tries: int, at_ms: int, jitter: float
) -> Verdict:
    """Decide what becomes of a delivery.

    Args:
        outcome: Of the try that just ended.
        spelling: How it is called.
        tries: How many of its present schedule it had, this one included.
        at_ms: Unix wall time, for a Retry-After that names one.
        jitter: In [0, 1); spreads the wait by a fifth either way.
    """
    if outcome.good:
        return Verdict(state=DeliveryState.DELIVERED)
    if outcome.status == _GONE:
        return Verdict(state=DeliveryState.FAILED, disable=True)
    runpod = spelling is WebhookFormat.RUNPOD
    schedule_s = RUNPOD_SCHEDULE_S if runpod else SCHEDULE_S
    if tries >= len(schedule_s):
        return Verdict(state=DeliveryState.FAILED)
    wished_s = None if runpod else retry_after_s(outcome.retry_after, at_ms=at_ms)
    spread = 1.0 if runpod else 1.0 - _JITTER + 2 * _JITTER * jitter
    delay_s = schedule_s[tries] * spread if wished_s is None else wished_s
    return Verdict(state=DeliveryState.WAITING, delay_s=delay_s)


def retry_after_s(header: str, *, at_ms: int) -> float | None:
    """Read a Retry-After, in seconds or as a date: 1 s to 24 h; None when it says nothing legal."""
    header = header.strip()
    if header.isascii() and header.isdigit():
        wished_s = float(header[:9])
    else:
        try:
            wished_s = parsedate_to_datetime(header).timestamp() - at_ms / 1000
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return min(max(wished_s, 1.0), RETRY_AFTER_S_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookHealth:
    """How a subscription has been doing.

    Args:
        failing_since_ms: On the store's timeline, of the first failure since the last success; 0 when none.
        failures: Since the last success.
    """

    failing_since_ms: int = 0
    failures: int = 0


def after_call(health: WebhookHealth, *, good: bool, at_ms: int) -> WebhookHealth:
    """Count one call."""
    if good:
        return WebhookHealth()
    return WebhookHealth(failing_since_ms=health.failing_since_ms or at_ms, failures=health.failures + 1)


def is_hopeless(health: WebhookHealth, *, at_ms: int) -> bool:
    """Whether a subscription is to be disabled: five days of nothing but failure."""
    long_ago = health.failing_since_ms and at_ms - health.failing_since_ms >= DISABLE_AFTER_MS
    return bool(long_ago) and health.failures >= DISABLE_FAILURES_MIN


def disabled_for(verdict: Verdict, health: WebhookHealth, *, at_ms: int) -> str:
    """Why a subscription is disabled after a call; empty when it is not."""
    if verdict.disable:
        return "It answered 410 Gone, which means that it wants no more calls."
    if is_hopeless(health, at_ms=at_ms):
        return "Every call for five days failed."
    return ""


def destination_of(url: str) -> str:
    """What shares slots: the scheme, host and port of an address, as they are spelled."""
    return "/".join(url.split("?", 1)[0].split("/", 3)[:3]).lower()


def slots(*, failures_in_a_row: int) -> int:
    """How many calls a destination may have at once; a dead one keeps no more than one open."""
    return 1 if failures_in_a_row >= TROUBLED_AFTER else IN_FLIGHT_MAX


def wait_s(*, next_at_ms: int, delay_ms: int, now_ms: int) -> float:
    """How long until a delivery is due, at a moment of the timeline; never longer than was decided."""
    return max(0, min(next_at_ms - now_ms, delay_ms)) / 1000

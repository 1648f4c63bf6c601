"""Keys, registry credentials, usage, events and the daemon itself as the API shows them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gpud.api.schemas.base import (
    Document,
    PageQuery,
    Query,
    Timestamp,
    timestamp,
    timestamp_or_none,
)
from gpud.core.keys import scope_fault
from gpud.core.metering import whole_ms
from gpud.core.usage import FINER_NS
from gpud.ports.store import UsageBy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.ports.control import DaemonHealth
    from gpud.ports.store import ApiKey, EventRow, StoredRegistry, UsageRow
    from gpud.ports.traffic import GatewayReading


def _legal_scope(scope: str) -> str:
    fault = scope_fault(scope)
    if fault:
        raise ValueError(fault)
    return scope


ScopeText = Annotated[
    str,
    AfterValidator(_legal_scope),
    Field(pattern=r"^(admin|read|write|metrics|exec|invoke:(\*|[a-z][a-z0-9-]{0,39}))$"),
]


class KeyBody(Document):
    """A key to make."""

    label: Annotated[str, Field(max_length=100)] = ""
    """For people: who uses it, what for."""
    scopes: Annotated[tuple[ScopeText, ...], Field(min_length=1, max_length=100)]
    """What it may do: `admin`, `read`, `write`, `metrics`, `exec`, `invoke:*`, `invoke:<endpoint>`."""
    expires_at: Timestamp | None = None
    """When it stops working; null for never."""


class KeyDocument(Document):
    """A key, without its secret."""

    id: str
    label: str
    scopes: tuple[str, ...]
    disabled: bool
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None
    """To the minute; null when it was never used."""


class NewKeyDocument(KeyDocument):
    """A key that was just made."""

    token: str | None
    """What clients send as `Authorization: Bearer <token>`. Shown this once, and null when the
    answer is repeated for an Idempotency-Key."""


class OwnKeyDocument(Document):
    """The key that a request was made with."""

    id: str
    """`local` for the administrator at the Unix socket."""
    scopes: tuple[str, ...]
    """What it may do."""


class KeyPage(Document):
    """Every key, oldest first."""

    items: tuple[KeyDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class RegistryBody(Document):
    """A credential for a private registry."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$", max_length=255)]
    """Such as `ghcr.io` or `registry.example.org:5000`."""
    username: Annotated[str, Field(max_length=255)]
    password: Annotated[SecretStr, Field(min_length=1, max_length=8192)]
    """Password or token. Stored encrypted, used for pulls only, never shown again."""


class RegistryDocument(Document):
    """A stored registry credential, without its password."""

    name: str
    host: str
    username: str
    created_at: Timestamp


class RegistryPage(Document):
    """Stored registry credentials by name."""

    items: tuple[RegistryDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class UsageQuery(Query):
    """What a usage report is about."""

    by: UsageBy = UsageBy.ENDPOINT
    """What it has one line for."""
    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only this endpoint's."""
    since: Timestamp | None = None
    """Only time after this."""
    until: Timestamp | None = None
    """Only time before this; leave it out for now."""

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.since and self.until and self.until < self.since:
            raise ValueError("until must not be before since")
        if self.by in FINER_NS and self.since is None:
            raise ValueError(f"a report by {self.by.value} needs since")
        return self


class UsageLine(Document):
    """One line of a usage report."""

    key: str
    """The endpoint, worker, API key, GPU, phase, day (`2026-11-21`), hour (`2026-11-21T14`), minute
    (`2026-11-21T14:05`) or second (`2026-11-21T14:05:09`), UTC. Names in brackets are of what is nobody's,
    such as `(idle)` by key."""
    label: str
    """Of an API key."""
    gpu_ms: int
    """Billable GPU milliseconds: time times GPUs, rounded down."""
    wall_ms: int
    """Billable milliseconds, however many GPUs; what CPU workers have."""
    billed_s: int
    """Seconds of worker sessions, each rounded up once."""
    sessions: int
    phases_ms: dict[str, int]
    """GPU milliseconds by phase, those that are not billed included."""
    cost_micros: int
    """Price of the billable GPU time in millionths of `currency`."""


class UsageTotal(Document):
    """The sums over all lines."""

    gpu_ms: int
    wall_ms: int
    billed_s: int
    sessions: int
    cost_micros: int


class UsageDocument(Document):
    """A usage report; running workers count up to now."""

    by: UsageBy
    since: Timestamp | None
    until: Timestamp
    currency: str
    gpu_hour_micros: int
    """Price of one GPU for one hour where no other applies, in millionths of `currency`."""
    items: tuple[UsageLine, ...]
    total: UsageTotal


class AuditDocument(Document):
    """Whether the books hold."""

    ok: bool
    breaches: tuple[str, ...]
    """One sentence for each invariant that does not hold."""


class EventOrder(StrEnum):
    """Which events come first."""

    NEWEST = "newest"
    OLDEST = "oldest"


class EventsQuery(PageQuery):
    """Which events are asked for."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only this endpoint's."""
    worker: Annotated[str, Field(max_length=40)] = ""
    """Only this worker's."""
    order: EventOrder = EventOrder.NEWEST
    """Which come first."""
    follow: bool = False
    """Answer with server-sent events: those after `cursor` or the header `Last-Event-ID`, else new ones,
    as they are recorded."""


class EventDocument(Document):
    """Something that happened."""

    seq: int
    """Orders events; a later one has a larger number."""
    kind: str
    at: Timestamp
    endpoint: str
    worker_id: str
    facts: dict[str, Any]


class EventPage(Document):
    """Recorded events."""

    items: tuple[EventDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class GatewayDocument(Document):
    """The gateway."""

    connections: int
    """Client connections now."""
    requests: int
    """Requests under way or held now, this one included."""
    statuses: dict[str, int]
    """Answers since the start by status code; 499 counts clients that left before one."""
    loop_lag_ms: float
    """How late the event loop ran its last timed call."""
    loop_lag_ms_max: float
    """How late it was at worst within the last minute: every request waits as long."""


class EngineDocument(Document):
    """The Docker Engine as it was seen last."""

    version: str
    api_version: str
    storage_driver: str
    cgroup_version: str
    runtimes: tuple[str, ...]
    """OCI runtimes it knows."""
    runtime: str
    """The one workers are started with."""
    warnings: tuple[str, ...]
    """What makes starts slower than they need be, or cannot be had with it."""


class SystemDocument(Document):
    """The daemon itself."""

    ready: bool
    version: str
    gpu_source: str
    """`nvml`, `static` (declared by hand, nothing is verified) or `none`."""
    uptime_s: float
    parts: dict[str, str]
    """By part: empty when well, else what is wrong and what to do."""
    engine: EngineDocument | None
    """Null before it ever answered."""
    checkpoints: dict[str, str]
    """`criu` and `cuda_checkpoint`: why it cannot be used here, empty where it can. No checkpoint is kept."""
    gateway: GatewayDocument


class LiveDocument(Document):
    """The process answers."""

    status: str


class ReadyDocument(Document):
    """Whether the daemon can serve and start workers."""

    ready: bool
    parts: dict[str, str]
    """By part: `ok`, or what is wrong; without a key that may read, only `failing`."""


def key_document(key: ApiKey) -> KeyDocument:
    """Show a key."""
    return KeyDocument(
        id=key.id,
        label=key.label,
        scopes=key.scopes,
        disabled=key.disabled,
        created_at=timestamp(key.created_at_ms),
        expires_at=timestamp_or_none(key.expires_at_ms),
        last_used_at=timestamp_or_none(key.last_used_at_ms),
    )


def registry_document(stored: StoredRegistry) -> RegistryDocument:
    """Show a registry credential."""
    return RegistryDocument(
        name=stored.name,
        host=stored.host,
        username=stored.username,
        created_at=timestamp(stored.created_at_ms),
    )


def usage_line(row: UsageRow, *, label: str = "") -> UsageLine:
    """Show a line of a usage report, with its price."""
    return UsageLine(
        key=row.key,
        label=label,
        gpu_ms=whole_ms(row.gpu_ns),
        wall_ms=whole_ms(row.wall_ns),
        billed_s=row.billed_seconds,
        sessions=row.sessions,
        phases_ms={phase: whole_ms(ns) for phase, ns in sorted(row.phases_ns.items())},
        cost_micros=row.cost_micros,
    )


def event_document(row: EventRow) -> EventDocument:
    """Show an event."""
    return EventDocument(
        seq=row.seq,
        kind=row.kind,
        at=timestamp(row.at_ms),
        endpoint=row.endpoint,
        worker_id=row.worker_id,
        facts=dict(row.facts),
    )


def _engine_document(health: DaemonHealth) -> EngineDocument | None:
    engine = health.engine
    if engine is None:
        return None
    return EngineDocument(
        version=engine.version,
        api_version=engine.api_version,
        storage_driver=engine.storage_driver,
        cgroup_version=engine.cgroup_version,
        runtimes=engine.runtimes,
        runtime=engine.runtime or engine.default_runtime,
        warnings=health.engine_warnings,
    )


def system_document(
    health: DaemonHealth, gateway: GatewayReading, checkpoints: Mapping[str, str]
) -> SystemDocument:
    """Show how the daemon is."""
    gateway_document = GatewayDocument(
        connections=gateway.connections,
        requests=gateway.requests,
        statuses={str(status): count for status, count in sorted(gateway.statuses.items())},
        loop_lag_ms=round(gateway.loop_lag_s * 1000, 3),
        loop_lag_ms_max=round(gateway.loop_lag_s_max * 1000, 3),
    )
    return SystemDocument(
        ready=health.ready,
        version=health.version,
        gpu_source=health.gpu_source,
        uptime_s=round(health.uptime_s, 3),
        parts=dict(health.parts),
        engine=_engine_document(health),
        checkpoints=dict(checkpoints),
        gateway=gateway_document,
    )

"""Keys, registry credentials, events and the daemon itself as the API shows them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, SecretStr

from gpud.api.schemas.base import (
    Document,
    PageQuery,
    Timestamp,
    timestamp,
    timestamp_or_none,
)
from gpud.core.keys import scope_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.ports.control import DaemonHealth
    from gpud.ports.store import ApiKey, EventRow, StoredRegistry
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

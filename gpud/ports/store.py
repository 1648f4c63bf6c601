"""What must outlive the process, and how it is read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gpud.core.usage import UsageBy, UsageRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.budget import Used
    from gpud.core.cold_start import ColdStart
    from gpud.core.endpoint import Endpoint
    from gpud.core.gpu import GpuStatus
    from gpud.core.history import ArrivalBatch
    from gpud.core.ids import EndpointName, GpuUuid, KeyId, Revision, WorkerId
    from gpud.core.metering import Segment
    from gpud.core.prediction import Prediction
    from gpud.core.pricing import Tariff
    from gpud.core.records import FleetChange
    from gpud.core.revision import RevisionRecord
    from gpud.core.rollout import Rollout
    from gpud.core.standby import Standby
    from gpud.core.worker import Worker
    from gpud.ports.images import RegistryCredential

__all__ = [
    "AccessStore",
    "ApiKey",
    "EventRow",
    "FleetRows",
    "FleetStore",
    "ReadModel",
    "ReplayedAnswer",
    "StoredRegistry",
    "UsageBy",
    "UsageRow",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRows:
    """What the store knows when the daemon starts.

    Args:
        workers: Not GONE.
        leases: Open ones, as (gpu, worker).
        open_segments: At most one a worker.
        gpu_statuses: Of GPUs whose health was ever not HEALTHY.
        cold_starts: Of each deployed endpoint the newest, as many as a start is compared with; oldest first.
        heartbeat: Last (boot_id, boot_ns, wall_ms), None in a new store.
        revisions: Those an endpoint may go to or come from, and those of live workers.
        revision_numbers: Of every revision there ever was.
        rollouts: Under way, or the last one of an endpoint.
        predictions: What is known of the gaps between an endpoint's requests.
        standbys: All.
        slept: Of each worker that sleeps the number of its next usage segment.
    """

    endpoints: tuple[Endpoint, ...]
    workers: tuple[Worker, ...]
    leases: tuple[tuple[GpuUuid, WorkerId], ...]
    open_segments: tuple[Segment, ...]
    gpu_statuses: tuple[GpuStatus, ...]
    heartbeat: tuple[str, int, int] | None
    revisions: tuple[RevisionRecord, ...] = ()
    revision_numbers: tuple[tuple[EndpointName, Revision, int], ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    predictions: Mapping[EndpointName, Prediction] = field(default_factory=dict)
    standbys: tuple[Standby, ...] = ()
    cold_starts: tuple[ColdStart, ...] = ()
    slept: Mapping[WorkerId, int] = field(default_factory=dict)
    budgets_told: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class FleetStore(Protocol):
    """Durable fleet state. Every write is on disk when its await returns.

    Raises StorageFull when the disk is full (nothing was written, later writes may succeed).
    """

    async def load_fleet(self) -> FleetRows:
        """Read everything the reconciler starts from."""
        ...

    async def revisions(self, endpoint: str) -> tuple[RevisionRecord, ...]:
        """Every revision an endpoint ever had, by number."""
        ...

    async def record(self, changes: Sequence[FleetChange]) -> None:
        """Write changes in one transaction, in order, whole or not at all.

        Raises:
            InvariantBroken: A row is not in the state the change was decided on, or a GPU
                would have two holders.
        """
        ...


Running: TypeAlias = "Mapping[WorkerId, tuple[int, Mapping[str, int]]]"
"""Of each worker with an open segment its number, and the nanoseconds that each API key had of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """A recorded event; `seq` orders and pages."""

    seq: int
    kind: str
    at_ms: int
    endpoint: str
    worker_id: str
    facts: dict[str, object]


class ReadModel(Protocol):
    """Reads for the API; never blocks the writer."""

    async def list_workers(
        self, *, endpoint: str = "", include_gone: bool = False, after: str = "", limit: int = 100
    ) -> tuple[Worker, ...]:
        """Workers by id, newest first; `after` is the last id of the page before."""
        ...

    async def worker(self, worker_id: str) -> Worker | None:
        """One worker, live or gone; None when there never was one, or it is forgotten."""
        ...

    async def list_events(
        self, *, endpoint: str = "", worker_id: str = "", after_seq: int = 0, limit: int = 100
    ) -> tuple[EventRow, ...]:
        """Events in order of `seq`, those above `after_seq`."""
        ...

    async def latest_events(
        self, *, endpoint: str = "", worker_id: str = "", before_seq: int = 0, limit: int = 100
    ) -> tuple[EventRow, ...]:
        """Events newest first, those below `before_seq` (0: from the newest)."""
        ...

    async def cold_starts(self, endpoint: str, *, limit: int = 100) -> tuple[ColdStart, ...]:
        """Starts of an endpoint that ended well, newest first; the newest 500 are kept."""
        ...

    async def usage(
        self,
        *,
        by: UsageBy,
        endpoint: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        tariff: Tariff = ...,
        running: Running | None = None,
    ) -> tuple[UsageRow, ...]:
        """Usage lines; open segments count up to now. `until_ms` 0 means now.

        Args:
            by: What has a line.
            endpoint: Only this one's; empty for all.
            since_ms: Unix wall time.
            until_ms: Unix wall time.
            tariff: What it costs.
            running: What keys had of open segments so far.
        """
        ...

    async def spent(
        self, *, by: UsageBy, since_ms: int, tariff: Tariff = ..., running: Running | None = None
    ) -> Mapping[str, Used]:
        """What each endpoint or key used since a moment; as `usage`, and only what budgets need."""
        ...

    async def segments(
        self,
        *,
        endpoint: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        after: tuple[str, int] = ...,
        limit: int = 100,
    ) -> tuple[Segment, ...]:
        """Closed segments that ended in a period, by worker and number, those behind `after`."""
        ...

    async def arrivals(self, endpoint: str, *, since_ms: int, until_ms: int) -> tuple[ArrivalBatch, ...]:
        """The record of an endpoint's requests, in stretches that reach into a period."""
        ...

    async def starts(
        self, endpoint: str, *, since_ms: int, until_ms: int, woken: bool = False
    ) -> tuple[dict[str, Any], ...]:
        """The phases of each start that ended well in a period, in milliseconds, oldest first.

        `standby` is the rung that it began from, if any. With `woken` of each way back from a rung instead,
        which `rung` names.
        """
        ...

    async def audit(self) -> tuple[str, ...]:
        """Check the metering and lease invariants; one sentence for each breach."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A stored key; the secret itself is not.

    Args:
        scopes: `admin`, `read`, `write`, `metrics`, `invoke:<endpoint>`, `invoke:*`.
        expires_at_ms: 0 for never.
        last_used_at_ms: To the minute; 0 for never.
    """

    id: KeyId
    label: str
    secret_sha256: bytes = field(repr=False)
    scopes: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int = 0
    disabled: bool = False
    last_used_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRegistry:
    """A registry credential as it is listed: without the password."""

    name: str
    host: str
    username: str
    created_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedAnswer:
    """What an Idempotency-Key was answered before."""

    fingerprint: bytes
    status: int
    body: bytes


class AccessStore(Protocol):
    """Keys, registry credentials and replayed answers."""

    async def add_key(self, key: ApiKey) -> None:
        """Store a key.

        Raises:
            Conflict: The id exists.
        """
        ...

    async def list_keys(self) -> tuple[ApiKey, ...]:
        """Every key, oldest first."""
        ...

    async def disable_key(self, key_id: KeyId) -> bool:
        """Disable a key; False when there is none."""
        ...

    async def note_key_use(self, key_id: KeyId, at_ms: int) -> None:
        """Remember when a key was used; callers round to the minute."""
        ...

    async def put_registry(self, name: str, credential: RegistryCredential, at_ms: int) -> None:
        """Store a credential, encrypted; replaces one of that name."""
        ...

    async def list_registries(self) -> tuple[StoredRegistry, ...]:
        """Every credential, by name, without passwords."""
        ...

    async def registry(self, name: str) -> RegistryCredential | None:
        """Read one credential back, for a pull."""
        ...

    async def delete_registry(self, name: str) -> bool:
        """Forget a credential; False when there is none."""
        ...

    async def begin_idempotent(self, scope: str, key: str, fingerprint: bytes) -> ReplayedAnswer | None:
        """Claim an Idempotency-Key, or return what it was answered before.

        Raises:
            Conflict: The first request with this key is still being answered.
            IdempotencyMismatch: The key was used with another request.
        """
        ...

    async def finish_idempotent(self, scope: str, key: str, answer: ReplayedAnswer | None) -> None:
        """Keep the answer; None gives the key up, so that the request may be repeated."""
        ...

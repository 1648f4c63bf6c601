"""What the job queue needs of the store, and what it is told back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpud.core.ids import EndpointName, JobId
    from gpud.core.job import Delivered, Job, Retention
    from gpud.core.ready_jobs import Ready
    from gpud.core.timeline import Anchor
    from gpud.ports.job_usage import JobUsagePage, JobUsageQuery


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Bytes of an input, a result or a progress, and what they are."""

    content: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that was handed out, durably.

    Args:
        job: IN_PROGRESS; `job.deliveries` is the delivery's number.
        payload: Its input.
    """

    job: Job
    payload: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyClaim:
    """A caller's own name for a submission.

    Args:
        scope: Owner and endpoint.
        key: As the caller sent it.
        fingerprint: Of the request.
    """

    scope: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A job's row before and after."""

    before: Job
    after: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One delivery that is over, for people."""

    delivery: int
    attempt: int
    worker_id: str
    started_at_ms: int
    ended_at_ms: int
    ending: str
    reason: str = ""
    error: str = ""
    exit_code: int | None = None
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlace:
    """Behind the n-th stream chunk of a delivery; a later delivery's chunks are counted anew."""

    delivery: int = 0
    n: int = 0

    def after(self, delivery: int) -> int:
        """How many of a delivery's chunks are before it."""
        return self.n if delivery == self.delivery else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTotals:
    """Jobs of one endpoint IN_QUEUE, those of low priority apart."""

    count: int = 0
    low_priority: int = 0
    input_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsAtStart:
    """What the queue starts from.

    Args:
        anchor: Of the job timeline in this boot.
        waiting: Of each endpoint with any.
        totals: Jobs that ever ended, by endpoint and ending.
        scheduled: Of each endpoint, the seqs of those that count and wait for their time.
        group_holders: By endpoint and group key, the job that holds it.
        given_back: What another run of the daemon had under way, now waiting again (or over).
        newest_seq: The highest `seq` any job ever had.
        kept: What goes on at its worker, now leased to this run.
    """

    anchor: Anchor
    waiting: dict[EndpointName, WaitingTotals]
    scheduled: dict[EndpointName, tuple[int, ...]]
    totals: dict[tuple[EndpointName, str], int]
    group_holders: dict[tuple[EndpointName, str], int]
    given_back: tuple[Change, ...]
    newest_seq: int = 0
    kept: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs to list, newest first.

    Args:
        owner: Only that key's; None for everybody's.
        before_seq: Only older ones.
        dead: Only dead letters.
    """

    endpoint: EndpointName | None = None
    owner: str | None = None
    state: str | None = None
    dead: bool = False
    before_seq: int = 1 << 62
    limit: int = 50


class JobStore(Protocol):
    """Durable jobs. Every write is on disk when its call returns."""

    async def start(
        self,
        *,
        boot_id: str,
        boot_ns: int,
        wall_ms: int,
        kept: Retention,
        fraction: Callable[[], float],
        instance: str = "",
        stays: Callable[[Job], bool] = lambda _: False,
        lease_ms: int = 0,
    ) -> JobsAtStart:
        """Fix the timeline, and give back what an earlier run of the daemon had under way.

        Args:
            boot_id: Of this boot.
            boot_ns: CLOCK_BOOTTIME.
            wall_ms: Unix wall time.
            kept: How long rows stay.
            fraction: For jitter.
            instance: This run of the daemon.
            stays: Which jobs go on at their workers, leased to this run; pure.
            lease_ms: For those.
        """
        ...

    async def accept(
        self,
        job: Job,
        payload: Payload,
        idempotency: IdempotencyClaim | None = None,
        *,
        then: Callable[[Job, bool], None] = ...,
        otherwise: Callable[[], None] = ...,
    ) -> tuple[Job, bool]:
        """Write a new job; True with the earlier one when its key was used before.

        Args:
            job: With a `seq` that no job had before.
            payload: Its input.
            idempotency: Its caller's own name for it.
            then: Told what is returned, in the order of commits, though the caller may have left.
            otherwise: Told that nothing was written; one of the two is called.

        Raises:
            IdempotencyMismatch: The key was used with another request.
            StorageFull: Nothing was written.
        """
        ...

    async def claim(
        self,
        seq: int,
        *,
        now_ms: int,
        worker_id: str,
        instance: str,
        lease_until_ms: int,
        then: Callable[[Job | None], None] = ...,
        otherwise: Callable[[], None] = ...,
    ) -> Claim | None:
        """Hand a waiting job out; None when it does not wait any more.

        `then` and `otherwise` are as for `accept`.
        """
        ...

    async def claim_new(
        self,
        job: Job,
        *,
        lease_until_ms: int,
        then: Callable[[Job | None], None],
        otherwise: Callable[[], None],
    ) -> bool:
        """Hand out a job that nobody has had since it was accepted; False when its row says otherwise.

        Args:
            job: As it is once it is handed out.
            lease_until_ms: When others may take it.
            then: As for `accept`.
            otherwise: As for `accept`.
        """
        ...

    def writes_at_once(self, payload: Payload) -> bool:
        """Whether a payload is kept in its row, and not written to a file first."""
        ...

    async def complete(
        self,
        job: Job,
        *,
        now_ms: int,
        purge_at_ms: int,
        result: Payload | None,
        then: Callable[[Job | None], None] = ...,
    ) -> Job | None:
        """End a delivery well; None when it is stale, and nothing is written. `then` as for `accept`."""
        ...

    async def settle(
        self,
        job: Job,
        said: Delivered,
        *,
        now_ms: int,
        fraction: float,
        kept: Retention,
        result: Payload | None = None,
        log_tail: str = "",
        then: Callable[[Job | None], None] = ...,
    ) -> Job | None:
        """End a delivery in any other way; None when it is stale. `then` as for `accept`."""
        ...

    async def change(
        self, job_id: JobId, decide: Callable[[Job], Job | None], *, now_ms: int
    ) -> Change | None:
        """Apply a transition to a job that no worker is at; None when there is no such job.

        `decide` runs in the transaction and must be pure; None, or the same job, changes nothing.
        """
        ...

    async def ready(self, endpoint: EndpointName, after: Ready | None, limit: int) -> tuple[Ready, ...]:
        """Read the waiting jobs whose time has come, in order, from a place on."""
        ...

    async def release_due(self, now_ms: int, *, limit: int) -> tuple[Job, ...]:
        """Put jobs whose time has come among the ready ones."""
        ...

    async def expire_due(
        self, now_ms: int, decide: Callable[[Job], Job | None], *, limit: int
    ) -> tuple[Change, ...]:
        """End waiting jobs whose time to start is over."""
        ...

    async def cancel_waiting(
        self,
        endpoint: EndpointName,
        decide: Callable[[Job], Job | None],
        *,
        now_ms: int,
        after_seq: int,
        limit: int,
    ) -> tuple[Change, ...]:
        """Apply a transition to jobs of an endpoint that wait, from a place on; tells unchanged ones too."""
        ...

    async def purge_due(self, now_ms: int, *, limit: int, used_ms: int) -> tuple[JobId, ...]:
        """Delete jobs that were kept long enough.

        Args:
            now_ms: On the job timeline.
            limit: Most at once.
            used_ms: How long what they used is kept after their end.
        """
        ...

    async def delete(self, job_id: JobId, *, allowed: Callable[[Job], bool]) -> bool:
        """Delete one job that is over; False when there is none or it may not be deleted."""
        ...

    async def next_times(self) -> tuple[int | None, int | None]:
        """When the next scheduled job is due, and when the next waiting one expires."""
        ...

    async def age(self, endpoint: EndpointName, now_ms: int, *, limit: int) -> int:
        """Raise the priority of those that wait long behind others; how many."""
        ...

    async def renew_leases(self, seqs: Sequence[int], *, instance: str, until_ms: int) -> int:
        """Renew the leases of what runs; how many."""
        ...

    async def lapsed(self, now_ms: int, *, limit: int) -> tuple[Job, ...]:
        """Jobs IN_PROGRESS whose lease was not renewed."""
        ...

    async def append_chunks(self, job: Job, chunks: Sequence[bytes]) -> bool:
        """Add stream chunks of a delivery; False when it is stale."""
        ...

    async def put_progress(self, job: Job, payload: Payload) -> bool:
        """Replace the progress of a delivery; False when it is stale."""
        ...

    async def note_drained(self, seq: int, place: ChunkPlace) -> None:
        """Write how far a job's chunks were drained."""
        ...

    async def sweep_blobs(self) -> int:
        """Remove payload files that no row names any more; how many."""
        ...

    # -- reads ---------------------------------------------------------------------------------

    async def job(self, job_id: JobId) -> Job | None:
        """Read one job."""
        ...

    async def payload(self, seq: int, kind: str) -> Payload | None:
        """Read a job's `input`, `result` or `progress`."""
        ...

    async def chunks(
        self, seq: int, delivery: int, *, after: int, limit: int
    ) -> tuple[tuple[int, bytes], ...]:
        """Read stream chunks of a delivery behind the n-th."""
        ...

    async def drained(self, seq: int) -> ChunkPlace:
        """Read how far a job's chunks were drained."""
        ...

    async def attempts(self, seq: int) -> tuple[AttemptRecord, ...]:
        """Read the deliveries of a job that did not complete."""
        ...

    async def usage(self, query: JobUsageQuery) -> JobUsagePage:
        """Tell what jobs used that are over, those whose rows are gone included."""
        ...

    async def page(self, query: JobQuery) -> tuple[Job, ...]:
        """List jobs, newest first."""
        ...

"""What is told of jobs that are over, for whoever bills them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, JobId
    from gpud.core.job import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUsageQuery:
    """Which jobs to tell of, in the order in which they were made.

    Args:
        endpoint: Only this one's; empty for all.
        owner: Only that key's; None for everybody's.
        since_ms: Only those that ended then or later; on the job timeline.
        until_ms: Only those that ended before.
        after_seq: Only later ones.
    """

    endpoint: str = ""
    owner: str | None = None
    since_ms: int = 0
    until_ms: int = 1 << 62
    after_seq: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUsed:
    """A job that is over, and what it used.

    Args:
        created_at_ms: As `started_at_ms` and `finished_at_ms`, on the job timeline.
        started_at_ms: Of its last delivery; 0 if it never ran.
        worker_id: Of its last delivery.
        gpu_ns: Of all of its deliveries, as `cost_micros` and `energy_mj`.
        asked_at_ms: When that worker was wanted, Unix milliseconds; None where nothing is known of it.
        ready_at_ms: When it first served; None if it never did.
    """

    seq: int
    id: JobId
    endpoint: EndpointName
    owner: str
    state: JobState
    reason: str
    deliveries: int
    redrives: int
    created_at_ms: int
    started_at_ms: int
    finished_at_ms: int
    worker_id: str
    gpu_ns: int
    cost_micros: int
    energy_mj: int
    asked_at_ms: int | None
    ready_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUsagePage:
    """Some of them.

    Args:
        more_after: Where to go on; None when there are no more. A page with few or none may have one.
    """

    items: tuple[JobUsed, ...]
    more_after: int | None

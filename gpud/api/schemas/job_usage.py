"""What jobs used, as the API exports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gpud.api.schemas.base import Document, PageQuery, Timestamp, timestamp, timestamp_or_none
from gpud.core.job import JobState
from gpud.core.job_use import cold_start_ms
from gpud.core.metering import whole_ms

if TYPE_CHECKING:
    from gpud.core.energy import EnergyTariff
    from gpud.ports.job_usage import JobUsed


class JobUsageQuery(PageQuery):
    """Which jobs are asked for."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only this endpoint's."""
    owner: Annotated[str, Field(max_length=40)] = ""
    """Only those of the key with this id, or `local`; without the scope read always the caller's own."""
    since: Timestamp | None = None
    """Only those that ended at this time or later."""
    until: Timestamp | None = None
    """Only those that ended before this time."""


class JobUsageDocument(Document):
    """A job that is over and ran, with what it used in all of its deliveries.

    It changes only if the job is tried again by hand: then it comes anew once that is over, with a later
    `finished_at` and more `redrives`, and all that it used.
    """

    id: str
    """Names the line for good."""
    endpoint: str
    owner: str
    """Id of the key that made it, or `local`."""
    state: JobState
    reason: str
    worker: str
    """Of its last delivery."""
    created_at: Timestamp
    started_at: Timestamp | None
    """When it was handed to its last worker."""
    finished_at: Timestamp
    queue_ms: int
    """From its making to the start of its last delivery."""
    cold_start_ms: int
    """That part of `queue_ms` in which its last worker was being started."""
    exec_ms: int
    """Length of its last delivery."""
    deliveries: int
    """How often it was handed to a worker."""
    redrives: int
    """How often it was tried again by hand."""
    gpu_ns: int
    """GPU time of all its deliveries: its part of its workers' time, not billed on top of theirs."""
    gpu_ms: int
    cost_micros: int
    """What that cost at the prices in force then, in millionths of the currency."""
    energy_mj: int
    """Millijoules that its part of its workers' time drew, an estimate; 0 where no GPU tells."""
    energy_cost_micros: int
    """What these cost at the present price of a kilowatt-hour."""


class JobUsagePage(Document):
    """Jobs in the order in which they were made."""

    currency: str
    items: tuple[JobUsageDocument, ...]
    """May be few or none though there is a next page, where few of many jobs are asked for."""
    next: str | None
    """Cursor of the next page; null on the last."""


def job_usage_document(used: JobUsed, rates: EnergyTariff, *, ahead_ms: int) -> JobUsageDocument:
    """Show what a job used.

    Args:
        used: The job.
        rates: What energy costs.
        ahead_ms: By how much the wall clock is ahead of the job timeline.
    """
    created_ms, started_ms = used.created_at_ms + ahead_ms, used.started_at_ms + ahead_ms
    return JobUsageDocument(
        id=used.id,
        endpoint=used.endpoint,
        owner=used.owner,
        state=used.state,
        reason=used.reason,
        worker=used.worker_id,
        created_at=timestamp(created_ms),
        started_at=timestamp_or_none(started_ms if used.started_at_ms else 0),
        finished_at=timestamp(used.finished_at_ms + ahead_ms),
        queue_ms=max(0, started_ms - created_ms),
        cold_start_ms=cold_start_ms(
            created_ms, started_ms, asked_ms=used.asked_at_ms, ready_ms=used.ready_at_ms
        ),
        exec_ms=max(0, used.finished_at_ms - used.started_at_ms),
        deliveries=used.deliveries,
        redrives=used.redrives,
        gpu_ns=used.gpu_ns,
        gpu_ms=whole_ms(used.gpu_ns),
        cost_micros=used.cost_micros,
        energy_mj=used.energy_mj,
        energy_cost_micros=rates.cost_micros(used.energy_mj),
    )

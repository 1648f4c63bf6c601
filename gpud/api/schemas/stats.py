"""What a worker used: requests and answers."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.api.schemas.base import Document, Query, Timestamp, timestamp

if TYPE_CHECKING:
    from gpud.core.stats_history import UseSample


class StatsSpan(StrEnum):
    """How far back."""

    HOUR = "hour"
    DAY = "day"


class StatsQuery(Query):
    """What is asked for."""

    span: StatsSpan = StatsSpan.HOUR
    """`hour`: the last hour in steps of `metrics.step_s`; `day`: the last day in steps of five minutes."""


class StatsDocument(Document):
    """One step of a worker's history."""

    at: Timestamp
    """Its end."""
    cpu_cores: float
    """Used, on average."""
    memory_bytes: int
    """In use at its end; of five minutes, on average."""
    memory_bytes_max: int
    """The most that was seen."""
    gpu_memory_bytes: int
    """In use on the worker's GPUs; of a shared GPU, by the worker's own processes."""
    gpu_utilization_percent: float
    """Time in which its GPUs computed; of a shared GPU, for others too."""


class StatsPage(Document):
    """A worker's history, oldest first."""

    worker_id: str
    step_s: float
    items: tuple[StatsDocument, ...]


def stats_document(sample: UseSample) -> StatsDocument:
    """Show one step."""
    return StatsDocument(
        at=timestamp(sample.at_ms),
        cpu_cores=round(sample.cpu_cores, 4),
        memory_bytes=round(sample.memory_bytes),
        memory_bytes_max=round(sample.memory_bytes_max),
        gpu_memory_bytes=round(sample.gpu_memory_mib) << 20,
        gpu_utilization_percent=round(sample.gpu_percent, 2),
    )

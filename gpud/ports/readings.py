"""What a scrape is told, read where it is kept; nobody counts for its sake on a request's way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.fleet_tally import FleetTally
from gpud.core.stats_history import StatsHistory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.gpu import GpuReading, GpuStatus
    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from gpud.ports.logs import LogCounts
    from gpud.ports.stats import ContainerUse
    from gpud.ports.store import Running
    from gpud.ports.traffic import EndpointLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitReading:
    """What the store's writer has done since the start."""

    commits: int = 0
    operations: int = 0
    commit_s: float = 0.0
    waiting_operations: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReading:
    """What the reconciler's rounds took since the start.

    Args:
        rounds: How many there were.
        decided_s: Of that, until everything was decided and published.
        whole_s: With the write to the disk.
        longest_s: Of one.
    """

    rounds: int = 0
    decided_s: float = 0.0
    whole_s: float = 0.0
    longest_s: float = 0.0


def _nothing() -> Mapping[str, int]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Where to read.

    Args:
        tally: What happened to the fleet.
        history: What workers used.
        uses: Of containers, as last read.
        gpu_readings: As last read.
        gpus: Every GPU with its health.
        loads: As last taken.
        actions: Efforts begun, by kind.
        boot_ns: The clock of `tally`'s GPU time.
        commits: Of the store.
        rounds: Of the reconciler.
        log_counts: By worker.
        running: What API keys had of open segments.
    """

    tally: FleetTally = field(default_factory=FleetTally)
    history: StatsHistory = field(default_factory=lambda: StatsHistory(10.0))
    uses: Callable[[], Mapping[WorkerId, ContainerUse]] = dict
    gpu_readings: Callable[[], Mapping[GpuUuid, GpuReading]] = dict
    gpus: Callable[[], Mapping[GpuUuid, GpuStatus]] = dict
    loads: Callable[[], Mapping[EndpointName, EndpointLoad]] = dict
    actions: Callable[[], Mapping[str, int]] = _nothing
    boot_ns: Callable[[], int] = int
    commits: Callable[[], CommitReading] = CommitReading
    rounds: Callable[[], RoundReading] = RoundReading
    log_counts: Callable[[], Mapping[str, LogCounts]] = dict
    running: Callable[[], Running] = dict

"""What would other settings have done with the requests that came? The question and its answer, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.standby import StandbyBudget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpud.core.endpoint import Endpoint
    from gpud.core.gpu import GpuStatus
    from gpud.core.history import Arrival, ArrivalBatch
    from gpud.core.standby import Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSample:
    """How long one recorded start took, from its GPUs on, or one way back from a rung.

    Args:
        setup_s: Until the container ran; not billed.
        start_s: From then until it was ready.
        rung: Where it began, as a `Rung` has it; empty for a start from nothing.
    """

    setup_s: float
    start_s: float
    rung: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """A record of requests, and the settings to try on it.

    Args:
        endpoints: The same endpoint with several settings; each is tried alone.
        gpus: Of the box; nobody else holds any while the record is replayed.
        batches: The record.
        starts: Taken in turn, again and again, each where it begins.
        since_ms: Unix wall time; the replay begins without workers.
        until_ms: And ends here, whatever still runs.
        box_starts: Workers of the box that may be starting at once.
        endpoint_starts: Workers of the endpoint that may be starting at once.
        standbys: What standbys and workers on a rung may take.
        unavailable: Rungs this box cannot have, and why.
    """

    endpoints: tuple[Endpoint, ...]
    gpus: tuple[GpuStatus, ...]
    batches: tuple[ArrivalBatch, ...]
    starts: tuple[StartSample, ...]
    since_ms: int
    until_ms: int
    box_starts: int
    endpoint_starts: int
    standbys: StandbyBudget = field(default_factory=StandbyBudget)
    unavailable: Mapping[Rung, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the requests, and what it took.

    Args:
        requests: All that came.
        unserved: Of these, those that reached no worker.
        wait_s_p50: Median time from arrival to a worker, unserved ones included until they left.
        wait_s_p95: The 95th percentile.
        wait_s_max: The longest.
        cold_starts: Workers that became ready, for the first time.
        gpu_s: Billable GPU-seconds.
        wakes: How often a worker came back from being paused or asleep.
    """

    requests: int
    unserved: int
    wait_s_p50: float
    wait_s_p95: float
    wait_s_max: float
    cold_starts: int
    gpu_s: float
    wakes: int = 0


def outcome_of(
    waits_s: list[float], *, unserved: int, cold_starts: int, gpu_s: float, wakes: int = 0
) -> Outcome:
    """Sum up; `waits_s` has one entry for each request and is sorted in place."""
    waits_s.sort()
    return Outcome(
        requests=len(waits_s),
        unserved=unserved,
        wait_s_p50=_quantile(waits_s, 0.5),
        wait_s_p95=_quantile(waits_s, 0.95),
        wait_s_max=waits_s[-1] if waits_s else 0.0,
        cold_starts=cold_starts,
        gpu_s=gpu_s,
        wakes=wakes,
    )


def what_happened(arrivals: Iterable[Arrival], *, cold_starts: int, gpu_s: float, wakes: int = 0) -> Outcome:
    """Sum up a record as it came to pass."""
    waits_s: list[float] = []
    unserved = 0
    for arrival in arrivals:
        waits_s.extend([arrival.waited_ms / 1000] * arrival.requests)
        unserved += arrival.requests if arrival.service_ms is None else 0
    return outcome_of(waits_s, unserved=unserved, cold_starts=cold_starts, gpu_s=gpu_s, wakes=wakes)


def within(arrivals: Iterable[Arrival], *, since_ms: int, until_ms: int) -> list[Arrival]:
    """Those that came in a period; stretches of a record reach beyond it."""
    return [arrival for arrival in arrivals if since_ms <= arrival.at_ms < until_ms]


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0

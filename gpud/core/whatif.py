"""What would other settings have done with the requests that came? The question and its answer, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpud.core.endpoint import Endpoint
    from gpud.core.gpu import GpuStatus
    from gpud.core.history import Arrival, ArrivalBatch

_COLD_START_DEFAULT_S = 60.0
_UNBILLED = ("reserve_ms", "create_ms", "start_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSample:
    """How long one recorded start took, from its GPUs on.

    Args:
        setup_s: Until the container ran; not billed.
        start_s: From then until it was ready.
    """

    setup_s: float
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """A record of requests, and the settings to try on it.

    Args:
        endpoints: The same endpoint with several settings; each is tried alone.
        gpus: Of the box; nobody else holds any while the record is replayed.
        batches: The record.
        cold_starts: Taken in turn, again and again; at least one.
        since_ms: Unix wall time; the replay begins without workers.
        until_ms: And ends here, whatever still runs.
        box_starts: Workers of the box that may be starting at once.
        endpoint_starts: Workers of the endpoint that may be starting at once.
    """

    endpoints: tuple[Endpoint, ...]
    gpus: tuple[GpuStatus, ...]
    batches: tuple[ArrivalBatch, ...]
    cold_starts: tuple[StartSample, ...]
    since_ms: int
    until_ms: int
    box_starts: int
    endpoint_starts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the requests, and what it took.

    Args:
        requests: All that came.
        unserved: Of these, those that reached no worker.
        wait_s_p50: Median time from arrival to a worker, unserved ones included until they left.
        wait_s_p95: The 95th percentile.
        wait_s_max: The longest.
        cold_starts: Workers that became ready.
        gpu_s: Billable GPU-seconds.
    """

    requests: int
    unserved: int
    wait_s_p50: float
    wait_s_p95: float
    wait_s_max: float
    cold_starts: int
    gpu_s: float


def outcome_of(waits_s: list[float], *, unserved: int, cold_starts: int, gpu_s: float) -> Outcome:
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
    )


def what_happened(arrivals: Iterable[Arrival], *, cold_starts: int, gpu_s: float) -> Outcome:
    """Sum up a record as it came to pass."""
    waits_s: list[float] = []
    unserved = 0
    for arrival in arrivals:
        waits_s.extend([arrival.waited_ms / 1000] * arrival.requests)
        unserved += arrival.requests if arrival.service_ms is None else 0
    return outcome_of(waits_s, unserved=unserved, cold_starts=cold_starts, gpu_s=gpu_s)


def within(arrivals: Iterable[Arrival], *, since_ms: int, until_ms: int) -> list[Arrival]:
    """Those that came in a period; stretches of a record reach beyond it."""
    return [arrival for arrival in arrivals if since_ms <= arrival.at_ms < until_ms]


def cold_starts_of(phases: Iterable[Mapping[str, float]]) -> tuple[StartSample, ...]:
    """Read starts from the phases that were recorded of them; one of a minute when there is none."""
    found = tuple(
        StartSample(
            setup_s=sum(facts.get(name, 0.0) for name in _UNBILLED) / 1000,
            start_s=facts["ready_ms"] / 1000,
        )
        for facts in phases
        if "ready_ms" in facts
    )
    return found or (StartSample(setup_s=0.0, start_s=_COLD_START_DEFAULT_S),)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0

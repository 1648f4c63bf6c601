"""How the core scales and shares in a simulated box, beside literal rules; and what one decision costs.

The box goes in steps of 0.1 s with a decision a second; durations are uniform, 40 % either way for requests
and 20 % for cold starts; both are known to the core from the endpoint's past. In `gpud` it is the
product's own functions that decide. Scaling: 8 GPUs, one endpoint, requests of 5 s, cold starts of 90 s.
The subject `gpud` starts as many at once as it wants. The setting scaling.endpoint_starts, 2 by default, is
the subject `gpud, 2 starts at once`. Parallel starts do not slow each other down here, except in the metrics
named `shared`, where half of a cold start, or all of it, is a disk that serves one start at a time.
Sharing: an hour of load and half an hour after it, cold starts of 40 s.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_lib.report import Report, add_arguments
from bench_lib.scaling_brains import EvictIdleBrain, GpudBrain, LiteralBrain, RequestCountBrain
from bench_lib.scaling_sim import Box, Load
from bench_lib.scaling_tick import measure_ticks

from gpud.core.policies import QueueDelay

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_lib.scaling_sim import Brain

HOUR_S = 3600.0
HORIZON_S = 1.5 * HOUR_S
SEEDS = 4


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench scaling", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    seeds = range(1 if options.quick else SEEDS)
    report = Report("scaling")
    for name, arrivals in _scaling_loads().items():
        _measure_scaling(report, name, arrivals, seeds)
    for part in (0.5, 1.0):
        for name in ("step", "crowd"):
            _measure_shared_starts(report, name, part, seeds)
    for case in _sharing_cases():
        _measure_sharing(report, case, seeds)
    measure_ticks(report, quick=options.quick)
    report.finish(options)
    return 0


# -- how many workers --------------------------------------------------------------------------


def _scaling_loads() -> dict[str, Callable[[int], list[float]]]:
    return {
        "trickle": lambda seed: _poisson(1 / 90, HOUR_S, seed),
        "bursts": lambda _seed: _bursts(10, 300.0, 2400.0),
        "poisson": lambda seed: _poisson(0.3, HOUR_S / 2, seed),
        "step": lambda seed: _poisson(1.0, 600.0, seed),
        "crowd": lambda _seed: [0.0] * 40,
    }


SCALERS: dict[str, Callable[[], Brain]] = {
    "gpud": GpudBrain,
    "gpud, thrifty (beta 0.5)": lambda: GpudBrain(QueueDelay(beta=0.5)),
    "gpud, 2 starts at once": lambda: GpudBrain(parallel_starts=2),
    "gpud, 3 starts at once": lambda: GpudBrain(parallel_starts=3),
    "gpud, 4 starts at once": lambda: GpudBrain(parallel_starts=4),
    "literal_rule": lambda: LiteralBrain(one_at_a_time=False),
    "one_start_at_a_time": lambda: LiteralBrain(one_at_a_time=True),
    "request_count": RequestCountBrain,
}


def _measure_scaling(report: Report, name: str, arrivals: Callable[[int], list[float]], seeds: range) -> None:
    for subject, brain in SCALERS.items():
        waits_s, worker_s, starts = [], [], []
        for seed in seeds:
            box = Box(8, [Load(name="e", arrivals_s=arrivals(seed))], seed=seed, brain=brain())
            box.run()
            ordered = sorted(box.lines["e"].waits_s)
            waits_s.append(ordered[int(0.95 * (len(ordered) - 1))])
            worker_s.append(sum(box.held_s.values()))
            starts.append(float(box.starts))
        report.add(f"p95_wait_s_{name}", subject, "s", waits_s)
        report.add(f"worker_s_{name}", subject, "s", worker_s)
        report.add(f"starts_{name}", subject, "starts", starts)


def _measure_shared_starts(report: Report, name: str, part: float, seeds: range) -> None:
    """How many starts at once are best where starts stand in each other's way?"""
    arrivals = _scaling_loads()[name]
    for limit in (2, 3, 4, 0):
        waits_s, worker_s = [], []
        for seed in seeds:
            brain = GpudBrain(parallel_starts=limit)
            box = Box(8, [Load(name="e", arrivals_s=arrivals(seed))], seed=seed, brain=brain, shared=part)
            box.run()
            ordered = sorted(box.lines["e"].waits_s)
            waits_s.append(ordered[int(0.95 * (len(ordered) - 1))])
            worker_s.append(sum(box.held_s.values()))
        subject = f"gpud, {limit} starts at once" if limit else "gpud"
        report.add(f"p95_wait_s_{name}_shared_{part:g}", subject, "s", waits_s)
        report.add(f"worker_s_{name}_shared_{part:g}", subject, "s", worker_s)


# -- who gets the GPUs -------------------------------------------------------------------------

SHARERS: dict[str, Callable[[], Brain]] = {
    "gpud": GpudBrain,
    "gpud, quantum of 1 cold start": lambda: GpudBrain(quantum_s=40.0),
    "gpud, quantum of 6 cold starts": lambda: GpudBrain(quantum_s=240.0),
    "evict_idle_only": EvictIdleBrain,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingCase:
    """Endpoints on too few GPUs, and whose longest wait is told; the longest of all when empty."""

    name: str
    gpus: int
    loads: dict[str, Callable[[int], list[float]]]
    watched: str = ""


def _sharing_cases() -> list[SharingCase]:
    return [
        SharingCase(
            name="light_endpoint",
            gpus=1,
            loads={"a": _from_seed(0.25), "b": _from_seed(1 / 120, by=100)},
            watched="b",
        ),
        SharingCase(
            name="two_overloaded", gpus=1, loads={"a": _from_seed(0.15), "b": _from_seed(0.15, by=100)}
        ),
        SharingCase(
            name="bursts_beside_two",
            gpus=2,
            loads={
                "a": _from_seed(0.2),
                "b": _from_seed(0.2, by=100),
                "c": lambda _seed: _bursts(10, 600.0, HOUR_S),
            },
            watched="c",
        ),
        SharingCase(
            name="three_light",
            gpus=1,
            loads={name: _from_seed(1 / 300, by=100 * i) for i, name in enumerate("abc")},
        ),
    ]


def _measure_sharing(report: Report, case: SharingCase, seeds: range) -> None:
    for subject, brain in SHARERS.items():
        waits_s, reclaims, useful = [], [], []
        for seed in seeds:
            lines = [
                Load(name=endpoint, arrivals_s=arrivals(seed), cold_start_s=40.0, max_workers=case.gpus)
                for endpoint, arrivals in case.loads.items()
            ]
            box = Box(case.gpus, lines, seed=seed, brain=brain())
            box.run(HORIZON_S)
            watched = [case.watched] if case.watched else list(case.loads)
            waits_s.append(max(map(box.wait_s_max, watched)))
            reclaims.append(float(box.reclaims))
            useful.append(box.served_s / (case.gpus * HOUR_S))
        report.add(f"max_wait_s_{case.name}", subject, "s", waits_s)
        report.add(f"swaps_{case.name}", subject, "swaps", reclaims)
        report.add(f"useful_gpu_h_per_gpu_{case.name}", subject, "h", useful)


# -- loads -------------------------------------------------------------------------------------


def _poisson(rate: float, for_s: float, seed: int) -> list[float]:
    dice, at_s, arrivals = random.Random(seed), 0.0, list[float]()  # noqa: S311 - a simulation's dice
    while (at_s := at_s + dice.expovariate(rate)) <= for_s:
        arrivals.append(at_s)
    return arrivals


def _from_seed(rate: float, *, by: int = 0) -> Callable[[int], list[float]]:
    return lambda seed: _poisson(rate, HOUR_S, seed + by)


def _bursts(size: int, every_s: float, for_s: float) -> list[float]:
    """The first one after a pause like all others: at time 0 ten requests would be ten a second for ever."""
    return [every_s * number for number in range(1, int(for_s / every_s) + 1) for _ in range(size)]

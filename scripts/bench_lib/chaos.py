"""Whether anything breaks in days of a simulated box on which everything goes wrong, one world for each seed.

The worlds of tests/sim/chaos.py: invariants are checked after every step, and all must be well in the end.
What went wrong is printed with its seed. `--quick`: five seeds of an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from bench_lib.report import Report, add_arguments

from tests.sim.chaos import Chaos
from tests.sim.final import check_calm


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One seed's world, lived."""

    seed: int
    cpu_s: float
    starts: int
    fault: str


def live(seed: int, hours: float) -> Life:
    """Live one world to its end, in silence."""
    began_s = time.process_time()
    fault, starts = "", 0
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        chaos = Chaos(seed)
        try:
            chaos.live(for_s=hours * 3600.0)
            chaos.calm()
            check_calm(chaos.sim, late_ns=chaos.late_ns, answers_lost=chaos.answers_lost)
            starts = sum(1 for each in chaos.sim.box.lifetimes if each.gpu_uuids)
        except BaseException:  # noqa: BLE001 - whatever it was, it belongs to this seed's report
            fault = f"{chaos.plot} at {chaos.sim.now_s} s\n{traceback.format_exc()}"
        finally:
            chaos.sim.close()
    return Life(seed=seed, cpu_s=time.process_time() - began_s, starts=starts, fault=fault)


def main(argv: list[str]) -> int:
    """Live the worlds of the seeds asked for; 1 when one of them went wrong."""
    parser = argparse.ArgumentParser(prog="scripts/bench chaos", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--hours", type=float, default=24.0, help="simulated, of each seed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds, options.hours = 5, 1.0
    report = Report("chaos", ["hypothesis"])
    lives: list[Life] = []
    with ProcessPoolExecutor(options.processes, max_tasks_per_child=1) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for life in pool.map(live, seeds, [options.hours] * len(seeds)):
            lives.append(life)
            print(
                f"seed {life.seed}: {life.fault or 'well'} ({life.starts} starts, {life.cpu_s:.0f} CPU s)",
                file=sys.stderr,
            )
    report.add("simulated_hours", "gpud", "h", [options.hours * len(lives)])
    report.add("worlds_gone_wrong", "gpud", "worlds", [sum(1 for life in lives if life.fault)])
    report.add("worker_starts_a_world", "gpud", "starts", [life.starts for life in lives])
    report.add("cpu_s_a_world", "gpud", "CPU s", [life.cpu_s for life in lives])
    report.finish(options)
    return 1 if any(life.fault for life in lives) else 0

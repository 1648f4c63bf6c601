"""What a round of the reconciler costs in which nothing happens: CPU time, all of it on the event loop.

A fifth of the workers have a request. The parts are the round's own methods, timed one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import structlog
import uvloop
from bench_lib.boxed_fleet import start_fleet
from bench_lib.report import Report, add_arguments

from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.hold import Held
from gpud.gateway.tuning import tune_process
from tests.sim.box import Box

if TYPE_CHECKING:
    from gpud.core.routing import Route
    from gpud.errors import GpudError
    from gpud.fleet.fleet import Fleet
    from gpud.gateway.lane import Slot

SIZES = ((100, 20), (100, 100), (200, 1000))
BUSY_SHARE = 5


class _Waiter:
    party = "bench"

    def granted(self, slot: Slot) -> None:
        """Keep it."""

    def refused(self, error: GpudError) -> None:
        """Nobody minds."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench rounds", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--profile", type=Path, metavar="FILE", help="also write a profile of the last size")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    report = Report("rounds", ["uvloop"])
    for workers, endpoints in SIZES[:2] if options.quick else SIZES:
        with TemporaryDirectory(prefix="bench-rounds-") as scratch:
            uvloop.run(_measure(report, Path(scratch), workers, endpoints, options))
    report.finish(options)
    return 0


async def _measure(
    report: Report, folder: Path, workers: int, endpoints: int, options: argparse.Namespace
) -> None:
    store = await open_store(folder / "store", SystemClock())
    box = Box(1, gpus=workers)
    dispatcher = Dispatcher(box.clock)
    async with asyncio.TaskGroup() as tasks:
        fleet = await start_fleet(store, tasks, box, dispatcher, workers=workers, endpoints=endpoints)
        slots = _keep_busy(dispatcher)
        await asyncio.sleep(2)
        tune_process()
        took_ms = await _rounds(fleet, 30 if options.quick else 100)
        name = f"round_ms_{workers}_workers_{endpoints}_endpoints"
        report.add(name, "gpud", "ms", took_ms)
        if options.profile:
            await _profiled(fleet, options.profile)
        for slot in slots:
            slot.release()
        await fleet.stop(drain=False)
    await store.close()
    gc.unfreeze()


def _keep_busy(dispatcher: Dispatcher) -> list[Slot]:
    slots = []
    routes: list[Route] = [route for route in dispatcher.table.routes.values() if route.workers]
    for route in routes:
        for _ in range(-(-len(route.workers) // BUSY_SHARE) if len(route.workers) > 1 else 0):
            got = dispatcher.acquire_nowait(route.endpoint, _Waiter())
            if not isinstance(got, Held):
                slots.append(got)
    return slots


async def _rounds(fleet: Fleet, rounds: int) -> list[float]:
    took_ms = []
    for _ in range(rounds):
        await asyncio.sleep(0.02)
        began_s = time.thread_time()
        await fleet.reconciler.round()  # nothing is written, so nothing is awaited
        took_ms.append((time.thread_time() - began_s) * 1000)
    return took_ms


async def _profiled(fleet: Fleet, path: Path) -> None:
    import cProfile  # noqa: PLC0415 - on demand

    profile = cProfile.Profile()
    for _ in range(100):
        await asyncio.sleep(0)
        profile.enable()
        await fleet.reconciler.round()
        profile.disable()
    profile.dump_stats(path)

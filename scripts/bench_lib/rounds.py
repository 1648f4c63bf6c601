"""What a round of the reconciler costs in which nothing happens, and how long it holds the event loop.

`round_ms` is the loop's CPU time from the wish for a round to its end, `round_hold_ms` the longest of the
loop's turns meanwhile, and `start_hold_ms` the longest from a request for an endpoint without workers to its
dispatch. A fifth of the workers have a request.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import structlog
import uvloop
from bench_lib.boxed_fleet import start_fleet
from bench_lib.report import Report, add_arguments

from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock
from gpud.core.endpoint import EndpointSpec, GpuNeeds, ScalePolicy
from gpud.core.ids import EndpointName
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

    def __init__(self) -> None:
        self.slot: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()

    def granted(self, slot: Slot) -> None:
        """Keep it."""
        self.slot.set_result(slot)

    def refused(self, error: GpudError) -> None:
        """Say so."""
        self.slot.set_exception(error)


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
        took = await _rounds(fleet, 30 if options.quick else 100)
        size = f"{workers}_workers_{endpoints}_endpoints"
        report.add(f"round_ms_{size}", "gpud", "ms", took.whole_ms)
        report.add(f"round_hold_ms_{size}", "gpud", "ms", took.longest_ms)
        longest_ms = await _starts(fleet, dispatcher, 5 if options.quick else 20)
        report.add(f"start_hold_ms_{size}", "gpud", "ms", longest_ms)
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


async def _rounds(fleet: Fleet, rounds: int) -> _Took:
    """Have the loop's own task go round, with a look at the clock between any two turns of the loop."""
    took = _Took()
    for _ in range(rounds):
        await asyncio.sleep(0.02)
        watch = _LoopWatch()
        watch.start()
        rounded_s = fleet.reconciler.rounds.ended_s
        fleet.reconciler.wake()
        while fleet.reconciler.rounds.ended_s == rounded_s:  # noqa: ASYNC110 - each turn is looked at
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # the turn in which it ended counts too
        await asyncio.sleep(0)
        watch.stop()
        took.whole_ms.append(watch.busy_s * 1000)
        took.longest_ms.append(watch.longest_s * 1000)
    return took


async def _starts(fleet: Fleet, dispatcher: Dispatcher, starts: int) -> list[float]:
    """How long the loop is held at most from a request for an endpoint without workers to its dispatch."""
    longest_ms = []
    for number in range(starts):
        spec = EndpointSpec(
            name=EndpointName(f"cold-{number}"),
            image="bench:1",
            port=8000,
            gpus=GpuNeeds(count=0),
            scale=ScalePolicy(max_workers=1),
        )
        await fleet.control.deploy(spec)
    await asyncio.sleep(1)
    for number in range(starts):
        waiter = _Waiter()
        watch = _LoopWatch()
        watch.start()
        dispatcher.acquire_nowait(EndpointName(f"cold-{number}"), waiter)
        slot = await waiter.slot
        watch.stop()
        slot.release()
        longest_ms.append(watch.longest_s * 1000)
    return longest_ms


@dataclass(slots=True)
class _Took:
    whole_ms: list[float] = field(default_factory=list)
    longest_ms: list[float] = field(default_factory=list)


class _LoopWatch:
    """CPU time between the turns of the event loop."""

    def __init__(self) -> None:
        self.busy_s = self.longest_s = 0.0
        self._runs = False
        self._last_s = 0.0

    def start(self) -> None:
        self._runs = True
        self._last_s = time.thread_time()
        asyncio.get_running_loop().call_soon(self._turn)

    def stop(self) -> None:
        self._runs = False

    def _turn(self) -> None:
        now_s = time.thread_time()
        self.busy_s += now_s - self._last_s
        self.longest_s = max(self.longest_s, now_s - self._last_s)
        if self._runs:
            self._last_s = time.thread_time()
            asyncio.get_running_loop().call_soon(self._turn)


async def _profiled(fleet: Fleet, path: Path) -> None:
    import cProfile  # noqa: PLC0415 - on demand

    profile = cProfile.Profile()
    profile.enable()
    await _rounds(fleet, 100)
    profile.disable()
    profile.dump_stats(path)

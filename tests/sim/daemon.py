"""One run of the daemon in the simulation: the real fleet, gateway policy and store on a simulated box."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.adapters.cron_calendar import CronCalendar
from gpud.adapters.sqlite.store import open_inline_store
from gpud.core.gpu import GpuAttach
from gpud.core.pricing import Tariff
from gpud.core.starts import BackoffPolicy
from gpud.fleet.breaks import Breaks
from gpud.fleet.fleet import Fleet, FleetPorts
from gpud.fleet.hands import FleetSettings
from gpud.fleet.reconciler import ReconcilerPolicy
from gpud.gateway.dispatch import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.adapters.sqlite.store import Store
    from tests.sim.box import Box

BACKOFF = BackoffPolicy(base_s=1.0, max_s=30.0, circuit_failures=3)
HEADROOM_MIB = 512
RELEASE_TIMEOUT_S = 10.0


class SeededBreaks(Breaks):
    """Breaks by chance: in virtual time no piece of a round takes any.

    Args:
        box: Says how many there are, and which pieces they follow.
    """

    def __init__(self, box: Box) -> None:
        super().__init__()
        self._box = box

    def due(self) -> bool:
        if self._box.rng_of_breaks.random() >= self._box.breaks_share:
            return False
        self._box.on_break()
        return True


class Daemon:
    """From start to end, whichever way it ends.

    Args:
        box: The machine it runs on.
        settle_s: As the setting `scaling.settle_s`.
        watch: Told of the dispatcher before it has any route.
    """

    def __init__(self, box: Box, *, settle_s: float, watch: Callable[[Daemon], None]) -> None:
        self._box = box
        self._settle_s = settle_s
        self._watch = watch
        self._stop = asyncio.Event()
        self.dispatcher = Dispatcher(box.clock)
        self.started = asyncio.Event()
        self.killed = False
        self.store: Store
        self.fleet: Fleet
        self.task = asyncio.get_running_loop().create_task(self._run(), name="daemon")

    async def stop(self, *, drain: bool) -> None:
        """SIGTERM."""
        self._drain = drain
        self._stop.set()
        await self.task

    def kill(self) -> None:
        """SIGKILL: nothing that was not on disk gets there any more; containers do not notice."""
        self.killed = True
        if hasattr(self, "store"):
            self.store.abandon()
        self.task.cancel()

    async def _run(self) -> None:
        box = self._box
        execute = box.disk.executing(box.database)
        self.store = await open_inline_store(box.database, box.clock, execute=execute)
        async with asyncio.TaskGroup() as tasks:
            self.fleet = self._build(tasks)
            self.dispatcher.watch(self.fleet.reconciler)
            await self.fleet.load()
            self._watch(self)
            self.fleet.start()
            self.started.set()
            await self._stop.wait()
            self.dispatcher.stop()
            await self.dispatcher.drained()
            await self.fleet.stop(drain=self._drain)
        await self.store.close()

    def _build(self, tasks: asyncio.TaskGroup) -> Fleet:
        box = self._box
        ports = FleetPorts(
            runtime=box.runtime,
            images=box.images,
            gpus=box.gpus,
            probe=box.probe,
            store=self.store.fleet,
            access=self.store.access,
            traffic=self.dispatcher,
            clock=box.clock,
            ids=box.ids,
            calendar=CronCalendar(),
            tiers=box.tiers,
            page_cache=box.page_cache,
            steps=box.steps,
            reads=self.store.reads,
        )
        settings = FleetSettings(
            parallel_starts=4,
            gpu_attach=GpuAttach.AUTO,
            idle_memory_mib_max=512,
            release_timeout_s=RELEASE_TIMEOUT_S,
            headroom_mib=HEADROOM_MIB,
            tariff=Tariff(gpu_hour_micros=3_600_000),
            budgets=box.budgets,
        )
        policy = ReconcilerPolicy(
            backoff=BACKOFF,
            settle_s=self._settle_s,
            verify_gpus=box.gpus.source == "nvml",
            breaks=SeededBreaks(box),
        )
        return Fleet(ports, settings, policy, tasks)

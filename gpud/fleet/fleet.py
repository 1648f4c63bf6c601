"""Puts the fleet together from its ports, and runs it: the same for the daemon and the simulation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpud.core.actions import Action
from gpud.core.ids import WorkerId
from gpud.core.job_status import may_go_on
from gpud.core.records import HeartbeatWritten
from gpud.core.worker import Cause, WorkerEvent
from gpud.errors import DependencyDown
from gpud.fleet.adoption import Adoption
from gpud.fleet.budget_keeper import BudgetKeeper, spending_of
from gpud.fleet.catalog import Catalog
from gpud.fleet.ending import Ending
from gpud.fleet.executor import Executor
from gpud.fleet.gpu_keeper import GpuKeeper
from gpud.fleet.hands import FleetSettings, Hands
from gpud.fleet.history import History
from gpud.fleet.image_keeper import ImageKeeper
from gpud.fleet.journal import Journal
from gpud.fleet.launching import Launching
from gpud.fleet.meter import Meter
from gpud.fleet.observers import Observers
from gpud.fleet.prewarmer import Prewarmer
from gpud.fleet.prober import Prober
from gpud.fleet.reconciler import Reconciler, ReconcilerPolicy
from gpud.fleet.sleepers import beyond_sleepers
from gpud.fleet.standby_keeper import StandbyKeeper
from gpud.fleet.state import FleetState
from gpud.fleet.stepping import Stepping
from gpud.fleet.sweeper import Sweeper
from gpud.fleet.trials import Trials
from gpud.fleet.warmer import Warmer
from gpud.fleet.windows import WindowWatch
from gpud.ports.logs import LogCapture, NoLogCapture
from gpud.ports.worker_line import NoLine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gpud.core.endpoint import EndpointSpec
    from gpud.core.gpu import Gpu
    from gpud.core.ids import EndpointName
    from gpud.core.job import Job
    from gpud.ports.calendar import Calendar
    from gpud.ports.containers import ContainerRuntime
    from gpud.ports.gpus import GpuInventory
    from gpud.ports.images import ImageStore
    from gpud.ports.page_cache import PageCache
    from gpud.ports.probes import HealthProbe
    from gpud.ports.readings import CommitReading, Readings
    from gpud.ports.standby import Tier
    from gpud.ports.stats import UseReader
    from gpud.ports.steps import Step
    from gpud.ports.store import AccessStore, FleetStore, ReadModel
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import Traffic
    from gpud.ports.worker_line import WorkerLine

    Effort = Callable[[WorkerId], Awaitable[None]]

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 5.0
_RETRY_S = 1.0
_SWEEP_LIMIT_S = 300.0
"""Several engine calls, each at its own limit; longer means that a limit does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPorts:
    """What the fleet needs from the world."""

    runtime: ContainerRuntime
    images: ImageStore
    gpus: GpuInventory
    probe: HealthProbe
    store: FleetStore
    access: AccessStore
    traffic: Traffic
    clock: Clock
    ids: IdSource
    calendar: Calendar
    tiers: Sequence[Tier] = ()
    page_cache: PageCache | None = None
    steps: Sequence[Step] = ()
    logs: LogCapture = field(default_factory=NoLogCapture)
    line: WorkerLine = field(default_factory=NoLine)
    uses: UseReader | None = None
    reads: ReadModel | None = None


class Fleet:
    """Every loop of the fleet.

    Use: `load()` once, then `run()` in a task; `control` answers from the first on. `stop()`
    ends it and leaves the containers running, for the next daemon to adopt.

    Args:
        ports: The world.
        settings: For the hands.
        policy: For the reconciler.
        tasks: Owns every task the fleet starts; an unknown exception in one ends the daemon.
    """

    def __init__(
        self, ports: FleetPorts, settings: FleetSettings, policy: ReconcilerPolicy, tasks: asyncio.TaskGroup
    ) -> None:
        self._ports = ports
        self._tasks = tasks
        self.state = FleetState(headroom_mib=settings.headroom_mib)
        self.journal = Journal(ports.store, ports.clock)
        self.meter = Meter(ports.clock, self.journal.add, ports.traffic.take_shares)
        self.reconciler = Reconciler(
            state=self.state,
            journal=self.journal,
            meter=self.meter,
            traffic=ports.traffic,
            clock=ports.clock,
            ids=ports.ids,
            policy=policy,
        )
        self.hands = _hands_of(ports, self.reconciler, settings)
        self.prewarmer = Prewarmer(
            images=ports.images,
            access=ports.access,
            reconciler=self.reconciler,
            clock=ports.clock,
            tasks=tasks,
        )
        self._image_keeper = ImageKeeper(self.hands, self.prewarmer, settings.images, ports.calendar)
        self.prewarmer.make_room = self._image_keeper.make_room
        self.gpu_keeper = GpuKeeper(
            gpus=ports.gpus,
            reconciler=self.reconciler,
            journal=self.journal,
            clock=ports.clock,
            idle_memory_mib_max=settings.idle_memory_mib_max,
            without_sleepers=partial(beyond_sleepers, self.hands),
        )
        self._keeper = StandbyKeeper(self.hands, self.reconciler.standbys, ports.tiers, tasks)
        self._sweeper = Sweeper(self.hands, self.prewarmer, self._keeper)
        prober = Prober(self.hands)
        self._stepping = Stepping(self.hands, ports.steps, prober)
        self._executor = Executor(self.state, self._efforts(prober), tasks, self._keeper.needs_engine)
        self.reconciler.hurry = self._executor.hurry
        self._warmer = Warmer(self.hands, ports.page_cache, tasks)
        self._trials = Trials(self.hands, self.prewarmer, tasks)
        self.history = History(self.state, self.journal, ports.clock, keep_days=settings.history_days)
        self.observers = Observers(self.hands, self.journal, ports.uses, tasks)
        self._budgets = _budget_keeper(ports, settings, self.reconciler, self.journal, self.meter)
        self.control = self._catalog()
        self._loops: list[asyncio.Task[None]] = []
        self._adopted = False

    def _catalog(self) -> Catalog:
        windows = WindowWatch(self._ports.calendar, self._ports.clock, self.state)
        self.reconciler.senses += [windows.observe, self.history.observe]
        return Catalog(
            hands=self.hands,
            journal=self.journal,
            prewarmer=self.prewarmer,
            image_keeper=self._image_keeper,
            gpu_keeper=self.gpu_keeper,
            windows=windows,
            store=self._ports.store,
        )

    def spec_of(self, name: EndpointName) -> EndpointSpec | None:
        """The present spec of an endpoint; None when there is none."""
        endpoint = self.state.endpoints.get(name)
        return None if endpoint is None else endpoint.spec

    async def load(self) -> None:
        """Take over from the daemon before: rows, GPUs, then what still runs."""
        rows = await self._ports.store.load_fleet()
        adoption = Adoption(self.hands, self.meter, rows)
        adoption.load()
        if not adoption.rebooted:
            self.observers.tally.resume(rows.open_segments)
            self.observers.energy.resume(rows.open_segments)
        found: tuple[Gpu, ...] | None = None
        try:
            found = await self._ports.gpus.list_gpus()
        except DependencyDown as error:
            log.warning("gpu.inventory_unavailable", error=error.detail)
        leased = () if adoption.rebooted else [uuid for uuid, _ in rows.leases]
        self.gpu_keeper.load(found, rows.gpu_statuses, leased, rebooted=adoption.rebooted)
        self._adoption = adoption
        if self._budgets is not None:  # before the first worker could be started
            self._budgets.told.update(rows.budgets_told)
            await self._budgets.look()

    def keeps_work(self, job: Job) -> bool:
        """Whether the worker of a job that an earlier daemon handed out goes on with it."""
        worker = self.state.workers.get(WorkerId(job.worker_id))
        if worker is None or worker.endpoint != job.endpoint or self._adoption.rebooted:
            return False
        endpoint = self.hands.endpoint_of(worker)
        return endpoint is not None and may_go_on(endpoint.spec, worker.state)

    async def adopt(self) -> None:
        """Match containers with rows; waits for the engine, however long it is away."""
        told = ""
        while True:
            self._sweeper.tried_s = self._ports.clock.now_s()
            try:
                self._sweeper.note_info(await self._ports.runtime.ping())
                await self._ports.runtime.prepare()
                looked_ns = self._ports.clock.boot_ns()
                self._adoption.settle(await self._ports.runtime.list_workers(), looked_boot_ns=looked_ns)
                await self._keeper.survey(await self._stepping.survey())
                await self._keeper.end_triggered()
                self._executor.free_hands()
                self._keeper.free_hands()
                # No daemon but this one makes containers of this install: every container that
                # no row explains is a stray, whatever its age.
                await self._sweeper.sweep(strays_at_once=True)
            except DependencyDown as error:
                if error.detail != told:
                    log.warning("engine.unavailable", error=error.detail)
                    told = error.detail
                self._sweeper.note_engine(up=False, error=error.detail)
                await asyncio.sleep(_RETRY_S)
            else:
                self._sweeper.note_engine(up=True)
                self._adopted = True
                return

    def start(self) -> None:
        """Start every loop."""
        if not self._adoption.goes_on:  # else the last daemon's heartbeat counts until they are adopted
            self._add_heartbeat()
        loops = {
            "reconciler": self.reconciler.run(self._executor, self._warmer, self._keeper, self._trials),
            "heartbeat": self._beat(),
            "adoption": self._adopt_then_watch(),
            "gpu_keeper": self.gpu_keeper.run(),
            "image_keeper": self._image_keeper.run(),
        }
        if self._budgets is not None:
            loops["budgets"] = self._budgets.run()
        if self.observers.sampler is not None:
            loops["sampler"] = self.observers.sampler.run()
        self._loops = [self._tasks.create_task(loop, name=name) for name, loop in loops.items()]

    def stuck(self, *, round_limit_s: float) -> str:
        """Say which loop makes no progress; empty when all do.

        An engine or a disk that answers with errors is progress: only waiting without end is not.

        Args:
            round_limit_s: A round of the reconciler, with its write to disk, takes less.
        """
        now_s = self._ports.clock.now_s()
        if now_s - self.reconciler.rounds.ended_s > round_limit_s:
            return "the reconciler's round does not end; the disk may hang"
        if now_s - self._sweeper.tried_s > _SWEEP_LIMIT_S:
            return "a call of the Docker Engine does not end"
        return ""

    async def stop(self, *, drain: bool) -> None:
        """End every loop, with everything on disk.

        Args:
            drain: Stop every worker first; otherwise containers stay for the next daemon.
        """
        if drain:
            await self._drain()
        reconciler, *others = self._loops
        for loop in others:
            loop.cancel()
        self._executor.close()
        self._trials.close()
        self._keeper.close()
        self._warmer.close()
        self.prewarmer.close()
        if self._adopted and self.state.engine_up:
            self._add_heartbeat()
        self.history.write(self._ports.clock.now_s())
        self.observers.gpu_watch.look()
        self.reconciler.stop()
        await asyncio.wait([reconciler])

    async def _drain(self) -> None:
        for worker in list(self.state.workers.values()):
            self.reconciler.post(WorkerEvent(worker_id=worker.id, cause=Cause.SHUTDOWN))
            self.reconciler.post(WorkerEvent(worker_id=worker.id, cause=Cause.UNWANTED))
        self.reconciler.close_doors()
        await self.reconciler.emptied()

    async def _adopt_then_watch(self) -> None:
        watching = self._tasks.create_task(self._sweeper.run_watch(), name="engine_events")
        try:
            await self.adopt()
            await self._sweeper.run_sweeps()
        finally:
            watching.cancel()

    async def _beat(self) -> None:
        """Say every few seconds that the workers were watched: a bill that lost its end stops there."""
        while True:
            if self._adopted and self.state.engine_up:
                self._add_heartbeat()
            self.observers.gpu_watch.look()
            self.reconciler.wake()
            await asyncio.sleep(_HEARTBEAT_S)

    def readings(self, commits: Callable[[], CommitReading]) -> Readings:
        """Where a scrape reads; `commits` tells of the store."""
        return replace(self.observers.readings(commits, self._executor.begun), running=self.meter.running)

    def _add_heartbeat(self) -> None:
        clock = self._ports.clock
        beat = HeartbeatWritten(boot_id=clock.boot_id, boot_ns=clock.boot_ns(), wall_ms=clock.at_ms())
        self.journal.add(beat)

    def _efforts(self, prober: Prober) -> dict[Action, Effort]:
        launching = Launching(self.hands, self.prewarmer, self.gpu_keeper, self._keeper, prober)
        ending = Ending(self.hands, self.gpu_keeper)
        return {
            Action.PULL_IMAGE: launching.pull_image,
            Action.VERIFY_GPUS: launching.verify_gpus,
            Action.LAUNCH: launching.launch,
            Action.AWAIT_READY: prober.await_ready,
            Action.WATCH_HEALTH: prober.watch_health,
            Action.AWAIT_RETURN: prober.await_return,
            Action.PAUSE: self._stepping.pause,
            Action.DOZE: self._stepping.doze,
            Action.WAKE: self._stepping.wake,
            Action.DISCARD: self._stepping.discard,
            Action.STOP: ending.stop,
            Action.BURY: ending.bury,
            Action.RELEASE: ending.release,
        }


def _budget_keeper(
    ports: FleetPorts, settings: FleetSettings, reconciler: Reconciler, journal: Journal, meter: Meter
) -> BudgetKeeper | None:
    if ports.reads is None or not settings.budgets:
        return None
    spending = spending_of(ports.reads, meter, reconciler.state, settings.tariff)
    return BudgetKeeper(
        settings.budgets, spending, reconciler, journal, ports.clock, every_s=settings.budgets_every_s
    )


def _hands_of(ports: FleetPorts, reconciler: Reconciler, settings: FleetSettings) -> Hands:
    return Hands(
        runtime=ports.runtime,
        images=ports.images,
        gpus=ports.gpus,
        probe=ports.probe,
        access=ports.access,
        traffic=ports.traffic,
        clock=ports.clock,
        ids=ports.ids,
        reconciler=reconciler,
        settings=settings,
        logs=ports.logs,
        line=ports.line,
    )

"""The simulated machine: engine, images, GPUs, disk and clock. It outlives every crash of the daemon."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gpud.adapters.sqlite.store import memory_database
from gpud.core.probing import ProbeOutcome, ProbeResult
from gpud.ports.containers import ContainerStatus
from tests.fakes.clock import FakeClock, SeededIds
from tests.fakes.gpus import FakeGpus, fake_gpus
from tests.fakes.images import FakeImages
from tests.fakes.page_cache import FakePageCache
from tests.fakes.runtime import FakeRuntime
from tests.fakes.steps import fake_steps
from tests.fakes.tiers import fake_tiers

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.adapters.sqlite.hops import Execute
    from gpud.core.budget import Budget
    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from tests.fakes.runtime import FakeContainer

T = TypeVar("T")

_WRITES = re.compile(r"^\s*(INSERT|UPDATE|DELETE)\b", re.MULTILINE)

GPU_MIB = 24_576
"""Memory of each GPU of the box."""

_OK = ProbeResult(outcome=ProbeOutcome.OK, status=200)
_REFUSED = ProbeResult(outcome=ProbeOutcome.REFUSED)
_TIMEOUT = ProbeResult(outcome=ProbeOutcome.TIMEOUT)
_SICK = ProbeResult(outcome=ProbeOutcome.BAD_STATUS, status=500)


@dataclass(slots=True, eq=False)
class Lifetime:
    """When a container really ran, on the boot clock; `ended_ns` is None while it does.

    `memory_mib` is what it was told is its own of a shared GPU; 0 when its GPUs are.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    gpu_uuids: tuple[GpuUuid, ...]
    boot_id: str
    started_ns: int
    memory_mib: int = 0
    ended_ns: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class _FullDisk:
    """A connection whose database cannot grow: it reads, and no row gets in."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @property
    def in_transaction(self) -> bool:
        return self._database.in_transaction

    def executemany(self, statement: str, rows: list[Any]) -> None:
        for row in rows:
            self.execute(statement, row)

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        if _WRITES.search(statement):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return self._database.execute(statement, parameters)


@dataclass(slots=True)
class Disk:
    """The disk below the store: it may be full, and it may be slow.

    Attributes:
        full: Writes fail and leave nothing.
        delay_s: How long a write takes, and again its answer.
    """

    full: bool = False
    delay_s: Callable[[], float] = field(default=lambda: 0.0)

    def executing(self, database: sqlite3.Connection) -> Execute:
        """What carries functions to the database, through this disk."""

        async def execute(function: Callable[[sqlite3.Connection], T], /) -> T:
            await self._take_time()
            done = function(cast("sqlite3.Connection", _FullDisk(database)) if self.full else database)
            await self._take_time()
            return done

        return execute

    async def _take_time(self) -> None:
        delay_s = self.delay_s()
        if delay_s:
            await asyncio.sleep(delay_s)


class ContainerProbe:
    """A health probe that asks the simulated containers."""

    def __init__(self, box: Box) -> None:
        self._box = box

    async def probe(
        self,
        address: str,
        port: int,  # noqa: ARG002 - the port's own signature
        path: str,
        *,
        timeout_s: float,
        body: str = "",  # noqa: ARG002 - the port's own signature
    ) -> ProbeResult:
        found = self._box.listening_at(address)
        if found is None:
            return _REFUSED
        if path == "/smoke" and "SMOKES" in found.env:
            return _SICK
        if found.worker_id in self._box.hung:
            await asyncio.sleep(timeout_s)
            return _TIMEOUT
        return _SICK if found.worker_id in self._box.sick else _OK


class Box:
    """One machine.

    Args:
        seed: Of every chance in it.
        gpus: How many it has.

    Attributes:
        hung: Workers whose server answers nothing more.
        sick: Workers whose health check answers 500.
        lifetimes: Every run of every container, oldest first.
        breaches: Containers that ran on the same GPU at once; whatever the daemon knew of them.
        budgets: What the settings of the next daemon say endpoints may use.
        on_start: Told of each container after it has started, to spoil it.
        breaks_share: How many pieces of a round are followed by a break, in which others run.
        on_break: Told of each of these before it.
    """

    def __init__(self, seed: int, *, gpus: int) -> None:
        self.clock = FakeClock()
        self.ids = SeededIds(seed)
        self.images = FakeImages()
        self.gpus = FakeGpus(fake_gpus(gpus, memory_mib=GPU_MIB))
        self.runtime = FakeRuntime(
            wall_ns=self.clock.wall_ns,
            rng=random.Random(f"{seed}:runtime"),
            has_image=self.images.has,
        )
        self.page_cache = FakePageCache()
        self.tiers = fake_tiers(self.runtime, wall_ns=self.clock.wall_ns)
        self.runtime.on_start = self._container_started
        self.runtime.on_end = self._container_ended
        self.runtime.on_sleep = self._gave_gpus_back
        self.runtime.on_wake = self._took_gpus_again
        self.steps = fake_steps(self.runtime)
        self.images.in_use = lambda pin: any(
            each.launch.image.pin == pin for each in self.runtime.containers.values()
        )
        self.disk = Disk()
        self.database = memory_database()
        self.probe = ContainerProbe(self)
        self.hung: set[WorkerId] = set()
        self.sick: set[WorkerId] = set()
        self.lifetimes: list[Lifetime] = []
        self.breaches: list[str] = []
        self.on_start: Callable[[FakeContainer], None] = lambda _: None
        self.budgets: tuple[Budget, ...] = ()
        self._running: dict[WorkerId, Lifetime] = {}
        self._asleep: set[WorkerId] = set()
        self._boots = 1
        self.breaks_share = 0.1
        self.on_break: Callable[[], None] = lambda: None
        self.rng_of_breaks = random.Random(f"{seed}:breaks")

    def listening_at(self, address: str) -> FakeContainer | None:
        """The container whose server takes connections at an address."""
        now_s = asyncio.get_running_loop().time()
        for each in self.runtime.containers.values():
            if each.running and not each.frozen and each.address == address and each.listens_at_s <= now_s:
                return each
        return None

    def ended_event(self, worker_id: WorkerId) -> asyncio.Event:
        """Set when the container that runs now under this id has ended."""
        return self._running[worker_id].ended

    def reboot(self) -> None:
        """The machine goes down and comes up: nothing runs, nothing is on the GPUs."""
        for each in list(self.runtime.containers.values()):
            if each.status is ContainerStatus.RUNNING:
                self.runtime.crash(each.worker_id, exit_code=137)
        self._boots += 1
        self.clock.reboot(f"boot-{self._boots}")
        self.hung.clear()
        self.sick.clear()

    def _container_started(self, found: FakeContainer) -> None:
        launch = found.launch
        memory_mib = int(dict(launch.env).get("GPUD_GPU_MEMORY_MIB", 0))
        self._check_alone(found, memory_mib)
        lifetime = Lifetime(
            worker_id=launch.worker_id,
            endpoint=launch.endpoint,
            gpu_uuids=launch.gpu_uuids,
            boot_id=self.clock.boot_id,
            started_ns=self.clock.boot_ns(),
            memory_mib=memory_mib,
        )
        beside = [each for each in self._on_gpus() if set(each.gpu_uuids) & set(launch.gpu_uuids)]
        together_mib = memory_mib + sum(each.memory_mib for each in beside)
        if together_mib > GPU_MIB:
            self.breaches.append(f"{launch.worker_id} started where {together_mib} MiB are reserved then.")
        self._running[launch.worker_id] = lifetime
        self.lifetimes.append(lifetime)
        for uuid in launch.gpu_uuids:
            self.gpus.start_process(uuid, found.pid, used_mib=memory_mib or 1024)
        self.on_start(found)

    def _on_gpus(self) -> list[Lifetime]:
        return [each for each in self._running.values() if each.worker_id not in self._asleep]

    def _check_alone(self, found: FakeContainer, memory_mib: int) -> None:
        launch = found.launch
        for other in self._on_gpus():
            shared = set(other.gpu_uuids) & set(launch.gpu_uuids)
            if shared and not (memory_mib and other.memory_mib):
                self.breaches.append(
                    f"{launch.worker_id} of {launch.endpoint} started on {', '.join(sorted(shared))}, where "
                    f"{other.worker_id} of {other.endpoint} runs."
                )

    def _gave_gpus_back(self, found: FakeContainer) -> None:
        self._asleep.add(found.worker_id)
        self.gpus.end_process(found.pid)

    def _took_gpus_again(self, found: FakeContainer) -> None:
        self._check_alone(found, 0)
        self._asleep.discard(found.worker_id)
        for uuid in found.launch.gpu_uuids:
            self.gpus.start_process(uuid, found.pid, used_mib=1024)

    def _container_ended(self, found: FakeContainer) -> None:
        lifetime = self._running.pop(found.worker_id)
        lifetime.ended_ns = self.clock.boot_ns()
        lifetime.ended.set()
        self._asleep.discard(found.worker_id)
        self.gpus.end_process(found.pid)
        self.hung.discard(found.worker_id)
        self.sick.discard(found.worker_id)

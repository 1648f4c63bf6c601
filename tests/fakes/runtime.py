"""A container engine in memory on the running loop's time: no threads, no wall clock, only seeded chance."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from gpud.core.stalls import Activity
from gpud.errors import DependencyDown, ImageNotFound, LaunchFailed
from gpud.ports.containers import ContainerStatus, EngineInfo, SeenContainer, WorkerLaunch
from tests.fakes.faults import Fault, FaultKind, Faults

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Callable

    from gpud.core.ids import WorkerId
    from gpud.errors import GpudError

ResultT = TypeVar("ResultT")

SIGKILLED = 137
_ENGINE = EngineInfo(version="fake", api_version="1.41", gpu_device_requests=True)


@dataclass(slots=True, eq=False)
class FakeContainer:
    """A container as the engine has it.

    Attributes:
        listens_at_s: Loop time from which its server answers; infinite when it never does.
        held: It runs, and its command does not yet.
        frozen: It runs and does nothing; the engine's own calls thaw it first, as gpud's adapter does.
        asleep: It runs and has nothing on its GPUs.
    """

    launch: WorkerLaunch
    created_ns: int
    status: ContainerStatus = ContainerStatus.CREATED
    address: str = ""
    pid: int = 0
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    out_of_memory: bool = False
    listens_at_s: float = math.inf
    log: str = ""
    env: dict[str, str] = field(default_factory=dict)
    held: bool = False
    frozen: bool = False
    asleep: bool = False

    @property
    def worker_id(self) -> WorkerId:
        return self.launch.worker_id

    @property
    def running(self) -> bool:
        return self.status is ContainerStatus.RUNNING

    def seen(self, *, create_s: float = 0.0) -> SeenContainer:
        launch = self.launch
        return SeenContainer(
            worker_id=launch.worker_id,
            endpoint=launch.endpoint,
            revision=launch.revision,
            generation=launch.generation,
            status=self.status,
            gpu_uuids=launch.gpu_uuids,
            address=self.address if self.running else "",
            created_ns=self.created_ns,
            started_ns=self.started_ns,
            finished_ns=self.finished_ns,
            exit_code=self.exit_code,
            out_of_memory=self.out_of_memory,
            pid=self.pid if self.running else 0,
            create_s=create_s,
        )


class FakeRuntime:
    """A `ContainerRuntime` that a test or a simulation steers.

    Containers obey the knobs of the rig's worker image that matter to an engine: EXIT_AT_START,
    IGNORE_SIGTERM, BOOT_DELAY_S, NEVER_LISTEN; with HANGS_AFTER_S they use no CPU from then on.

    Args:
        wall_ns: The engine's clock.
        rng: For lost, repeated and late events, and for calls whose caller was cancelled.
        has_image: Whether the engine has an image, by its pin.

    Attributes:
        boot_s: From start to listening, where a container has no BOOT_DELAY_S.
        create_s, start_s, stop_s, remove_s, look_s: Time each step takes.
        call_timeout_s: When a hanging call fails.
        event_loss, event_repeat: Chance of each event, 0 to 1.
        event_delay_s: Longest delay of an event; delays reorder.
        cancelled_lands: Chance that a call whose caller was cancelled has its effect all the same.
        refuse: Lets the engine refuse a launch.
        on_start, on_end, on_sleep, on_wake: Told when a container starts, ends, gives its GPUs back and
            takes them again, for a fake of its GPUs.
        containers: Every container, in order of creation.
        faults: Of the methods, by their names.
    """

    def __init__(
        self,
        *,
        wall_ns: Callable[[], int],
        rng: random.Random,
        has_image: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.boot_s = 0.0
        self.create_s, self.start_s, self.stop_s, self.remove_s, self.look_s = 0.0, 0.0, 0.0, 0.0, 0.0
        self.call_timeout_s = 60.0
        self.event_loss = 0.0
        self.event_repeat = 0.0
        self.event_delay_s = 0.0
        self.cancelled_lands = 0.5
        self.refuse: Callable[[WorkerLaunch], GpudError | None] = lambda _: None
        self.on_start: Callable[[FakeContainer], None] = lambda _: None
        self.on_end: Callable[[FakeContainer], None] = lambda _: None
        self.on_sleep: Callable[[FakeContainer], None] = lambda _: None
        self.on_wake: Callable[[FakeContainer], None] = lambda _: None
        self.containers: dict[WorkerId, FakeContainer] = {}
        self.faults = Faults()
        self._wall_ns = wall_ns
        self._rng = rng
        self.has_image = has_image
        self._down = False
        self._pids = itertools.count(10_001)
        self._watchers: list[asyncio.Queue[WorkerId | None]] = []

    # What the port promises.

    async def ping(self) -> EngineInfo:
        return await self._call("ping", self.look_s, lambda: _ENGINE)

    async def prepare(self) -> None:
        await self._call("prepare", self.look_s, lambda: None)

    async def start_worker(self, launch: WorkerLaunch) -> SeenContainer:
        fault = self._begin("start_worker")
        found = self.containers.get(launch.worker_id)
        if found is None:
            await self._step(self.create_s, fault, lambda: self._create(launch))
            if fault and fault.kind is FaultKind.HALFWAY:
                raise fault.raised()
            create_s = self.create_s
        else:
            create_s = 0.0
        await self._step(self.start_s, fault, lambda: self._start(launch))
        await self._end(fault)
        return self._adopt(launch).seen(create_s=create_s)

    async def create_worker(self, launch: WorkerLaunch) -> SeenContainer:
        fault = self._begin("create_worker")
        if launch.worker_id not in self.containers:
            await self._step(self.create_s, fault, lambda: self._create(launch))
        await self._end(fault)
        return self._adopt(launch).seen()

    async def inspect_worker(self, worker_id: WorkerId) -> SeenContainer | None:
        return await self._call("inspect_worker", self.look_s, lambda: self._seen(worker_id))

    async def list_workers(self) -> tuple[SeenContainer, ...]:
        return await self._call(
            "list_workers", self.look_s, lambda: tuple(each.seen() for each in self.containers.values())
        )

    async def stop_worker(self, worker_id: WorkerId, *, grace_s: float) -> SeenContainer | None:
        fault = self._begin("stop_worker")
        ends_in_s = await self._step(self.look_s, fault, lambda: self._send_stop(worker_id, grace_s))
        await asyncio.sleep(ends_in_s)
        await self._end(fault)
        return self._seen(worker_id)

    async def remove_worker(self, worker_id: WorkerId) -> None:
        await self._call("remove_worker", self.remove_s, lambda: self.vanish(worker_id))

    async def log_tail(self, worker_id: WorkerId, *, bytes_max: int) -> str:
        def read() -> str:
            found = self.containers.get(worker_id)
            log = found.log.encode() if found else b""
            return log[max(len(log) - bytes_max, 0) :].decode(errors="replace")

        return await self._call("log_tail", self.look_s, read)

    async def activity(self, worker_id: WorkerId) -> Activity | None:
        def look() -> Activity | None:
            found = self.containers.get(worker_id)
            if found is None or not found.running:
                return None
            ran_s = (self._wall_ns() - found.started_ns) / 1e9
            busy_s = min(ran_s, float(found.env.get("HANGS_AFTER_S", "inf")))
            return Activity(log_mark=found.log[-64:], cpu_s=busy_s, memory_bytes=1 << 20)

        return await self._call("activity", self.look_s, look)

    async def pids(self, worker_id: WorkerId) -> tuple[int, ...]:
        def look() -> tuple[int, ...]:
            found = self.containers.get(worker_id)
            return (found.pid,) if found and found.running else ()

        return await self._call("pids", self.look_s, look)

    async def watch(self) -> AsyncGenerator[WorkerId]:
        self._require_up()
        inbox: asyncio.Queue[WorkerId | None] = asyncio.Queue()
        self._watchers.append(inbox)
        try:
            while (worker_id := await inbox.get()) is not None:
                yield worker_id
        finally:
            self._watchers.remove(inbox)

    # What a test does to the engine and its containers.

    def crash(self, worker_id: WorkerId, *, exit_code: int = 1, out_of_memory: bool = False) -> None:
        """The container's process ends by itself; nothing happens when it does not run."""
        found = self.containers.get(worker_id)
        if found is not None and found.running:
            self._finish(found, SIGKILLED if out_of_memory else exit_code, out_of_memory=out_of_memory)

    def vanish(self, worker_id: WorkerId) -> None:
        """Somebody removes the container by force."""
        found = self.containers.get(worker_id)
        if found is None:
            return
        if found.running:
            self._finish(found, SIGKILLED)
        del self.containers[worker_id]
        self._emit(worker_id)

    def listens(self, address: str) -> bool:
        """Whether a server answers at an address now."""
        now_s = asyncio.get_running_loop().time()
        return any(
            each.running and not each.frozen and each.address == address and each.listens_at_s <= now_s
            for each in self.containers.values()
        )

    def stop_engine(self, *, containers_live: bool = True) -> None:
        """The engine ends: calls fail and event streams end; without live restore containers end too."""
        self._down = True
        if not containers_live:
            for each in self.containers.values():
                if each.running:
                    self._finish(each, SIGKILLED, told=False)
        self.cut_events()

    def start_engine(self) -> None:
        """The engine answers again."""
        self._down = False

    def cut_events(self) -> None:
        """Every event stream ends."""
        for inbox in self._watchers:
            inbox.put_nowait(None)

    # How it does it.

    async def _call(self, name: str, takes_s: float, effect: Callable[[], ResultT]) -> ResultT:
        fault = self._begin(name)
        result = await self._step(takes_s, fault, effect)
        await self._end(fault)
        return result

    def _begin(self, name: str) -> Fault | None:
        self._require_up()
        return self.faults.next_for(name)

    async def _step(self, takes_s: float, fault: Fault | None, effect: Callable[[], ResultT]) -> ResultT:
        """Take the time, then have the effect; the errors that come before it come from here."""
        kind = fault.kind if fault else None
        if fault and kind is FaultKind.HANG_BEFORE:
            await asyncio.sleep(self.call_timeout_s)
            raise fault.raised()
        try:
            await asyncio.sleep(takes_s + (fault.delay_s if fault else 0.0))
        except asyncio.CancelledError:
            # A thread that makes the call does not hear of it.
            if kind is not FaultKind.ERROR_BEFORE and self._rng.random() < self.cancelled_lands:
                asyncio.get_running_loop().call_soon(self._land, effect)
            raise
        self._require_up()
        if fault and kind is FaultKind.ERROR_BEFORE:
            raise fault.raised()
        return effect()

    async def _end(self, fault: Fault | None) -> None:
        if fault is None:
            return
        if fault.kind is FaultKind.HANG_AFTER:
            await asyncio.sleep(self.call_timeout_s)
        if fault.kind in (FaultKind.HANG_AFTER, FaultKind.ERROR_AFTER):
            raise fault.raised()

    def _land(self, effect: Callable[[], object]) -> None:
        if self._down:
            return
        try:
            effect()
        except (DependencyDown, ImageNotFound, LaunchFailed):
            return  # Nobody is left to hear it.

    def _require_up(self) -> None:
        if self._down:
            raise DependencyDown("The Docker Engine is not running. Start it.")

    def _create(self, launch: WorkerLaunch) -> None:
        if launch.worker_id in self.containers:
            return
        if not self.has_image(launch.image.pin):
            raise ImageNotFound(f"The image {launch.image.pin} is not on the box any more.")
        if error := self.refuse(launch):
            raise error
        created = FakeContainer(launch=launch, created_ns=self._wall_ns(), env=dict(launch.env))
        self.containers[launch.worker_id] = created

    def _start(self, launch: WorkerLaunch) -> None:
        found = self._adopt(launch)
        if found.status is not ContainerStatus.CREATED:
            return
        found.status = ContainerStatus.RUNNING
        found.started_ns = self._wall_ns()
        found.pid = next(self._pids)
        found.address = self._free_address()
        if launch.hold is not None:
            found.held = True
            self._emit(found.worker_id)
            return
        self._run_command(found)

    def release(self, worker_id: WorkerId, env: dict[str, str]) -> bool:
        """Let a held container's command run; False when none is held."""
        found = self.containers.get(worker_id)
        if found is None or not found.running or not found.held:
            return False
        found.held = False
        found.env |= env
        self._run_command(found)
        return True

    def _run_command(self, found: FakeContainer) -> None:
        loop, launch = asyncio.get_running_loop(), found.launch
        exits = found.env.get("EXIT_AT_START", "") not in ("", "-1")
        if found.env.get("NEVER_LISTEN") != "1" and not exits:
            found.listens_at_s = loop.time() + float(found.env.get("BOOT_DELAY_S", self.boot_s))
        found.log += f"listening on port {launch.port}\n"
        self.on_start(found)
        self._emit(found.worker_id)
        if exits:
            code = int(found.env["EXIT_AT_START"])
            loop.call_soon(lambda: self.crash(found.worker_id, exit_code=code))

    def _adopt(self, launch: WorkerLaunch) -> FakeContainer:
        found = self.containers.get(launch.worker_id)
        if found is None:
            raise LaunchFailed("The container was removed while it was being started.")
        if found.launch.generation != launch.generation:
            raise LaunchFailed("A container of that name is not the one to be started.", permanent=True)
        return found

    def _send_stop(self, worker_id: WorkerId, grace_s: float) -> float:
        """Send the signal; return how long the container lives on."""
        found = self.containers.get(worker_id)
        if found is None or not found.running:
            return 0.0
        found.frozen = False
        obeys = found.env.get("IGNORE_SIGTERM") != "1" and self.stop_s < grace_s
        ends_in_s, code = (self.stop_s, 0) if obeys else (grace_s, SIGKILLED)

        def end() -> None:
            if found.running:
                self._finish(found, code)

        if ends_in_s:
            asyncio.get_running_loop().call_later(ends_in_s, end)
        else:
            end()
        return ends_in_s

    def _finish(
        self, found: FakeContainer, code: int, *, out_of_memory: bool = False, told: bool = True
    ) -> None:
        found.status = ContainerStatus.EXITED
        found.finished_ns = max(self._wall_ns(), found.started_ns)
        found.exit_code, found.out_of_memory = code, out_of_memory
        found.listens_at_s = math.inf
        if not found.held:
            self.on_end(found)
        if told:
            self._emit(found.worker_id)

    def _seen(self, worker_id: WorkerId) -> SeenContainer | None:
        found = self.containers.get(worker_id)
        return found.seen() if found else None

    def _free_address(self) -> str:
        """The lowest free one, as a real engine does: addresses come back soon."""
        taken = {each.address for each in self.containers.values() if each.running}
        addresses = (f"10.99.{number // 250}.{number % 250 + 2}" for number in itertools.count())
        return next(address for address in addresses if address not in taken)

    def _emit(self, worker_id: WorkerId) -> None:
        loop = asyncio.get_running_loop()
        for inbox in self._watchers:
            if self.event_loss and self._rng.random() < self.event_loss:
                continue
            times = 2 if self.event_repeat and self._rng.random() < self.event_repeat else 1
            for _ in range(times):
                delay_s = self._rng.uniform(0.0, self.event_delay_s) if self.event_delay_s else 0.0
                loop.call_later(delay_s, inbox.put_nowait, worker_id)

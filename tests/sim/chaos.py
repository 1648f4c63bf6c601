"""Everything that may go wrong on a box, by seeded chance; and an end to it, after which all must be well."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpud.core.endpoint import Balance, HealthCheck, Limits, PolicyName, Preempt, ScalePolicy
from gpud.core.gpu import GpuHealth
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.rollout_policy import RolloutPolicy, RolloutStrategy
from gpud.core.standby import StandbyMode, StandbyPolicy
from gpud.core.step_policy import PausePolicy, SleepPolicy, SleepPreset
from gpud.errors import GpudError
from tests.fakes.faults import Fault, FaultKind
from tests.fakes.gpus import fake_gpus
from tests.sim.final import LATE_NS
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.fakes.runtime import FakeContainer

HEALTH = HealthCheck(start_timeout_s=60.0, not_ready_timeout_s=30.0)
LIMITS = Limits(
    request_timeout_s=60.0, max_queue=50, queue_timeout_s=120.0, drain_timeout_s=30.0, stop_grace_s=10.0
)
IDLE_TIMEOUT_S_MAX = 60.0
SETTLE_S = 10.0
CALM_S = 600.0
"""How long the box may take until all is well after the last fault: a request held for 120 s and
served for 60 s, a hanging engine call (60 s) on each of the steps of a worker's end and of its
successor's start, a drain (30 s), a start that times out (60 s), its backoff (36 s at most), a
GPU's quarantine (75 s), an idle timeout (60 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What kind of world a seed makes.

    Args:
        call_faults: Chance of a fault in one call of the engine or the image store.
        bad_starts: Chance that a container is spoiled in some way.
        mean_s: Mean time between troubles of each kind that occurs here.
        crash_mean_s: Mean time between deaths of the daemon.
        pause_s: Mean time between calls of an endpoint, when it is called little.
    """

    gpus: int
    endpoints: int
    call_faults: float
    bad_starts: float
    mean_s: float
    crash_mean_s: float
    troubles: frozenset[str]
    pause_s: float = 120.0


TROUBLES = (
    "engine",
    "registry",
    "images",
    "disk",
    "slow_disk",
    "containers",
    "gpus",
    "nvml",
    "wall",
    "events",
    "operator",
    "deploys",
)


def plot_of(rng: random.Random) -> Plot:
    """Choose a world: some of the troubles only, for where all happen none comes through."""
    return Plot(
        gpus=rng.randint(1, 4),
        endpoints=rng.randint(2, 5),
        call_faults=rng.choice((0.0, 0.0, 0.02, 0.1)),
        bad_starts=rng.choice((0.0, 0.1, 0.3)),
        mean_s=rng.choice((60.0, 180.0, 400.0)),
        crash_mean_s=rng.choice((120.0, 400.0, 1e9)),
        troubles=frozenset(trouble for trouble in TROUBLES if rng.random() < 0.5),
    )


class Chaos:
    """One seed's world.

    Args:
        seed: Of everything.
        plot: What kind of world; by default the seed's own.
    """

    def __init__(self, seed: int, *, plot: Plot | None = None) -> None:
        self._rng = random.Random(f"{seed}:chaos")
        self.plot = plot or plot_of(self._rng)
        self.sim = Sim(seed, gpus=self.plot.gpus, settle_s=SETTLE_S)
        self._standby_rng = random.Random(f"{seed}:standby")
        self._steps_rng = random.Random(f"{seed}:steps")
        self._sharing_rng = random.Random(f"{seed}:sharing")
        self._rollout_rng = random.Random(f"{seed}:rollout")
        self._gpu_uuids = [gpu.uuid for gpu in fake_gpus(self.plot.gpus)]
        self.names = [f"e{number}" for number in range(self.plot.endpoints)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: set[asyncio.Task[None]] = set()
        self._rebooted = False
        self._versions: Counter[str] = Counter()

    # -- the story -----------------------------------------------------------------------------

    def live(self, *, for_s: float) -> None:
        """Deploy, then let everything happen at once for a while."""
        sim, rng = self.sim, self._rng
        sim.images.pull_s = rng.choice((0.0, 3.0, 40.0))
        sim.runtime.boot_s = rng.choice((0.0, 2.0, 20.0))
        sim.runtime.create_s, sim.runtime.start_s = rng.choice(((0.0, 0.0), (0.2, 0.5)))
        sim.runtime.stop_s, sim.runtime.look_s = rng.choice((0.0, 1.0)), rng.choice((0.0, 0.01))
        sim.gpus.memory_return_s = rng.choice((0.0, 1.0))
        for name in self.names:
            self._push(name)
            sim.do(self._deploy(name, guarantee=name == self.names[0]))
        self._begin()
        end_s = sim.now_s + for_s
        while sim.now_s < end_s:
            sim.run(for_s=min(rng.expovariate(1 / self.plot.crash_mean_s), end_s - sim.now_s))
            if sim.now_s < end_s:
                self._die()

    def calm(self) -> None:
        """Nothing goes wrong any more and nobody calls; what is broken for good is repaired by hand."""
        sim = self.sim
        sim.do(self._stop_tasks(self._tasks))
        sim.runtime.faults.source = None
        sim.images.faults.source = None
        sim.runtime.event_loss = sim.runtime.event_repeat = sim.runtime.event_delay_s = 0.0
        sim.box.on_start = lambda _: None
        sim.box.disk.full = False
        sim.box.disk.delay_s = lambda: 0.0
        sim.runtime.start_engine()
        sim.images.plug()
        sim.gpus.resume()
        for uuid in list(sim.up.fleet.state.gpus):
            sim.gpus.recover(uuid)
        sim.run(for_s=60.0)
        self._repair()
        sim.run(for_s=CALM_S)
        self._repair()
        sim.run(for_s=CALM_S)

    def _repair(self) -> None:
        async def uncordon() -> None:
            for uuid, status in list(self.sim.up.fleet.state.gpus.items()):
                if status.health in (GpuHealth.UNHEALTHY, GpuHealth.CORDONED):
                    await self.sim.up.fleet.control.set_cordon(uuid, cordoned=False)

        self.sim.do(uncordon())

    def _die(self) -> None:
        """The daemon's end comes between any two turns of the loop, not only between seconds."""
        sim, rng = self.sim, self._rng
        sim.run_steps(rng.randint(0, 300))
        sim.do(self._stop_tasks(self._callers))
        way = rng.choice(("kill", "kill", "kill", "reboot"))
        if way == "reboot":
            self._rebooted = True
            sim.reboot()
            return
        sim.crash_daemon()
        sim.run(for_s=rng.choice((0.0, 1.0, 60.0)))
        sim.restart()

    @property
    def late_ns(self) -> int:
        """What may be billed too much in this world."""
        return LATE_NS if self._rebooted or "wall" in self.plot.troubles else 0

    @property
    def answers_lost(self) -> bool:
        """Whether the engine is not always heard in this world."""
        return bool(self.plot.call_faults) or bool({"events", "engine"} & self.plot.troubles)

    # -- what users do -------------------------------------------------------------------------

    def _push(self, name: str) -> None:
        self._versions[name] += 1
        self.sim.images.push(self._image(name))

    def _image(self, name: str) -> str:
        return f"registry.example/{name}:{self._versions[name]}"

    async def _deploy(self, name: str, *, guarantee: bool = False) -> None:
        rng = self._rng
        gpus = 2 if self.plot.gpus > 2 and not guarantee and rng.random() < 0.2 else rng.choice((1, 1, 1, 0))
        # What came to the world later has chances of its own, so that old seeds stay what they were.
        dice = self._sharing_rng
        slice_mib = dice.choice((0, 0, 4_000, 9_000, 16_000)) if gpus == 1 else 0
        policies = list(PolicyName)
        if gpus:  # a guarantee of more than the box has would be refused
            policies.remove(PolicyName.FIXED)
        scale = ScalePolicy(
            min_workers=1 if guarantee and self.plot.gpus > 1 else 0,
            max_workers=rng.randint(1, 3),
            policy=dice.choice(policies),
            more_policies=tuple(dice.sample(policies, dice.choice((0, 0, 1)))),
            scale_to_zero_delay_s=dice.choice((0.0, 0.0, 30.0)),
            priority_aging_s=dice.choice((0.0, 0.0, 20.0)),
            preempt=dice.choice(list(Preempt)),
            concurrency=rng.choice((1, 1, 4)),
            idle_timeout_s=rng.choice((0.0, 5.0, 20.0, IDLE_TIMEOUT_S_MAX)),
            priority=rng.choice((0, 0, 5)),
            balance=rng.choice(list(Balance)),
        )
        standby = StandbyPolicy(
            mode=self._standby_rng.choice(list(StandbyMode)), workers=self._standby_rng.choice((1, 1, 2))
        )
        spec = self.sim.spec(
            name,
            scale,
            gpus=gpus,
            image=self._image(name),
            health=HEALTH,
            limits=LIMITS,
            slice_mib=slice_mib,
        )
        rollout = RolloutPolicy(
            strategy=self._rollout_rng.choice(list(RolloutStrategy)),
            verify=self._rollout_rng.random() < 0.5,
            min_healthy_time_s=self._rollout_rng.choice((0.0, 10.0, 60.0)),
            progress_deadline_s=self._rollout_rng.choice((120.0, 600.0)),
        )
        spec = replace(spec, standby=StandbyPolicy() if slice_mib else standby, rollout=rollout)
        spec = replace(spec, **self._steps(slice_mib))
        await self.sim.up.fleet.control.deploy(spec)

    def _steps(self, slice_mib: int) -> dict[str, Any]:
        """What idle workers do, and how it goes wrong for some."""
        rng = self._steps_rng
        pause = PausePolicy(after_idle_s=rng.choice((0.0, 0.5, 5.0)))
        sleep = SleepPolicy(
            preset=rng.choice((SleepPreset.NONE, SleepPreset.VLLM)),
            after_idle_s=rng.choice((0.5, 3.0, 15.0)),
            timeout_s=5.0,
        )
        env = rng.choice(((), (), (), ("SLEEP_FAILS",), ("WAKE_FAILS",), ("SLEEP_HANGS",), ("WAKE_HANGS",)))
        facts: dict[str, Any] = {"pause": pause, "sleep": SleepPolicy() if slice_mib else sleep}
        return facts | ({"env": tuple((name, "1") for name in env)} if env else {})

    async def _call(self, name: str) -> None:
        """One endpoint's callers: silence, a trickle or a burst, in turn."""
        rng, sim, pause_s = self._rng, self.sim, self.plot.pause_s
        while True:
            await asyncio.sleep(rng.expovariate(1 / rng.choice((2.0, pause_s / 4, pause_s))))
            for _ in range(rng.choice((1, 1, 1, 3, 20))):
                if sim.daemon is None or sim.daemon.killed or not sim.daemon.started.is_set():
                    continue
                patience_s = rng.choice((None, None, rng.expovariate(1 / 5.0), 60.0))
                sim.request(name, takes_s=rng.choice((0.0, 0.05, 1.0, 10.0)), patience_s=patience_s)

    async def _operate(self) -> None:
        """One thing an operator does."""
        rng, fleet = self._rng, self.sim.up.fleet
        name = EndpointName(rng.choice(self.names))
        workers = list(fleet.state.workers)
        match rng.choice(("stop", "force", "rescale", "pause", "retry", "cordon", "uncordon")):
            case "stop" if workers:
                await fleet.control.stop_worker(rng.choice(workers), force=False)
            case "force" if workers:
                await fleet.control.stop_worker(rng.choice(workers), force=True)
            case "rescale" | "pause" as what if name in fleet.state.endpoints:
                spec = fleet.state.endpoints[name].spec
                most = 0 if what == "pause" and not spec.scale.min_workers else rng.randint(1, 3)
                await fleet.control.deploy(replace(spec, scale=replace(spec.scale, max_workers=most)))
            case "retry":
                await fleet.control.retry(name)
            case "cordon" | "uncordon" as what:
                uuid = rng.choice(self._gpu_uuids)
                await fleet.control.set_cordon(uuid, cordoned=what == "cordon")
            case _:
                pass

    async def _redeploy(self) -> None:
        """A new revision, or an end and a new beginning under the same name."""
        rng, fleet = self._rng, self.sim.up.fleet
        name = rng.choice(self.names)
        if rng.random() < 0.5:
            self._push(name)
        if rng.random() < 0.3 and EndpointName(name) in fleet.state.endpoints:
            await fleet.control.delete_endpoint(EndpointName(name))
            await asyncio.sleep(rng.choice((0.0, 0.0, 3.0)))
        await self._deploy(name, guarantee=name == self.names[0])

    # -- what goes wrong -----------------------------------------------------------------------

    def _begin(self) -> None:
        sim, plot = self.sim, self.plot
        if plot.call_faults:
            sim.runtime.faults.source = self._call_fault
            sim.images.faults.source = self._call_fault
        sim.box.on_start = self._spoil
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "engine": self._engine_away,
            "registry": self._registry_away,
            "images": self._image_lost,
            "disk": self._disk_full,
            "slow_disk": self._disk_slow,
            "containers": self._container_trouble,
            "gpus": self._gpu_trouble,
            "nvml": self._driver_hangs,
            "wall": self._wall_jumps,
            "events": self._events_lost,
            "operator": lambda: self._as_caller(self._operate()),
            "deploys": lambda: self._as_caller(self._redeploy()),
        }
        for name in self.names:
            self._spawn(self._call(name))
        for trouble in TROUBLES:
            if trouble in plot.troubles:
                self._spawn(self._again_and_again(kinds[trouble]))

    def _call_fault(self, call: str) -> Fault | None:
        rng = self._rng
        if rng.random() >= self.plot.call_faults:
            return None
        kind = rng.choice(list(FaultKind))
        if kind in (FaultKind.HANG_BEFORE, FaultKind.HANG_AFTER) and rng.random() < 0.7:
            kind = FaultKind.DELAY
        delay_s = rng.choice((0.01, 1.0, 10.0)) if kind is FaultKind.DELAY else 0.0
        del call
        return Fault(kind=kind, delay_s=delay_s)

    def _spoil(self, found: FakeContainer) -> None:
        rng, runtime = self._rng, self.sim.runtime
        if rng.random() >= self.plot.bad_starts:
            return
        loop, worker_id = asyncio.get_running_loop(), found.worker_id
        match rng.choice(("exit", "never", "stubborn", "dies", "oom", "hangs", "slow")):
            case "exit":
                loop.call_soon(lambda: runtime.crash(worker_id))
            case "never":
                found.listens_at_s = float("inf")
            case "stubborn":
                found.env["IGNORE_SIGTERM"] = "1"
            case "dies":
                loop.call_later(rng.expovariate(1 / 20.0), lambda: runtime.crash(worker_id))
            case "oom":
                loop.call_later(
                    rng.expovariate(1 / 20.0), lambda: runtime.crash(worker_id, out_of_memory=True)
                )
            case "hangs":
                loop.call_later(rng.expovariate(1 / 20.0), lambda: self._hang(worker_id))
            case "slow":
                found.listens_at_s = loop.time() + rng.choice((30.0, 59.0, 61.0))
            case _:
                pass

    def _hang(self, worker_id: WorkerId) -> None:
        found = self.sim.runtime.containers.get(worker_id)
        if found is not None and found.running:
            self.sim.box.hung.add(worker_id)

    async def _engine_away(self) -> None:
        runtime, rng = self.sim.runtime, self._rng
        runtime.stop_engine(containers_live=rng.random() < 0.5)
        await asyncio.sleep(rng.choice((0.5, 5.0, 30.0, 300.0)))
        runtime.start_engine()

    async def _registry_away(self) -> None:
        self.sim.images.unplug()
        await asyncio.sleep(self._rng.choice((5.0, 120.0)))
        self.sim.images.plug()

    async def _image_lost(self) -> None:
        state = self.sim.up.fleet.state
        if state.endpoints:
            self.sim.images.evict(self._rng.choice(list(state.endpoints.values())).image.pin)

    async def _disk_full(self) -> None:
        self.sim.box.disk.full = True
        await asyncio.sleep(self._rng.choice((0.1, 3.0, 60.0, 180.0)))
        self.sim.box.disk.full = False

    async def _disk_slow(self) -> None:
        rng = self._rng
        self.sim.box.disk.delay_s = lambda: rng.choice((0.0, 0.005, 0.3, 5.0))
        await asyncio.sleep(rng.choice((5.0, 60.0)))
        self.sim.box.disk.delay_s = lambda: 0.0

    async def _container_trouble(self) -> None:
        runtime, rng = self.sim.runtime, self._rng
        running = [each.worker_id for each in runtime.containers.values() if each.running]
        if not running:
            return
        worker_id = rng.choice(running)
        match rng.choice(("crash", "oom", "hang", "sick", "vanish")):
            case "crash":
                runtime.crash(worker_id)
            case "oom":
                runtime.crash(worker_id, out_of_memory=True)
            case "hang":
                self._hang(worker_id)
            case "sick":
                self.sim.box.sick.add(worker_id)
                await asyncio.sleep(rng.choice((2.0, 20.0, 120.0)))
                self.sim.box.sick.discard(worker_id)
            case "vanish":
                runtime.vanish(worker_id)
            case _:
                pass

    async def _gpu_trouble(self) -> None:
        rng, gpus = self._rng, self.sim.gpus
        uuid = rng.choice(self._gpu_uuids)
        match rng.choice(("lost", "xid", "foreign", "leak")):
            case "lost":
                gpus.lose(uuid)
                await asyncio.sleep(rng.choice((20.0, 200.0)))
                gpus.recover(uuid)
                await self._as_caller(self.sim.up.fleet.control.set_cordon(uuid, cordoned=False))
            case "xid":
                gpus.xid(uuid, 48)
                await asyncio.sleep(200.0)
                await self._as_caller(self.sim.up.fleet.control.set_cordon(uuid, cordoned=False))
            case "foreign":
                gpus.start_process(uuid, 99)
                await asyncio.sleep(rng.choice((1.0, 100.0)))
                gpus.end_process(99)
            case "leak":
                before_s, gpus.memory_return_s = gpus.memory_return_s, 40.0
                await asyncio.sleep(60.0)
                gpus.memory_return_s = before_s
            case _:
                pass

    async def _driver_hangs(self) -> None:
        self.sim.gpus.hang()
        await asyncio.sleep(self._rng.choice((2.0, 60.0)))
        self.sim.gpus.resume()

    async def _wall_jumps(self) -> None:
        clock, by_s = self.sim.box.clock, self._rng.choice((-3600.0, 3600.0, -86_400.0 * 365, 0.7, -0.7))
        # No Linux clock can be set to before 1970.
        clock.step_wall(by_s if clock.wall_ns() / 1e9 + by_s > 0 else -by_s)

    async def _events_lost(self) -> None:
        runtime, rng = self.sim.runtime, self._rng
        runtime.event_loss, runtime.event_repeat = rng.choice((0.0, 0.5, 1.0)), rng.choice((0.0, 0.5))
        runtime.event_delay_s = rng.choice((0.0, 2.0, 30.0))
        if rng.random() < 0.5:
            runtime.cut_events()

    # -- how it does it ------------------------------------------------------------------------

    async def _again_and_again(self, trouble: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self.plot.mean_s))
            await trouble()

    async def _as_caller(self, work: Coroutine[object, object, None]) -> None:
        """Ask the daemon for something; it may refuse, and it may die meanwhile."""
        daemon = self.sim.daemon
        if daemon is None or daemon.killed or not daemon.started.is_set():
            work.close()
            return
        task = asyncio.get_running_loop().create_task(self._try(work))
        self._callers.add(task)
        task.add_done_callback(self._callers.discard)
        await asyncio.wait([task])

    async def _try(self, work: Awaitable[None]) -> None:
        with suppress(GpudError):
            await work

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = self.sim.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_tasks(self, tasks: set[asyncio.Task[None]]) -> None:
        stopped = list(tasks)
        for task in stopped:
            task.cancel()
        for error in await asyncio.gather(*stopped, return_exceptions=True):
            if isinstance(error, Exception):
                raise error

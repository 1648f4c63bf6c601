"""A whole box with its daemon in virtual time: what tests drive, and what checks every step."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gpud.core.endpoint import EndpointSpec, GpuNeeds, HealthCheck, Limits, ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.rollout_policy import RolloutPolicy
from gpud.core.standby import StandbyPolicy
from gpud.core.step_policy import PausePolicy, SleepPolicy
from gpud.core.usage import UsageBy
from tests.sim.box import Box
from tests.sim.clients import Client, Request
from tests.sim.daemon import Daemon
from tests.sim.invariants import Invariants
from tests.sim.loop import SimLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from gpud.core.worker import Worker
    from tests.fakes.gpus import FakeGpus
    from tests.fakes.images import FakeImages
    from tests.fakes.runtime import FakeRuntime

T = TypeVar("T")


class Sim:
    """A box, a daemon on it, and its clients.

    Args:
        seed: Of every chance; the same seed gives the same run.
        gpus: Of the box.
        settle_s: As the setting `scaling.settle_s`.
        shuffle: Whether callbacks that are ready at once run in seeded order.
    """

    def __init__(self, seed: int = 0, *, gpus: int = 1, settle_s: float = 0.0, shuffle: bool = True) -> None:
        self.seed = seed
        self._settle_s = settle_s
        self._runner = asyncio.Runner(loop_factory=partial(SimLoop, seed, shuffle=shuffle))
        loop = self._runner.get_loop()
        assert isinstance(loop, SimLoop)
        self.loop = loop
        self.faults_of_loop: list[str] = []
        loop.set_exception_handler(self._note_stray_exception)
        self.daemon: Daemon | None = None
        self.requests: list[Request] = []
        self._clients: set[asyncio.Task[None]] = set()
        self.box = self.do(self._new_box(seed, gpus))
        self.invariants = Invariants(self.box)
        loop.on_step = self._after_step
        self.restart()

    async def _new_box(self, seed: int, gpus: int) -> Box:
        return Box(seed, gpus=gpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the world apart; nothing is checked any more."""
        self.loop.on_step = lambda: None
        if self.daemon is not None:
            self.daemon.kill()
        self._runner.close()
        self.box.database.close()

    # -- the parts a test spoils ----------------------------------------------------------------

    @property
    def runtime(self) -> FakeRuntime:
        return self.box.runtime

    @property
    def images(self) -> FakeImages:
        return self.box.images

    @property
    def gpus(self) -> FakeGpus:
        return self.box.gpus

    @property
    def now_s(self) -> float:
        return self.loop.time()

    @property
    def up(self) -> Daemon:
        """The daemon that runs now."""
        assert self.daemon is not None
        return self.daemon

    # -- time ----------------------------------------------------------------------------------

    def run(self, *, for_s: float) -> None:
        """Let time pass."""
        self.do(asyncio.sleep(for_s))

    def run_steps(self, steps: int) -> None:
        """Let some turns of the loop pass, however much or little time they take."""
        self.do(self._steps(steps))

    async def _steps(self, steps: int) -> None:
        end = self.loop.steps + steps
        done = self.loop.create_future()

        def count() -> None:
            self._after_step()
            if self.loop.steps >= end and not done.done():
                done.set_result(None)

        self.loop.on_step = count
        try:
            await done
        finally:
            self.loop.on_step = self._after_step

    def run_until(self, true: Any, *, within_s: float, every_s: float = 0.05) -> None:
        """Let time pass until something holds; fails when it does not in time."""
        deadline_s = self.now_s + within_s
        while not true():
            assert self.now_s < deadline_s, f"Not so within {within_s} s: {true}"
            self.run(for_s=every_s)

    def ask(self, question: Callable[[], T]) -> T:
        """Call a plain function in the world's time."""

        async def answer() -> T:
            return question()

        return self.do(answer())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the world's time."""
        done = self._runner.run(work)
        if self.daemon is not None and self.daemon.task.done() and not self.daemon.killed:
            self.daemon.task.result()
            raise AssertionError("The daemon ended by itself.")
        return done

    # -- the daemon ----------------------------------------------------------------------------

    def restart(self) -> None:
        """Start the daemon; the one before is killed first."""
        if self.daemon is not None and not self.daemon.killed:
            self.crash_daemon()
        self.do(self._start())

    async def _start(self) -> None:
        self.daemon = Daemon(self.box, settle_s=self._settle_s, watch=self.invariants.watch)
        started = asyncio.create_task(self.daemon.started.wait())
        await asyncio.wait([started, self.daemon.task], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()

    def crash_daemon(self) -> None:
        """kill -9: what is on disk and what runs in containers stays, all else is gone."""
        daemon = self.up
        daemon.kill()
        self.do(self._bury(daemon))

    async def _bury(self, daemon: Daemon) -> None:
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(daemon.task, *clients, return_exceptions=True)

    def reboot(self) -> None:
        """The machine loses power and comes up again."""
        self.crash_daemon()
        self.do(self._reboot())
        self.restart()

    async def _reboot(self) -> None:
        self.box.reboot()

    def stop_daemon(self, *, drain: bool = False) -> None:
        """SIGTERM, and wait for the end."""
        daemon, self.daemon = self.up, None
        self.do(daemon.stop(drain=drain))

    # -- what users do -------------------------------------------------------------------------

    def deploy(
        self,
        name: str,
        scale: ScalePolicy | None = None,
        *,
        gpus: int = 1,
        image: str = "",
        env: tuple[tuple[str, str], ...] = (),
        health: HealthCheck | None = None,
        limits: Limits | None = None,
        rollout: RolloutPolicy | None = None,
        standby: StandbyPolicy | None = None,
        pause: PausePolicy | None = None,
        sleep: SleepPolicy | None = None,
    ) -> None:
        """Deploy an endpoint, whose image is on the box unless a test has pushed it to the registry."""
        if not image:
            image = f"{name}:1"
            self.images.build(image)
        spec = self.spec(name, scale, gpus=gpus, image=image, env=env, health=health, limits=limits)
        spec = replace(spec, rollout=rollout or RolloutPolicy(), standby=standby or StandbyPolicy())
        spec = replace(spec, pause=pause or PausePolicy(), sleep=sleep or SleepPolicy())
        self.do(self.up.fleet.control.deploy(spec))

    def spec(
        self,
        name: str,
        scale: ScalePolicy | None = None,
        *,
        gpus: int,
        image: str,
        env: tuple[tuple[str, str], ...] = (),
        health: HealthCheck | None = None,
        limits: Limits | None = None,
        slice_mib: int = 0,
    ) -> EndpointSpec:
        """A spec that listens on port 8000."""
        return EndpointSpec(
            name=EndpointName(name),
            image=image,
            port=8000,
            gpus=GpuNeeds(count=gpus, memory_mib=slice_mib),
            scale=scale or ScalePolicy(),
            env=env,
            health=health or HealthCheck(),
            limits=limits or Limits(),
        )

    def rescale(self, name: str, **changes: Any) -> None:
        """Change an endpoint's scale policy."""
        spec = self.up.fleet.state.endpoints[EndpointName(name)].spec
        self.do(self.up.fleet.control.deploy(replace(spec, scale=replace(spec.scale, **changes))))

    def delete(self, name: str) -> None:
        self.do(self.up.fleet.control.delete_endpoint(EndpointName(name)))

    def request(self, name: str, *, takes_s: float = 0.0, patience_s: float | None = None) -> Request:
        """Send a request now; it goes on while time passes."""
        request = Request(
            EndpointName(name), takes_s=takes_s, patience_s=patience_s, arrived_s=self.loop.time()
        )
        self.requests.append(request)
        client = (
            Client(request, self.up, self.box) if self.loop.is_running() else self.do(self._client(request))
        )
        task = self.loop.create_task(client.run())
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        return request

    async def _client(self, request: Request) -> Client:
        return Client(request, self.up, self.box)

    # -- what a test looks at ------------------------------------------------------------------

    def workers(self, name: str = "") -> list[Worker]:
        """Live workers, of one endpoint or of all."""
        return [w for w in self.up.fleet.state.workers.values() if not name or w.endpoint == name]

    def usage_ns(self, name: str) -> int:
        """Billable GPU nanoseconds of an endpoint."""
        rows = self.do(self.up.store.reads.usage(by=UsageBy.ENDPOINT, endpoint=name))
        return sum(row.gpu_ns for row in rows)

    def usage_ms(self, name: str) -> int:
        return self.usage_ns(name) // 1_000_000

    def events(self, kind: str) -> list[dict[str, object]]:
        """Facts of the recorded events of a kind, oldest first."""
        rows = self.do(self.up.store.reads.latest_events(limit=1000))
        return [row.facts for row in reversed(rows) if row.kind == kind]

    # -- inside --------------------------------------------------------------------------------

    def _after_step(self) -> None:
        if self.faults_of_loop:
            raise AssertionError(self.faults_of_loop[0])
        self.invariants.step()

    def _note_stray_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception nobody hears is a bug, in the product or here."""
        error = context.get("exception")
        self.faults_of_loop.append(f"{context.get('message')}: {error!r}")

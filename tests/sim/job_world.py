"""A daemon's jobs in virtual time: the real queue, delivery, store and outbox between simulated ends."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite.blobs import MemoryBlobs
from gpud.adapters.sqlite.store import memory_database, open_inline_store
from gpud.core.endpoint import EndpointSpec, EndpointType, ScalePolicy
from gpud.core.job import Retention
from gpud.core.job_spec import JobNeeds
from gpud.core.routing import RoutingTable
from gpud.core.webhook import CallOutcome
from gpud.errors import GpudError, StorageFull, Unavailable
from gpud.gateway.dispatch import Dispatcher
from gpud.jobs.jobs import Jobs
from gpud.webhooks.dispatcher import WebhookDispatcher
from tests.fakes.clock import FakeClock, SeededIds
from tests.sim.box import Disk
from tests.sim.job_pullers import FETCHED, Pullers
from tests.sim.job_workers import LLM, STATUS_PATH, Workers
from tests.sim.loop import SimLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gpud.adapters.sqlite.store import Store
    from gpud.core.ids import WorkerId
    from gpud.core.job import Job
    from gpud.core.worker import Worker

_TEN_YEARS_MS = 315_360_000_000
KEPT = Retention(
    result_ms=_TEN_YEARS_MS, sync_ms=_TEN_YEARS_MS, dead_ms=_TEN_YEARS_MS, cancelled_ms=_TEN_YEARS_MS
)
"""After a reboot the timeline goes on from the wall clock, which a test may have set forward by a year."""
WORLD = "world"
"""How tasks are named that no death of the daemon ends."""


class Receiver:
    """Where webhooks go: it takes calls, refuses them, or is slow about it.

    Attributes:
        ids: The ids of calls, by address.
        troubled: Whether anything goes wrong there.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.ids: dict[str, set[str]] = {}
        self.troubled = True

    def url_fault(self, url: str) -> str:
        return "" if url else "empty"

    async def resolved_fault(self, url: str) -> str:
        return self.url_fault(url)

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> CallOutcome:
        assert body
        self.ids.setdefault(url, set()).add(headers["webhook-id"])
        chance = self._rng.random() if self.troubled else 1.0
        await asyncio.sleep(15.0 if chance < 0.1 else 0.05)
        if chance < 0.1:
            return CallOutcome(error="timeout")
        return CallOutcome(status=500 if chance < 0.4 else 200)


class Signer:
    """Names the message, and signs nothing."""

    def new_secret(self) -> str:
        return "whsec_c2ltdWxhdGVk"

    def headers(self, secrets: Sequence[str], *, message_id: str, at_ms: int, body: bytes) -> dict[str, str]:
        assert secrets
        assert at_ms
        assert body
        return {"webhook-id": message_id}


class Life:
    """One run of the daemon, as far as jobs and webhooks go."""

    def __init__(self, world: JobWorld) -> None:
        self._world = world
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.store: Store | None = None
        self.jobs: Jobs
        self.task = asyncio.get_running_loop().create_task(self._run(), name="daemon")

    def kill(self) -> None:
        """SIGKILL: whatever it was at stops where it is."""
        self.ready.clear()
        if self.store is not None:
            self.store.abandon()
        mortal = [task for task in asyncio.all_tasks() if not task.get_name().startswith(WORLD)]
        for task in sorted(mortal, key=lambda task: (len(task.get_name()), task.get_name())):
            task.cancel()  # oldest first, so that a seed repeats

    async def stop(self) -> None:
        """SIGTERM."""
        self.ready.clear()
        self._stop.set()
        await asyncio.wait((self.task,))

    async def _run(self) -> None:
        world = self._world
        execute = world.disk.executing(world.database)
        self.store = await open_inline_store(world.database, world.clock, execute=execute, blobs=world.blobs)
        dispatcher = Dispatcher(world.clock)
        self.jobs = Jobs(
            self.store.jobs, dispatcher, world.workers, clock=world.clock, ids=world.ids, kept=KEPT
        )
        await self.jobs.load(world.keeps)
        hooks = WebhookDispatcher(
            store=self.store.webhooks,
            sender=world.receiver,
            signer=Signer(),
            clock=world.clock,
            ids=world.ids,
            retention_s=KEPT.result_ms / 1000,
        )
        specs = {
            LLM: EndpointSpec(
                name=LLM,
                image="a/b",
                port=8000,
                scale=ScalePolicy(concurrency=world.workers.concurrency),
                jobs=JobNeeds(status_path=STATUS_PATH if world.workers.tell else ""),
            ),
            FETCHED: EndpointSpec(name=FETCHED, image="a/b", type=EndpointType.QUEUE),
        }

        def publish() -> None:
            table = world.workers.table()
            dispatcher.publish(RoutingTable(routes={**table.routes, FETCHED: world.pullers.route()}))
            self.jobs.fleet_changed()

        async with asyncio.TaskGroup() as tasks:
            await self.jobs.start(tasks, world, specs.get)
            world.workers.publish = world.pullers.published = publish
            publish()
            calling = tasks.create_task(hooks.run())
            self.ready.set()
            await self._stop.wait()
            await self.jobs.stop(2.0)
            calling.cancel()
        await self.store.close()


class JobWorld:
    """Everything, over all the lives of the daemon.

    Args:
        seed: Of every chance; the same seed gives the same run.

    Attributes:
        faults: What must never be seen of the daemon.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"{seed}:jobs")
        self._tell = seed % 4 in (1, 2)
        self._runner = asyncio.Runner(loop_factory=partial(SimLoop, seed))
        loop = self._runner.get_loop()
        assert isinstance(loop, SimLoop)
        self.loop = loop
        self.faults: list[str] = []
        loop.set_exception_handler(self._note_stray)
        self.clock = FakeClock()
        self.ids = SeededIds(seed)
        self.disk = Disk()
        self.database = memory_database()
        self.blobs = MemoryBlobs()
        self.receiver = Receiver(self.rng)
        self.life: Life | None = None
        self.killed = False
        self._boots = 1
        self.workers: Workers
        self.pullers: Pullers
        self.do(self._hire())

    async def _hire(self) -> None:
        rng = self.rng
        count, concurrency = rng.choice((1, 2, 3)), rng.choice((1, 1, 3))
        self.workers = Workers(rng, count=count, concurrency=concurrency, tell=self._tell)
        self.pullers = Pullers(self, count=rng.choice((1, 2)), concurrency=rng.choice((1, 1, 3)))

    # -- the fleet, as jobs see it -------------------------------------------------------------

    def worker(self, worker_id: WorkerId) -> Worker | None:
        return self.pullers.worker(worker_id) or self.workers.worker(worker_id)

    def keeps(self, job: Job) -> bool:
        """Whether the worker of a job goes on with it while no daemon is there."""
        if job.endpoint == FETCHED:
            return job.worker_id in self.pullers.alive
        return self.workers.tell and job.worker_id in self.workers.alive

    def asked_to_stop(self, worker_id: WorkerId) -> bool:
        return self.workers.asked_to_stop(worker_id) or self.pullers.asked_to_stop(worker_id)

    def exit_code(self, worker_id: WorkerId) -> int | None:
        gone = worker_id in self.pullers.gone or worker_id in self.workers.gone
        return 137 if gone else None

    async def recycle(self, worker_id: WorkerId) -> None:
        await self.workers.recycle(worker_id)
        await self.pullers.recycle(worker_id)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something to its end in the world's time."""

        async def named() -> Any:
            task = asyncio.current_task()
            assert task is not None
            task.set_name(f"{WORLD}-do")
            return await work

        return self._runner.run(named())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin something that no death of the daemon ends."""
        return asyncio.get_running_loop().create_task(work, name=f"{WORLD}-task")

    def close(self) -> None:
        """Take the world apart; nothing is checked any more."""
        self.loop.on_step = lambda: None
        if self.life is not None:
            self.do(self._kill())
        self._runner.close()
        self.database.close()

    # -- the daemon ----------------------------------------------------------------------------

    async def begin(self) -> Life:
        """Start the daemon, again while it cannot."""
        while True:
            self.life = life = Life(self)
            ready = asyncio.ensure_future(life.ready.wait())
            await asyncio.wait((ready, life.task), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                life.task.add_done_callback(self._ended)
                return life
            ready.cancel()
            if not isinstance(life.task.exception(), StorageFull | Unavailable):
                await life.task
            await asyncio.sleep(1.0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(f"the daemon ended by {error!r}")

    async def _kill(self) -> None:
        assert self.life is not None
        self.life.kill()
        await asyncio.wait((self.life.task,))

    async def kill(self, *, reboot: bool = False) -> None:
        """The daemon dies, or the machine does; it comes back after a while."""
        await self._kill()
        if reboot:
            self._boots += 1
            self.clock.reboot(f"boot-{self._boots}")
            for worker_id in list(self.workers.alive):
                self.workers.end(worker_id, asked=False)
            for worker_id in list(self.pullers.alive):
                self.pullers.end(worker_id)
        await asyncio.sleep(self.rng.uniform(0.0, 5.0))
        await self.begin()

    async def restart(self) -> None:
        """The daemon ends in order and is started again."""
        assert self.life is not None
        await self.life.stop()
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        await self.begin()

    async def ask(self, question: Callable[[Jobs], Coroutine[Any, Any, Any]]) -> Any:
        """Ask the daemon something; None when it does not answer."""
        life = self.life
        if life is None or not life.ready.is_set():
            return None
        asking = asyncio.ensure_future(question(life.jobs))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may leave
        try:
            await asyncio.wait((asking,))
        except asyncio.CancelledError:
            asking.cancel()
            raise
        if asking.cancelled():
            return None  # it died
        error = asking.exception()
        if error is None:
            return asking.result()
        if isinstance(error, GpudError):
            return None
        raise error

    def _note_stray(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(f"stray: {context.get('message')} {context.get('exception')!r}")

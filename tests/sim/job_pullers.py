"""Simulated containers with RunPod's SDK: they fetch, ping, stop when told, lose results, die and freeze."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpud.core.ids import EndpointName, Revision, WorkerId
from gpud.core.job import Delivered, Ending
from gpud.core.pull_protocol import PING_INTERVAL_S, Report
from gpud.core.routing import Route, RouteWorker
from gpud.core.worker import Worker, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gpud.core.ids import JobId
    from gpud.core.job import Job
    from gpud.jobs.pull import Pull
    from gpud.ports.jobs import Claim
    from tests.sim.job_world import JobWorld

FETCHED = EndpointName("fetched")
_REPLACED_S = (1.0, 8.0)
_STOPPED_S = (0.0, 5.0)
_LOST_REPORTS = 0.03
_COMPLETED = Report(said=Delivered(ending=Ending.COMPLETED), output=b'"done"')
_FAILED = Report(
    said=Delivered(ending=Ending.FAILED, error="no", may_retry=False, reason="handler_error"), output=b"1"
)


@dataclass(eq=False)
class Puller:
    """One container."""

    id: WorkerId
    state: WorkerState = WorkerState.READY
    running: dict[JobId, asyncio.Task[None]] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    thaws_s: float = 0.0
    asked_to_stop: bool = False


class Pullers:
    """All of the endpoint's workers; also the fleet as the queue sees it.

    Args:
        world: Where they are.
        count: How many there are at once.
        concurrency: Jobs at once on each.

    Attributes:
        alive: Containers that run.
        had: Every delivery any worker was given.
        faulty: Whether results are lost on their way.
        published: Told that other workers are there now.
    """

    def __init__(self, world: JobWorld, *, count: int, concurrency: int) -> None:
        self._world = world
        self._rng = world.rng
        self.concurrency = concurrency
        self.alive: dict[WorkerId, Puller] = {}
        self.gone: dict[WorkerId, Puller] = {}
        self.had: list[Job] = []
        self.faulty = True
        self.published: Callable[[], None] = lambda: None
        for _ in range(count):
            self._begin()

    def route(self) -> Route:
        return Route(
            endpoint=FETCHED,
            concurrency=self.concurrency,
            max_queue=10,
            hold_timeout_s=30.0,
            request_timeout_s=30.0,
            jobs_only=True,
            workers=tuple(
                RouteWorker(worker_id=puller.id, address="", port=0)
                for puller in self.alive.values()
                if puller.state is WorkerState.READY
            ),
        )

    # -- the fleet -----------------------------------------------------------------------------

    def worker(self, worker_id: WorkerId) -> Worker | None:
        puller = self.alive.get(worker_id) or self.gone.get(worker_id)
        if puller is None:
            return None
        return Worker(
            id=worker_id,
            endpoint=FETCHED,
            revision=Revision("r"),
            state=puller.state,
            generation=1,
            since_s=0.0,
            created_at_ms=0,
            port=0,
        )

    def asked_to_stop(self, worker_id: WorkerId) -> bool:
        puller = self.alive.get(worker_id) or self.gone.get(worker_id)
        return puller is not None and puller.asked_to_stop

    async def recycle(self, worker_id: WorkerId) -> None:
        puller = self.alive.get(worker_id)
        if puller is not None and puller.state is WorkerState.READY:
            puller.state, puller.asked_to_stop = WorkerState.STOPPING, True
            later_s = self._rng.uniform(*_STOPPED_S)
            asyncio.get_running_loop().call_later(later_s, self.end, worker_id)
            self.published()

    def end(self, worker_id: WorkerId) -> None:
        """The container ends with all that it ran; another one comes after a while."""
        puller = self.alive.pop(worker_id, None)
        if puller is None:
            return
        self.gone[worker_id] = puller
        puller.state = WorkerState.GONE if puller.asked_to_stop else WorkerState.FAILED
        for task in puller.tasks:
            task.cancel()
        puller.running.clear()
        asyncio.get_running_loop().call_later(self._rng.uniform(*_REPLACED_S), self._begin)
        self.published()

    def freeze(self, worker_id: WorkerId, for_s: float) -> None:
        """SIGSTOP: nothing is heard of it for a while, and nothing it runs goes on."""
        self.alive[worker_id].thaws_s = asyncio.get_running_loop().time() + for_s

    def _begin(self) -> None:
        puller = Puller(WorkerId(f"wk_pull{len(self.alive) + len(self.gone):04d}"))
        self.alive[puller.id] = puller
        loops = [self._take_jobs(puller), self._ping(puller)]
        if self._rng.random() < 0.7:
            loops.append(self._hear_stops(puller))  # earlier SDKs know no such thing
        puller.tasks = [self._world.spawn(work) for work in loops]
        self.published()

    # -- the SDK -------------------------------------------------------------------------------

    async def _call(self, puller: Puller, question: Callable[[Pull], Coroutine[Any, Any, Any]]) -> Any:
        """Ask the daemon; its socket outlives it, so who comes meanwhile waits. None when it died over it."""

        async def ask(jobs: Any) -> tuple[Any]:
            return (await question(jobs.pull),)

        while True:
            await self._awake(puller)
            life = self._world.life
            if life is not None and life.ready.is_set():
                return await self._world.ask(ask)
            await asyncio.sleep(0.25)

    async def _awake(self, puller: Puller) -> None:
        left_s = puller.thaws_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await asyncio.sleep(left_s)

    async def _take_jobs(self, puller: Puller) -> None:
        while True:
            room = self.concurrency - len(puller.running)
            if room <= 0:
                await asyncio.sleep(1.0)
                continue
            has = bool(puller.running)
            answer = await self._call(puller, lambda pull: pull.take(puller.id, room, has))  # noqa: B023
            if answer is None:
                await asyncio.sleep(0.5)
                continue
            claims: list[Claim] = answer[0]
            for claim in claims:
                self.had.append(claim.job)
                task = puller.running[claim.job.id] = self._world.spawn(self._run(puller, claim))
                puller.tasks.append(task)  # a job that comes again runs beside its first time

    async def _ping(self, puller: Puller) -> None:
        while True:
            await self._awake(puller)
            life = self._world.life
            if life is not None and life.ready.is_set() and life.jobs.pull is not None:
                life.jobs.pull.ping(puller.id, frozenset(puller.running), "")
            await asyncio.sleep(PING_INTERVAL_S)

    async def _hear_stops(self, puller: Puller) -> None:
        while True:
            answer = await self._call(puller, lambda pull: pull.jobs_to_stop(puller.id))
            for job_id in answer[0] if answer else ():
                task = puller.running.pop(job_id, None)
                if task is not None:
                    task.cancel()
            await asyncio.sleep(1.0)

    async def _run(self, puller: Puller, claim: Claim) -> None:
        wanted, job = json.loads(claim.payload.content), claim.job
        does, first = wanted["does"], job.deliveries == 1
        if does == "stream":
            await self._call(puller, lambda pull: pull.chunk(puller.id, job.id, b'"part"'))
        if does == "hang" or (does == "hang_once" and first):
            await asyncio.Event().wait()
        await asyncio.sleep(wanted["lasts_s"])
        await self._awake(puller)
        if does == "die" or (does == "die_once" and first):
            self.end(puller.id)
            return
        fails = does in ("fail", "refuse") or (does == "fail_once" and first)
        report = _FAILED if fails else _COMPLETED
        if does != "busy" and not (self.faulty and self._rng.random() < _LOST_REPORTS):
            await self._call(puller, lambda pull: pull.report(puller.id, job.id, report))
        puller.running.pop(job.id, None)  # "busy": what the handler returned was not JSON, so nothing is told

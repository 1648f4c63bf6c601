"""Simulated workers that run jobs: they answer, refuse, crash, hang, and go on when nobody listens."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from gpud.core.ids import EndpointName, Revision, WorkerId
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.core.worker import Worker as FleetWorker
from gpud.core.worker import WorkerState
from gpud.ports.jobs import Payload
from gpud.ports.work import HandoverFailed, WorkerAnswer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from gpud.core.ids import JobId
    from gpud.core.job import Job
    from gpud.ports.work import Handover

LLM = EndpointName("llm")
STATUS_PATH = "/outcome"
OK = Payload(content=b'"done"')
_CONNECT_FAULTS = 0.03
_REPLACED_S = (1.0, 8.0)


@dataclass(eq=False)
class Execution:
    """One attempt on a worker; it ends when the worker is through with it, whoever listens."""

    job: Job
    answer: asyncio.Future[WorkerAnswer]
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class Worker:
    """One container."""

    id: WorkerId
    port: int
    executions: dict[JobId, Execution] = field(default_factory=dict)
    outcomes: dict[JobId, tuple[int, int]] = field(default_factory=dict)
    """Delivery and status of what it ran last of each job."""
    asked_to_stop: bool = False


class Workers:
    """All of an endpoint's workers; also the fleet as deliveries see it, and the way to them.

    Args:
        rng: Of every chance.
        count: How many there are at once.
        concurrency: Jobs at once on each.

    Attributes:
        breaches: Jobs that ran twice at once where they must not.
        had: Every delivery any worker was given.
        publish: Told that other workers are there now.
        faulty: Whether connections fail.
        tell: Whether they can be asked what became of a job.
        told: Outcomes they were asked for.
    """

    def __init__(self, rng: random.Random, *, count: int, concurrency: int, tell: bool = False) -> None:
        self._rng = rng
        self.tell = tell
        self.told = 0
        self.concurrency = concurrency
        self.alive: dict[WorkerId, Worker] = {}
        self.gone: dict[WorkerId, Worker] = {}
        self.breaches: list[str] = []
        self.had: list[Job] = []
        self.publish: Callable[[], None] = lambda: None
        self.faulty = True
        for _ in range(count):
            self._begin()

    def table(self) -> RoutingTable:
        route = Route(
            endpoint=LLM,
            concurrency=self.concurrency,
            max_queue=10,
            hold_timeout_s=30.0,
            request_timeout_s=30.0,
            workers=tuple(
                RouteWorker(worker_id=worker.id, address="10.0.0.1", port=worker.port)
                for worker in self.alive.values()
            ),
        )
        return RoutingTable(routes={LLM: route})

    # -- the fleet -----------------------------------------------------------------------------

    def asked_to_stop(self, worker_id: WorkerId) -> bool:
        worker = self.alive.get(worker_id) or self.gone.get(worker_id)
        return worker is not None and worker.asked_to_stop

    def exit_code(self, worker_id: WorkerId) -> int | None:
        return 137 if worker_id in self.gone else None

    async def recycle(self, worker_id: WorkerId) -> None:
        if worker_id in self.alive:
            self.end(worker_id, asked=True)

    def end(self, worker_id: WorkerId, *, asked: bool) -> None:
        """A worker ends, and all that it ran with it; another one comes after a while."""
        worker = self.gone[worker_id] = self.alive.pop(worker_id)
        worker.asked_to_stop = asked
        for execution in worker.executions.values():
            if execution.timer is not None:
                execution.timer.cancel()
            if not execution.answer.done():
                execution.answer.set_exception(HandoverFailed("The connection was reset.", sent=True))
                execution.answer.exception()  # nobody may be left to hear it
        worker.executions.clear()
        asyncio.get_running_loop().call_later(self._rng.uniform(*_REPLACED_S), self._begin)
        self.publish()

    def _begin(self) -> None:
        number = len(self.alive) + len(self.gone)
        worker = Worker(WorkerId(f"wk_{number:04d}"), 8000 + number)
        self.alive[worker.id] = worker
        self.publish()

    # -- the carrier ---------------------------------------------------------------------------

    async def deliver(self, handover: Handover, on_chunk: Callable[[bytes], None]) -> WorkerAnswer:
        worker = self.alive.get(handover.worker.worker_id)
        if worker is None or (self.faulty and self._rng.random() < _CONNECT_FAULTS):
            raise HandoverFailed("The connection was refused.", sent=False)
        job = handover.claim.job
        self.had.append(job)
        self._look_for_another(job)
        execution = Execution(job, asyncio.get_running_loop().create_future())
        worker.executions[job.id] = execution
        self._play(worker, execution, json.loads(handover.claim.payload.content), on_chunk)
        return await asyncio.shield(execution.answer)

    async def ask_outcome(self, handover: Handover, status_path: str) -> WorkerAnswer:
        assert status_path == STATUS_PATH
        worker = self.alive.get(handover.worker.worker_id)
        if worker is None or (self.faulty and self._rng.random() < 10 * _CONNECT_FAULTS):
            raise HandoverFailed("The connection was refused.", sent=False)
        await asyncio.sleep(0.01)
        job = handover.claim.job
        delivery, status = worker.outcomes.get(job.id, (0, 404))
        if job.id in worker.executions:
            delivery, status = 0, 202
        self.told += delivery > 0
        headers = {"x-gpud-delivery": str(delivery)} if delivery else {}
        return WorkerAnswer(status=status, headers=headers, payload=OK)

    def worker(self, worker_id: WorkerId) -> FleetWorker | None:
        """As the fleet knows it."""
        worker = self.alive.get(worker_id)
        if worker is None:
            return None
        return FleetWorker(
            id=worker.id,
            endpoint=LLM,
            revision=Revision("r1"),
            state=WorkerState.READY,
            generation=1,
            since_s=0.0,
            created_at_ms=1,
            address="10.0.0.1",
            port=worker.port,
        )

    async def ask_to_stop(self, _handover: Handover) -> None:
        return

    def _look_for_another(self, job: Job) -> None:
        if self.concurrency > 1:
            return  # such workers are not replaced when a daemon dies, and may still be at it
        for worker in self.alive.values():
            if job.id in worker.executions:
                self.breaches.append(f"{job.id} runs on {worker.id} when it is handed out again")

    def _play(
        self, worker: Worker, execution: Execution, wanted: dict[str, Any], on_chunk: Callable[[bytes], None]
    ) -> None:
        step: Callable[[], None]
        does, lasts_s = wanted["does"], wanted["lasts_s"]
        first = execution.job.deliveries == 1
        if does == "hang" or (does == "hang_once" and first):
            return
        if does == "stream":
            on_chunk(b'"part"')
        if does == "die" or (does == "die_once" and first):
            step = partial(self._die, worker)
        else:
            status = {"fail": 500, "refuse": 400, "busy": 429}.get(does, 200)
            if does == "fail_once":
                status = 500 if first else 200
            if does == "busy" and execution.job.deliveries > 3:
                status = 200
            step = partial(self._answer, worker, execution, status)
        execution.timer = asyncio.get_running_loop().call_later(lasts_s, step)

    def _die(self, worker: Worker) -> None:
        if worker.id in self.alive:
            self.end(worker.id, asked=False)

    @staticmethod
    def _answer(worker: Worker, execution: Execution, status: int) -> None:
        worker.outcomes[execution.job.id] = (execution.job.deliveries, status)
        if worker.executions.get(execution.job.id) is execution:
            del worker.executions[execution.job.id]
        if not execution.answer.done():
            execution.answer.set_result(WorkerAnswer(status=status, headers={}, payload=OK))

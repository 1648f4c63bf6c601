"""The API with jobs delivered to real HTTP servers on loopback that stand for workers."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from gpud.adapters.job_carrier import HttpJobCarrier
from gpud.core.endpoint import EndpointSpec, ScalePolicy
from gpud.core.ids import EndpointName, JobId, Revision, WorkerId
from gpud.core.job_spec import JobNeeds
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.core.worker import Worker, WorkerState
from gpud.jobs.jobs import Jobs
from tests.contract.api_site import SECRET, ApiSite, running_api
from tests.fakes.clock import SeededIds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gpud.core.job import Job

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

LLM = EndpointName("llm")


async def echo(request: web.Request) -> web.StreamResponse:
    document = await request.json()
    return web.json_response({"echo": document["input"]})


@dataclass
class Fates:
    """The fleet as deliveries see it; told by the test."""

    ending: set[str] = field(default_factory=set)
    recycled: list[str] = field(default_factory=list)
    known: dict[WorkerId, Worker] = field(default_factory=dict)
    on_recycle: Callable[[WorkerId], None] = lambda _: None

    def worker(self, worker_id: WorkerId) -> Worker | None:
        return self.known.get(worker_id)

    def asked_to_stop(self, worker_id: WorkerId) -> bool:
        return worker_id in self.ending

    def exit_code(self, worker_id: WorkerId) -> int | None:
        return 137 if worker_id else None

    async def recycle(self, worker_id: WorkerId) -> None:
        self.recycled.append(worker_id)
        self.on_recycle(worker_id)


class JobSite:
    """A running API, an endpoint, and the workers a test gives it."""

    def __init__(self, api: ApiSite, stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
        self.api = api
        self.fates = Fates()
        self._stack = stack
        self._tasks = tasks
        self._workers: list[RouteWorker] = []
        self.concurrency = 1
        self.seen: list[dict[str, str]] = []

    @property
    def queue(self) -> Any:
        return self.api.jobs.queue

    async def deploy(self, *, concurrency: int = 1, **jobs: Any) -> None:
        self.concurrency = concurrency
        spec = EndpointSpec(
            name=LLM,
            image="team/model:1",
            port=8000,
            scale=ScalePolicy(concurrency=concurrency),
            jobs=JobNeeds(**jobs),
        )
        await self.api.control.deploy(spec)
        self.publish()

    async def worker(
        self, answer: Answer = echo, *, cancel: Answer | None = None, tell: Answer | None = None
    ) -> TestServer:
        """Give the endpoint one more worker."""

        async def take(request: web.Request) -> web.StreamResponse:
            self.seen.append({k: v for k, v in request.headers.items() if k.startswith("X-Gpud")})
            return await answer(request)

        app = web.Application(client_max_size=64 << 20)
        if cancel is not None:
            app.router.add_post("/cancel", cancel)
        if tell is not None:
            app.router.add_get("/outcome/{job}", tell)
        app.router.add_post("/{tail:.*}", take)
        server = TestServer(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._stack.enter_async_context(server)
        number = len(self._workers)
        worker = RouteWorker(worker_id=WorkerId(f"wk_{number}"), address="127.0.0.1", port=server.port or 0)
        self._workers.append(worker)
        self.publish()
        return server

    def drop_workers(self) -> None:
        self._workers.clear()
        self.publish()

    def publish(self) -> None:
        route = Route(
            endpoint=LLM,
            concurrency=self.concurrency,
            max_queue=10,
            hold_timeout_s=30.0,
            request_timeout_s=30.0,
            workers=tuple(self._workers),
        )
        self.api.dispatcher.publish(RoutingTable(routes={LLM: route}))

    async def start(self) -> None:
        def spec_of(name: EndpointName) -> EndpointSpec | None:
            found = self.api.control.deployed.get(name)
            return found.spec if found else None

        await self.api.jobs.start(self._tasks, self.fates, spec_of)

    async def ended_after_restart(
        self, job_id: str, meanwhile: Callable[[Jobs], Awaitable[None]] | None = None
    ) -> Job:
        """Have the daemon end and another one start beside its workers; the job once that one saw its end."""
        await self.api.jobs.stop(0.0)
        self.fates.known = {one.worker_id: _as_the_fleet_knows(one) for one in self._workers}
        clock, ids = self.api.clock, SeededIds(7)
        carrier = HttpJobCarrier()
        jobs = Jobs(self.queue.store, self.api.dispatcher, carrier, clock=clock, ids=ids, secret=SECRET)
        await jobs.load(lambda _: True)
        spec = self.api.control.deployed[LLM].spec
        await jobs.start(self._tasks, self.fates, lambda _: spec)
        try:
            if meanwhile is not None:
                await meanwhile(jobs)
            async with asyncio.timeout(20):
                while True:
                    changed = jobs.queue.news.next_of(JobId(job_id))
                    job = await jobs.queue.store.job(JobId(job_id))
                    if job is not None and job.state.terminal:
                        return job
                    await changed
        finally:
            await jobs.stop(0.0)
            await carrier.close()

    async def post(
        self, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        sent = {"json": body} if body is not None else {}
        async with self.api.client.post(path, headers=headers or self.api.admin, **sent) as answer:
            return answer.status, await _json(answer)

    async def get(self, path: str, *, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        async with self.api.client.get(path, headers=headers or self.api.admin) as answer:
            return answer.status, await _json(answer)

    async def run(self, value: Any = "a fox", **more: Any) -> str:
        """Submit a job; returns its id."""
        status, said = await self.post("/v2/llm/run", {"input": value, **more})
        assert status == 200, said
        assert said["status"] == "IN_QUEUE"
        return str(said["id"])

    async def ended(self, job_id: str) -> dict[str, Any]:
        """The job object once it is over."""
        _, said = await self.get(f"/v2/llm/status-sync/{job_id}?wait=20000")
        return dict(said)

    async def detail(self, job_id: str) -> dict[str, Any]:
        _, said = await self.get(f"/v1/jobs/{job_id}")
        return dict(said)


def _as_the_fleet_knows(worker: RouteWorker) -> Worker:
    return Worker(
        id=worker.worker_id,
        endpoint=LLM,
        revision=Revision("r1"),
        state=WorkerState.READY,
        generation=1,
        since_s=0.0,
        created_at_ms=1,
        address=worker.address,
        port=worker.port,
    )


async def _json(answer: Any) -> Any:
    text = await answer.text()
    with contextlib.suppress(ValueError):
        return await answer.json(content_type=None)
    return text


@asynccontextmanager
async def job_site() -> AsyncIterator[JobSite]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_api())
        workers = await stack.enter_async_context(AsyncExitStack())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        site = JobSite(api, workers, tasks)
        await site.deploy()
        try:
            yield site
        finally:
            await api.jobs.stop(0.0)

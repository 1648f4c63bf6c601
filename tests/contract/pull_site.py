"""The listener for workers on the real queue and store, with workers whose states a test sets."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from gpud.adapters.sqlite.store import memory_database, open_inline_store
from gpud.api.worker_calls import WorkerCalls
from gpud.core.endpoint import EndpointSpec, EndpointType
from gpud.core.ids import EndpointName, JobId, Revision, WorkerId
from gpud.core.job_request import JobPolicy
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.core.worker import Worker, WorkerState
from gpud.gateway.dispatch import Dispatcher
from gpud.jobs.jobs import Jobs
from gpud.jobs.submission import Submission
from gpud.jobs.worker_tokens import WorkerTokens
from gpud.ports.jobs import Payload
from tests.fakes.clock import FakeClock, SeededIds

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator

    from gpud.core.job import Job
    from gpud.ports.work import Handover, WorkerAnswer

EP = EndpointName("ep0")
WRK = WorkerId("wk_a")


class NoCarrier:
    """Nothing is pushed here."""

    async def deliver(self, handover: Handover, on_chunk: Any) -> WorkerAnswer:
        raise AssertionError(handover, on_chunk)

    async def ask_outcome(self, handover: Handover, status_path: str) -> WorkerAnswer:
        raise AssertionError(handover, status_path)

    async def ask_to_stop(self, handover: Handover) -> None:
        raise AssertionError(handover)


@dataclass
class Fates:
    """The fleet as the queue sees it; told by the test."""

    states: dict[WorkerId, WorkerState] = field(default_factory=dict)
    recycled: list[WorkerId] = field(default_factory=list)
    ending: set[WorkerId] = field(default_factory=set)

    def worker(self, worker_id: WorkerId) -> Worker | None:
        state = self.states.get(worker_id)
        if state is None:
            return None
        return Worker(
            id=worker_id,
            endpoint=EP,
            revision=Revision("r"),
            state=state,
            generation=1,
            since_s=0.0,
            created_at_ms=0,
            port=0,
        )

    def asked_to_stop(self, worker_id: WorkerId) -> bool:
        return worker_id in self.ending

    def exit_code(self, worker_id: WorkerId) -> int | None:
        return 137 if worker_id else None

    async def recycle(self, worker_id: WorkerId) -> None:
        self.recycled.append(worker_id)


class PullSite:
    """A running listener."""

    def __init__(self, clock: FakeClock, dispatcher: Dispatcher, jobs: Jobs, url: str) -> None:
        self.clock = clock
        self.dispatcher = dispatcher
        self.jobs = jobs
        self.url = url
        self.fates = Fates()
        self.tokens = WorkerTokens(b"s" * 32)
        self.http: aiohttp.ClientSession

    @property
    def pull(self) -> Any:
        assert self.jobs.pull is not None
        return self.jobs.pull

    def worker(self, worker_id: WorkerId = WRK, state: WorkerState = WorkerState.READY) -> WorkerId:
        """Give the endpoint a worker, or change one's state; the routing table follows, as a round's does."""
        self.fates.states[worker_id] = state
        ready = tuple(
            RouteWorker(worker_id=known, address="", port=0)
            for known, state in self.fates.states.items()
            if state is WorkerState.READY
        )
        route = Route(
            endpoint=EP,
            concurrency=1,
            max_queue=10,
            hold_timeout_s=30.0,
            request_timeout_s=30.0,
            jobs_only=True,
            workers=ready,
        )
        self.dispatcher.publish(RoutingTable(routes={EP: route}))
        self.jobs.fleet_changed()
        return worker_id

    async def submit(self, value: Any = "a fox", **more: Any) -> JobId:
        document = {"input": value, **more.pop("document", {})}
        policy = JobPolicy(**more)
        job, _ = await self.jobs.queue.submit(
            Submission(
                endpoint=EP,
                owner="local",
                payload=Payload(content=json.dumps(document).encode()),
                policy=policy,
            )
        )
        return job.id

    async def job(self, job_id: JobId) -> Job:
        job = await self.jobs.queue.store.job(job_id)
        assert job is not None
        return job

    async def ended(self, job_id: JobId, *, within_s: float = 10.0) -> Job:
        async with asyncio.timeout(within_s):
            while True:
                news = self.jobs.queue.news.next_of(job_id)
                job = await self.job(job_id)
                if job.state.terminal:
                    return job
                await self.jobs.queue.news.wait(news, 1.0)

    async def result(self, job_id: JobId, kind: str = "result") -> Any:
        payload = await self.jobs.queue.store.payload((await self.job(job_id)).seq, kind)
        return None if payload is None else json.loads(payload.content)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: str | bytes | None = None,
        worker: WorkerId = WRK,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        sent = {"Authorization": self.tokens.of(worker), **(headers or {})}
        async with self.http.request(method, self.url + path, data=body, headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def take(self, worker: WorkerId = WRK, *, query: str = "") -> dict[str, Any] | None:
        status, said = await self.call("GET", f"/v2/ep0/job-take/{worker}?gpu=x{query}", worker=worker)
        assert status == (204 if said is None else 200), said
        return said  # type: ignore[no-any-return]

    async def done(self, job_id: str, body: Any, worker: WorkerId = WRK) -> None:
        path = f"/v2/ep0/job-done/{worker}/{job_id}?gpu=x&isStream=false"
        status, said = await self.call("POST", path, body=json.dumps(body), worker=worker)
        assert status == 200, said


@asynccontextmanager
async def pull_site(
    database: sqlite3.Connection | None = None,
    *,
    stays: Any = lambda _: False,
    hold_s: float = 25.0,
    result_bytes_max: int = 1 << 20,
    worker: bool = True,
) -> AsyncIterator[PullSite]:
    async with AsyncExitStack() as stack:
        clock, ids = FakeClock(), SeededIds()
        if database is None:
            database = memory_database()
            stack.callback(database.close)
        store = await open_inline_store(database, clock)
        stack.push_async_callback(store.close)
        dispatcher = Dispatcher(clock)
        jobs = Jobs(store.jobs, dispatcher, NoCarrier(), clock=clock, ids=ids, hold_s=hold_s)
        await jobs.load(stays)
        site = PullSite(clock, dispatcher, jobs, "")
        calls = WorkerCalls(jobs, site.tokens, result_bytes_max=result_bytes_max)
        runner = calls.runner()
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        tcp = web.TCPSite(runner, "127.0.0.1", 0)
        await tcp.start()
        host, port = runner.addresses[0][:2]
        site.url = f"http://{host}:{port}"
        site.http = await stack.enter_async_context(aiohttp.ClientSession())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        spec = EndpointSpec(name=EP, image="team/model:1", type=EndpointType.QUEUE)
        if worker:
            site.fates.states[WRK] = WorkerState.READY
        await jobs.start(tasks, site.fates, lambda name: spec if name == EP else None)
        if worker:
            site.worker()
        stack.push_async_callback(jobs.stop, 0.0)
        try:
            yield site
        finally:
            await jobs.stop(0.0)

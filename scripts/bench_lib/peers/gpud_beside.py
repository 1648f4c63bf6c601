"""gpud's gateway with the rest of the daemon at work on the same event loop.

    gpud_beside.py PORT UPSTREAM LOADS

LOADS is a comma-separated choice of:

workers   the real fleet and store on a simulated box: 100 workers that are probed and metered each second
listing   every 100 ms a listing of 200 containers through the Docker SDK, from an engine in another process
jobs      500 durable jobs a second: accepted, claimed, completed, each acknowledged after its commit

Prints the token of a key once everything runs.
"""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import structlog
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from bench_lib.boxed_fleet import start_fleet
from gpud_proxy import start_gateway

from gpud.adapters.docker_runtime import DockerRuntime
from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock, SystemIds
from gpud.adapters.threads import Threads
from gpud.core.ids import EndpointName
from gpud.core.job import Retention
from gpud.core.job_request import JobPolicy, accepted, job_id
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.tuning import tune_process
from gpud.ports.jobs import Payload
from gpud.settings import DockerSettings
from tests.sim.box import Box

if TYPE_CHECKING:
    from gpud.adapters.sqlite.store import Store

WORKERS = 100
LISTED = 200
LISTINGS_A_S = 10
JOBS_A_S = 500


async def _serve(port: int, upstream: int, loads: set[str], folder: Path) -> None:
    token = await start_gateway(port, upstream)
    store = await open_store(folder / "store", SystemClock())
    async with asyncio.TaskGroup() as tasks:
        if "workers" in loads:
            await _run_workers(store, tasks)
        if "listing" in loads:
            await _list_containers(folder, tasks)
        if "jobs" in loads:
            await store.jobs.start(
                boot_id="bench", boot_ns=0, wall_ms=0, kept=Retention(), fraction=lambda: 0.5
            )
            tasks.create_task(_work_jobs(store))
        tune_process()
        print(token, flush=True)
        await asyncio.Event().wait()


async def _run_workers(store: Store, tasks: asyncio.TaskGroup) -> None:
    box = Box(1, gpus=WORKERS)
    dispatcher = Dispatcher(box.clock)
    await start_fleet(store, tasks, box, dispatcher, workers=WORKERS, endpoints=WORKERS)


async def _list_containers(folder: Path, tasks: asyncio.TaskGroup) -> None:
    path = folder / "engine.sock"
    command = [sys.executable, str(Path(__file__).with_name("listing_engine.py")), str(path)]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220 - before anything is measured
    assert engine.stdout is not None
    await asyncio.to_thread(engine.stdout.readline)
    runtime = DockerRuntime(DockerSettings(host=f"unix://{path}"), "bench", Threads(4))
    found = len(await runtime.list_workers())
    if found != LISTED:
        message = f"the listing has {found} containers and not {LISTED}"
        raise RuntimeError(message)

    async def keep_listing() -> None:
        while True:
            await asyncio.sleep(1 / LISTINGS_A_S)
            await runtime.list_workers()

    tasks.create_task(keep_listing())


async def _work_jobs(store: Store) -> None:
    """Begin a job when its moment has come, however many are under way."""
    ids, clock, chance = SystemIds(), SystemClock(), random.Random(1)  # noqa: S311 - a seed, not a secret
    loop = asyncio.get_running_loop()
    under_way: set[asyncio.Task[None]] = set()
    next_s = loop.time()
    while True:
        next_s += chance.expovariate(JOBS_A_S)
        await asyncio.sleep(max(0.0, next_s - loop.time()))
        task = loop.create_task(_work_job(store, ids, clock))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


async def _work_job(store: Store, ids: SystemIds, clock: SystemClock) -> None:
    now_ms = clock.at_ms()
    payload = Payload(content=b'{"input": "' + b"x" * 500 + b'"}')
    job = accepted(
        job_id(now_ms, ids.new_id("job"), sync=False),
        endpoint=EndpointName("jobs"),
        owner="local",
        policy=JobPolicy(),
        now_ms=now_ms,
        input_bytes=len(payload.content),
    )
    job, _ = await store.jobs.accept(job, payload)
    claim = await store.jobs.claim(
        job.seq, now_ms=now_ms, worker_id="wk_a", instance="bench", lease_until_ms=now_ms + 60_000
    )
    if claim is not None:
        await store.jobs.complete(claim.job, now_ms=now_ms, purge_at_ms=now_ms + 60_000, result=payload)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with TemporaryDirectory(prefix="bench-beside-") as scratch:
        uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3].split(",")), Path(scratch)))

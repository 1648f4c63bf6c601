"""How many jobs a second can be accepted, handed out and completed, each step durable before it is answered.

A producer makes a job, claims the next one and completes it, again and again; `p99_ms` is the 99th percentile
of such a round. gpud runs its whole queue (priorities, leases, attempts, fencing) on its own store with
synchronous=FULL; huey its SqliteHuey with fsync; Redis two lists with `appendfsync always`, through Python's
client on a Unix socket. Producers are tasks of one loop for gpud and threads for the others, as each is used.
`gpud, a worker waits` is the same where a free worker asks while the job is being written, as in the daemon:
it gets the job in the transaction that takes it.
Also: `runsync` on a warm worker beside calling that worker, and claims with 100,000 jobs waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import structlog
import uvloop
from aiohttp import web
from bench_lib.report import Report, add_arguments

from gpud.adapters.job_carrier import HttpJobCarrier
from gpud.adapters.sqlite.store import open_store
from gpud.adapters.system import SystemClock, SystemIds
from gpud.api.job_output import over
from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.job import JobState
from gpud.core.job_request import JobPolicy
from gpud.core.routing import Route, RouteWorker, RoutingTable
from gpud.gateway.dispatch import Dispatcher
from gpud.gateway.tuning import tune_process
from gpud.jobs.push import Push
from gpud.jobs.queue import JobQueue
from gpud.jobs.submission import Submission
from gpud.jobs.tokens import JobTokens
from gpud.ports.jobs import Payload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gpud.adapters.sqlite.store import Store

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
VENV = ROOT / "var" / "bench-jobs-venv"
PRODUCERS = {1: "jobs_per_s_1_producer", 32: "jobs_per_s_32_producers", 256: "jobs_per_s_256_producers"}
LLM = EndpointName("llm")
ASKED = Submission(
    endpoint=LLM,
    owner="local",
    payload=Payload(content=b'{"input":{"prompt":"a fox"}}'),
    policy=JobPolicy(),
)
RESULT = Payload(content=b'{"prompt":"a fox"}')
WAITING = 100_000
_WAITS = "gpud, a worker waits"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench jobs", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rounds, round_s = (2, 0.5) if options.quick else (5, 1.5)
    report = Report("jobs", ["uvloop"])
    tune_process()  # as the daemon is
    (ROOT / "var").mkdir(exist_ok=True)
    _make_venv()
    with tempfile.TemporaryDirectory(prefix="bench-jobs-", dir=ROOT / "var") as folder:
        _measure_rates(report, Path(folder), rounds, round_s)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure_runsync(report, Path(folder) / "sync", 50 if options.quick else 300))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure_depth(report, Path(folder) / "deep", 5_000 if options.quick else WAITING))
    report.finish(options)
    return 0


def _make_venv() -> None:
    if not (VENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "-q", "huey>=2.5", "redis>=5"], check=True)


def _measure_rates(report: Report, folder: Path, rounds: int, round_s: float) -> None:
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for number in range(rounds):
        for producers in PRODUCERS:
            place = folder / f"{number}-{producers}"
            place.mkdir()
            arms = {
                "gpud": lambda p=producers, at=place: _gpud(at / "gpud", p, round_s, _step_after_step),
                _WAITS: lambda p=producers, at=place: _gpud(at / "waits", p, round_s, _worker_waits),
                "huey": lambda p=producers, at=place: _peer("huey", at / "huey.db", p, round_s),
                "redis_always": lambda p=producers, at=place: _redis(at, p, round_s),
            }
            for subject, measure in arms.items():
                found.setdefault((producers, subject), []).append(measure())
    for (producers, subject), samples in found.items():
        report.add(PRODUCERS[producers], subject, "1/s", [rate for rate, _ in samples])
    for (producers, subject), samples in found.items():
        name = PRODUCERS[producers].removeprefix("jobs_per_s_")
        report.add(f"p99_ms_{name}", subject, "ms", [p99_ms for _, p99_ms in samples])
    for producers in PRODUCERS:
        ours = [rate for rate, _ in found[producers, "gpud"]]
        for peer in ("huey", "redis_always"):
            theirs = [rate for rate, _ in found[producers, peer]]
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            report.add(f"times_as_many, {producers} producers", f"gpud over {peer}", "x", ratios)


def _peer(name: str, at: Path, producers: int, round_s: float) -> tuple[float, float]:
    script = PEERS / f"jobs_{name}.py"
    done = subprocess.run(
        [VENV / "bin" / "python", script, at, str(producers), str(round_s)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    rate, p99_ms = map(float, done.stdout.split())
    return rate, p99_ms


def _redis(place: Path, producers: int, round_s: float) -> tuple[float, float]:
    path = Path(tempfile.mkdtemp(prefix="gpud-bench-")) / "redis.sock"
    where = ["--port", "0", "--unixsocket", path, "--dir", place]
    durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    server = subprocess.Popen(["redis-server", *where, *durable], stdout=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return _peer("redis", path, producers, round_s)
    finally:
        server.terminate()
        server.wait(10)
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def _gpud(
    data_dir: Path, producers: int, round_s: float, once: Callable[[JobQueue], Awaitable[None]]
) -> tuple[float, float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_rounds(data_dir, producers, round_s, once))


async def _opened(data_dir: Path) -> tuple[Store, JobQueue]:
    clock = SystemClock()
    store = await open_store(data_dir, clock)
    queue = JobQueue(store.jobs, clock, SystemIds())
    await queue.start()
    return store, queue


async def _rounds(
    data_dir: Path, producers: int, round_s: float, once: Callable[[JobQueue], Awaitable[None]]
) -> tuple[float, float]:
    store, queue = await _opened(data_dir)
    took_s: list[float] = []
    began_s = time.perf_counter()

    async def produce() -> None:
        at_s = time.perf_counter()
        while at_s - began_s < round_s:
            await once(queue)
            now_s = time.perf_counter()
            took_s.append(now_s - at_s)
            at_s = now_s

    await asyncio.gather(*(produce() for _ in range(producers)))
    elapsed_s = time.perf_counter() - began_s
    await store.close()
    return len(took_s) / elapsed_s, statistics.quantiles(took_s, n=100)[-1] * 1000


async def _worker_waits(queue: JobQueue) -> None:
    working = asyncio.ensure_future(_work(queue))
    await queue.submit(ASKED)
    await working


async def _step_after_step(queue: JobQueue) -> None:
    await queue.submit(ASKED)
    await _work(queue)


async def _work(queue: JobQueue) -> None:
    claim = await queue.claim(LLM, "wk_bench")
    assert claim is not None
    assert await queue.complete(claim.job, RESULT) is not None


async def _measure_depth(report: Report, data_dir: Path, waiting: int) -> None:
    """Claims with few and with many jobs behind them, and what the many cost in memory."""
    store, queue = await _opened(data_dir)
    shallow_ms = [await _claim_ms(queue) for _ in range(300)]
    before_mib = _rss_mib()
    for _ in range(waiting // 500):
        await asyncio.gather(*(queue.submit(ASKED) for _ in range(500)))
    deep_ms = [await _claim_ms(queue) for _ in range(300)]
    grown_mib = _rss_mib() - before_mib
    await store.close()
    report.add("claim_p50_ms, 1 waiting", "gpud", "ms", [statistics.median(shallow_ms)])
    report.add(f"claim_p50_ms, {waiting} waiting", "gpud", "ms", [statistics.median(deep_ms)])
    report.add(f"claim_p99_ms, {waiting} waiting", "gpud", "ms", [statistics.quantiles(deep_ms, n=100)[-1]])
    report.add(f"rss_growth_mib, {waiting} waiting", "gpud", "MiB", [grown_mib])


async def _claim_ms(queue: JobQueue) -> float:
    await queue.submit(ASKED)
    began_s = time.perf_counter()
    claim = await queue.claim(LLM, "wk_bench")
    took_ms = (time.perf_counter() - began_s) * 1000
    assert claim is not None
    await queue.complete(claim.job, RESULT)
    return took_ms


async def _measure_runsync(report: Report, data_dir: Path, rounds: int) -> None:
    """A job made, delivered to a warm worker over HTTP and waited for, beside a POST to that worker."""
    store, queue = await _opened(data_dir)
    app = web.Application()

    async def work(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), content_type="application/json")

    app.router.add_post("/", work)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    clock = SystemClock()
    dispatcher, carrier = Dispatcher(clock), HttpJobCarrier()
    worker = RouteWorker(worker_id=WorkerId("wk_bench"), address="127.0.0.1", port=port)
    route = Route(
        endpoint=LLM, concurrency=8, max_queue=8, hold_timeout_s=9, request_timeout_s=9, workers=(worker,)
    )
    dispatcher.publish(RoutingTable(routes={LLM: route}))
    spec = EndpointSpec(name=LLM, image="a/b", port=8000)
    push = Push(
        queue,
        dispatcher,
        carrier,
        _NoFates(),
        spec_of=lambda _: spec,
        clock=clock,
        tokens=JobTokens(b"0" * 32),
    )
    push.start()
    stopping = asyncio.Event()
    direct_ms, added_ms = [], []
    async with aiohttp.ClientSession() as session:
        for _ in range(rounds):
            began_s = time.perf_counter()
            async with session.post(f"http://127.0.0.1:{port}/", data=RESULT.content) as answer:
                await answer.read()
            middle_s = time.perf_counter()
            job, _replayed = await queue.submit(replace(ASKED, sync=True))
            job = await over(queue, job, 30.0, stopping)
            assert job.state is JobState.COMPLETED
            await queue.store.payload(job.seq, "result")
            took_ms = (time.perf_counter() - middle_s) * 1000
            direct_ms.append((middle_s - began_s) * 1000)
            added_ms.append(took_ms - direct_ms[-1])
    await push.stop(1.0)
    await carrier.close()
    await runner.cleanup()
    await store.close()
    report.add("runsync_added_ms", "gpud", "ms", added_ms)
    report.add("direct_post_ms", "worker alone", "ms", direct_ms)


class _NoFates:
    """The fleet of a bench: no worker is ever replaced."""

    def asked_to_stop(self, _worker_id: WorkerId) -> bool:
        return False

    def exit_code(self, _worker_id: WorkerId) -> int | None:
        return None

    async def recycle(self, _worker_id: WorkerId) -> None:
        return None


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

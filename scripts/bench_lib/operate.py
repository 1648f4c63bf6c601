"""What it costs to see the box: reading workers' output, a scrape, an idle daemon, the command line's help.

`log_lines_per_s_per_core` counts all CPU time of the process that keeps logs, compression included, over
lines of 100 bytes in the engine's json-file. `metrics_scrape_ms_200_workers` is a scrape of 100 endpoints
with two workers each and 8 GPUs. The dashboard's figures are of the same box (see `dashboard.py`), its time
only where Chromium is. The daemon's own figures need an engine: a private one, or the one of
GPUD_TEST_ENGINE.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench_lib import dashboard
from bench_lib.report import Report, add_arguments

from gpud.adapters.log_files import LogFile, compress, folder_for
from gpud.adapters.log_pipe import Pipe
from gpud.adapters.log_sources import FileSource
from gpud.core.fleet_tally import START_BUCKETS_S, WAIT_BUCKETS_S, FleetTally, Histogram
from gpud.core.gpu import GpuReading, GpuStatus
from gpud.core.ids import EndpointName
from gpud.core.log_caps import LogCaps
from gpud.core.log_lines import stamp_of
from gpud.core.redaction import Redactor
from gpud.core.stats_history import StatsHistory, UseSample
from gpud.core.worker import WorkerState
from gpud.ports.control import EndpointCondition, EndpointView
from gpud.ports.readings import Readings
from gpud.ports.stats import ContainerUse
from gpud.settings import LogSettings
from gpud.telemetry import set_up_logging
from tests.contract.api_site import running_api
from tests.e2e.daemon import DaemonProcess, static_gpus, worker_spec
from tests.rig.engine import Engine, PrivateEngine
from tests.rig.images import ensure_static_image
from tests.unit.core import making

if TYPE_CHECKING:
    from gpud.core.worker import Worker
    from tests.contract.api_site import ApiSite

ENDPOINTS, WORKERS, GPUS = 100, 200, 8
PHASES = ("wait", "pull", "reserve", "create", "engine_start", "listen", "ready")
BIN = Path(sys.executable).parent
WORKER = "wk_" + "a" * 16


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench operate", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--no-engine", action="store_true", help="leave the daemon's figures out")
    options = parser.parse_args(argv)
    rounds = 3 if options.quick else 10
    set_up_logging(LogSettings(level="error"))
    report = Report("operate", ["google-re2"])
    report.add("log_lines_per_s_per_core", "gpud", "lines/s", [_log_rate() for _ in range(rounds)])
    for subject, samples in asyncio.run(_scrapes(rounds * 5)).items():
        report.add("metrics_scrape_ms_200_workers", subject, "ms", samples)
    asyncio.run(_dashboard(report, rounds))
    report.add("cli_help_ms", "gpud --help", "ms", [_help_ms() for _ in range(rounds * 2)])
    if not options.no_engine:
        cpu_percent, rss_bytes = _idle(10.0 if options.quick else 60.0)
        for subject in cpu_percent:
            report.add("idle_cpu_percent", subject, "%", [cpu_percent[subject]])
            report.add("rss_bytes_100_endpoints", subject, "bytes", [rss_bytes[subject]])
    report.finish(options)
    return 0


def _log_rate() -> float:
    """Lines a CPU second, from the engine's file to compressed segments."""
    lines = 200_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "json.log"
        with path.open("wb") as file:
            for n in range(lines):
                stamp = stamp_of(1_790_000_000_000_000_000 + n * 5000).decode()
                text = f"{n:09d} " + "x" * 89
                file.write(f'{{"log":"{text}\\n","stream":"stdout","time":"{stamp}"}}\n'.encode())
        caps = LogCaps(
            keep_s=1e6,
            worker_bytes=1 << 30,
            total_bytes=1 << 30,
            segment_bytes=8 << 20,
            line_bytes=65_536,
            rate_bytes_per_s=1 << 30,
            burst_bytes=1 << 30,
        )
        began_s = time.process_time()
        log = LogFile(folder_for(Path(folder), "llm", WORKER, 1), segment_bytes=8 << 20, rotated=compress)
        pipe = Pipe(log, caps, Redactor(["hunter2-hunter2", "another-secret"]))
        pipe.take_source(FileSource(path))
        while pipe.turn():
            pass
        pipe.close(over=True)
        took_s = time.process_time() - began_s
        assert pipe.counts.lines == lines
        return lines / took_s


async def _scrapes(rounds: int) -> dict[str, list[float]]:
    from gpud.api.metrics import metrics_text  # noqa: PLC0415 - after the other imports' time
    from gpud.api.services import SERVICES  # noqa: PLC0415 - the same

    samples: dict[str, list[float]] = {"rendered": [], "over HTTP": []}
    workers = _many_workers()
    async with running_api(readings=_readings(workers)) as site:
        _deploy(site, workers)
        headers = await site.headers("metrics")
        for _ in range(rounds):
            began_s = time.perf_counter()
            text = metrics_text(site.app[SERVICES])
            samples["rendered"].append((time.perf_counter() - began_s) * 1000)
            assert text.count("gpud_worker_state{") == WORKERS
            began_s = time.perf_counter()
            async with site.client.get("/metrics", headers=headers) as answer:
                assert len(await answer.text()) > WORKERS * 100
            samples["over HTTP"].append((time.perf_counter() - began_s) * 1000)
    return samples


async def _dashboard(report: Report, rounds: int) -> None:
    workers = _many_workers()
    async with running_api(readings=_readings(workers)) as site:
        _deploy(site, workers)
        for subject, count in (await dashboard.sent_bytes(site)).items():
            report.add("dashboard_bytes_compressed", subject, "bytes", [count])
        for subject, samples in (await dashboard.usable_ms(site, rounds)).items():
            report.add("dashboard_interactive_ms", subject, "ms", samples)
        for subject, samples in (await dashboard.look_ms(site, rounds * 5)).items():
            report.add("state_look_ms_200_workers", subject, "ms", samples)


def _many_workers() -> list[Worker]:
    return [
        making.worker(
            0,
            WorkerState.READY,
            id=f"wk_{n:016d}",
            endpoint=EndpointName(f"endpoint-{n // 2}"),
            gpu_uuids=(making.gpu_uuid(n % GPUS),),
        )
        for n in range(WORKERS)
    ]


def _deploy(site: ApiSite, workers: list[Worker]) -> None:
    for n in range(ENDPOINTS):
        endpoint = making.endpoint(f"endpoint-{n}")
        site.control.deployed[endpoint.name] = endpoint
        site.control.views[endpoint.name] = EndpointView(
            endpoint=endpoint,
            condition=EndpointCondition.READY,
            desired=2,
            scale_reason="load",
            workers=tuple(worker for worker in workers if worker.endpoint == endpoint.name),
            waiting=0,
            in_flight=0,
        )


def _readings(workers: list[Worker]) -> Readings:
    tally, history = FleetTally(), StatsHistory(10.0)
    for n in range(ENDPOINTS):
        name = f"endpoint-{n}"
        tally.starts[name] = Histogram(START_BUCKETS_S)
        tally.phases |= {(name, phase): Histogram(START_BUCKETS_S) for phase in PHASES}
        tally.queue_waits[name], tally.services[name] = Histogram(WAIT_BUCKETS_S), Histogram(WAIT_BUCKETS_S)
        tally.arrivals[name] = 1
    for worker in workers:
        sample = UseSample(
            at_ms=1,
            step_s=10.0,
            cpu_cores=0.5,
            memory_bytes=1e9,
            memory_bytes_max=1e9,
            gpu_memory_mib=1,
            gpu_percent=50,
        )
        history.add(worker.id, sample)
    gpus = {making.gpu_uuid(n): making.gpu(n) for n in range(GPUS)}
    readings = {
        uuid: GpuReading(uuid=uuid, used_mib=1, total_mib=2, gpu_percent=3, power_w=4) for uuid in gpus
    }
    return Readings(
        tally=tally,
        history=history,
        uses=lambda: {worker.id: ContainerUse(cpu_s=1.0, memory_bytes=1) for worker in workers},
        gpu_readings=lambda: readings,
        gpus=lambda: {uuid: GpuStatus(gpu=gpu) for uuid, gpu in gpus.items()},
    )


def _help_ms() -> float:
    began_s = time.perf_counter()
    subprocess.run([str(BIN / "gpud"), "--help"], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began_s) * 1000


def _idle(seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """CPU and memory of a daemon with 100 endpoints that nobody calls, and of the process that keeps logs."""
    with ExitStack() as closing:
        lent = os.environ.get("GPUD_TEST_ENGINE")
        engine = Engine(lent) if lent else closing.enter_context(PrivateEngine("bench-operate"))
        image = ensure_static_image(engine)
        daemon = DaemonProcess(engine, settings=static_gpus(1))
        closing.callback(daemon.clean_up)
        daemon.start()
        for n in range(ENDPOINTS):
            daemon.deploy(worker_spec(f"endpoint-{n}", image))
        time.sleep(10)
        pids = {"daemon": daemon.pid, "log process": _child_of(daemon.pid)}
        before = {name: _cpu_s(pid) for name, pid in pids.items()}
        began_s = time.monotonic()
        time.sleep(seconds)
        passed_s = time.monotonic() - began_s
        cpu = {name: 100 * (_cpu_s(pid) - before[name]) / passed_s for name, pid in pids.items()}
        return cpu, {name: _rss_bytes(pid) for name, pid in pids.items()}


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

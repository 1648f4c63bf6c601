"""What a cold start costs beside the bare engine, and what the daemon costs at rest.

Three arms in turn, 20 rounds: a request to a gpud endpoint at zero workers; `create` and `start` of the
same container over the engine's socket with a probe every millisecond; and `start` alone, of a container
created ahead.
The bare arms' containers are made from gpud's own request, and a difference in HostConfig stops the run.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from bench_lib.engine_socket import EngineSocket
from bench_lib.report import Report, add_arguments

from gpud.adapters.docker_launch import create_body
from gpud.core.endpoint import PinnedImage
from gpud.core.gpu import GpuAttach
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.ports.containers import WorkerLaunch
from tests.e2e.daemon import DaemonProcess, static_gpus
from tests.e2e.waiting import until
from tests.rig.engine import PrivateEngine
from tests.rig.images import STATIC_IMAGE, ensure_static_image

PORT = 8000
REST_S = 10.0
WORKERS = 20
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench start", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    rounds = 6 if options.quick else 20
    report = Report("start", ["docker", "aiohttp", "uvloop"])
    with PrivateEngine("bench") as engine:
        ensure_static_image(engine)
        daemon = DaemonProcess(engine, settings=static_gpus(WORKERS))
        try:
            daemon.start()
            versions = engine.client.version()
            report.versions["docker"] = versions["Version"]
            _measure_starts(report, daemon, rounds)
            _measure_rest(report, daemon, quick=options.quick)
        finally:
            daemon.clean_up()
    report.finish(options)
    return 0


def _measure_starts(report: Report, daemon: DaemonProcess, rounds: int) -> None:
    spec = {
        "name": "cold",
        "image": STATIC_IMAGE,
        "port": PORT,
        "health": {"path": "/health"},
        "gpus": {"count": 1},
        "scale": {"idle_timeout_s": 0, "max_workers": 1},
    }
    pin = daemon.deploy(spec)["image"]["pin"]
    socket_path = str(daemon.engine.socket_path)
    took_ms: dict[str, list[float]] = {"gpud": [], "docker_create_start": [], "docker_start": []}
    with closing(EngineSocket(socket_path)) as bare:
        _warm(daemon)
        for _ in range(rounds):
            took_ms["gpud"].append(_gpud_arm(daemon))
            for created_ahead, arm in ((False, "docker_create_start"), (True, "docker_start")):
                took_ms[arm].append(_bare_arm(bare, daemon.network, pin, created_ahead=created_ahead))
    for subject, samples in took_ms.items():
        report.add("first_byte_ms", subject, "ms", samples)
        report.add("first_byte_p95_ms", subject, "ms", [statistics.quantiles(samples, n=20)[-1]])
    for peer in ("docker_create_start", "docker_start"):
        pairs = zip(took_ms["gpud"], took_ms[peer], strict=True)
        report.add("overhead_ms", f"gpud over {peer}", "ms", [ours - bare_ms for ours, bare_ms in pairs])


def _warm(daemon: DaemonProcess) -> None:
    """One start that is not counted: page cache, connection pools, the key."""
    assert daemon.call("cold", "/").status == 200
    _until_zero(daemon)


def _gpud_arm(daemon: DaemonProcess) -> float:
    began_s = time.perf_counter()
    reply = daemon.call("cold", "/")
    took_s = time.perf_counter() - began_s
    assert reply.status == 200
    assert reply.headers["x-gpud-cold-start"] == "true"
    _until_zero(daemon)
    return took_s * 1000


def _bare_arm(bare: EngineSocket, network: str, pin: str, *, created_ahead: bool) -> float:
    worker_id = WorkerId("wk_" + secrets.token_hex(8))
    name = f"bare-{worker_id}"
    launch = WorkerLaunch(
        worker_id=worker_id,
        endpoint=EndpointName("bare"),
        revision=Revision("0" * 12),
        generation=1,
        image=PinnedImage(reference=STATIC_IMAGE, pin=pin),
        port=PORT,
        env=(("GPUD_ENDPOINT", "cold"), ("GPUD_WORKER", worker_id)),
        gpu_uuids=(GpuUuid("GPU-static-0"),),
    )
    body = create_body(
        launch, install_id="bench", network=network, attach=GpuAttach.NONE, mounts=(), log_max_mib=16
    )
    began_s = time.perf_counter()
    bare.create(name, body)
    create_s = time.perf_counter() - began_s
    try:
        took_s = bare.start_and_probe(name, network, PORT, "/health")
    finally:
        bare.remove(name)
    return (took_s if created_ahead else create_s + took_s) * 1000


def _until_zero(daemon: DaemonProcess) -> None:
    until(lambda: not daemon.workers("cold"), what="the endpoint is back at zero", within_s=60)


def _measure_rest(report: Report, daemon: DaemonProcess, *, quick: bool) -> None:
    rest_s = 3.0 if quick else REST_S
    _rest(report, daemon, "0 workers", rest_s)
    daemon.deploy(
        {
            "name": "many",
            "image": STATIC_IMAGE,
            "port": PORT,
            "health": {"path": "/health"},
            "scale": {"policy": "fixed", "max_workers": WORKERS},
        }
    )
    daemon.wait_ready("many", WORKERS, within_s=180)
    _rest(report, daemon, f"{WORKERS} workers", rest_s)


def _rest(report: Report, daemon: DaemonProcess, subject: str, rest_s: float) -> None:
    """RSS and CPU of the daemon while nobody calls."""
    cpu_percent, rss_bytes = [], []
    for _ in range(3):
        before_s, began_s = _cpu_s(daemon.pid), time.perf_counter()
        time.sleep(rest_s)
        cpu_percent.append((_cpu_s(daemon.pid) - before_s) / (time.perf_counter() - began_s) * 100)
        rss_bytes.append(float(_rss_bytes(daemon.pid)))
    report.add("idle_cpu_percent", f"gpud, {subject}", "%", cpu_percent)
    report.add("rss_bytes", f"gpud, {subject}", "bytes", rss_bytes)


def _cpu_s(pid: int) -> float:
    fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

"""What a request waits for at zero workers, from each rung, beside `docker start` of a created container.

For each application the arms run in turn, in an order drawn anew each round: a request to an endpoint that
keeps one standby on a rung, for every rung; one to an endpoint whose only worker is paused; one to a worker
that is ready, which is what every request costs here; and the engine's start of the same container over its
raw socket, with a probe every millisecond. An arm begins when what the arms before it left to do is done:
no container is being made or removed. The bare container is made from gpud's own request, and a difference
in HostConfig stops the run. Page cache: warm. The static server answers within a millisecond of its start;
the Python worker sleeps 3 s before it listens, as an import would take. 30 pairs and all peers take half an
hour or so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_lib.bursts import measure_burst
from bench_lib.cached import measure_cached
from bench_lib.cold_peers import measure_peers
from bench_lib.engine_calls import measure_engine_calls
from bench_lib.engine_socket import EngineSocket
from bench_lib.plain import BURST, measure_plain
from bench_lib.report import Report, add_arguments

from gpud.adapters.docker_launch import create_body
from gpud.core.endpoint import PinnedImage
from gpud.core.gpu import GpuAttach
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.ports.containers import WorkerLaunch
from tests.e2e.daemon import DaemonProcess, static_gpus
from tests.e2e.waiting import until
from tests.rig.engine import Engine, PrivateEngine
from tests.rig.images import STATIC_IMAGE, WORKER_IMAGE, ensure_static_image, ensure_worker_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 8000
STANDBY_RUNGS = ("parked", "created")
RUNGS = (*STANDBY_RUNGS, "paused")
RUNGS_AT_ONCE = ("created", "parked", "paused")
PEER_ROUNDS = 5
SEED = 7
_QUIET_S = 0.1
_FROZEN_BY_NOW_S = 0.05
"""A worker's state says paused a few milliseconds before the kernel has stopped its processes."""
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An application whose start is measured.

    Args:
        name: In the metrics' names.
        env: What makes it start as it should.
        rounds: Pairs; and as many as `--quick` takes.
    """

    name: str
    image: str
    env: tuple[tuple[str, str], ...] = ()
    rounds: int = 30
    quick_rounds: int = 10


APPS = (
    App(name="static", image=STATIC_IMAGE),
    App(name="python3s", image=WORKER_IMAGE, env=(("BOOT_DELAY_S", "3"),), quick_rounds=4),
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench coldstart", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, metavar="N", help="of every part, 2 or more; else by part")
    options = parser.parse_args(argv)
    if options.rounds is not None and options.rounds < 2:
        parser.error("--rounds must be 2 or more: a p95 of one sample is none")

    def rounds(full: int, quick: int) -> int:
        return int(options.rounds or (quick if options.quick else full))

    subprocess.run([str(_ROOT / "scripts/build-shim")], check=True)
    report = Report("coldstart", ["docker", "uvloop"])
    rng = random.Random(SEED)  # noqa: S311 - an order, not a secret
    with _engine() as engine:
        ensure_static_image(engine)
        ensure_worker_image(engine)
        daemon = DaemonProcess(engine, settings=static_gpus(4) | {"scaling": {"starts": BURST}})
        try:
            daemon.start()
            report.versions["docker_engine"] = engine.client.version()["Version"]
            _say("calls of the engine, and the plain path")
            measure_engine_calls(report, daemon, rounds(200, 50))
            measure_plain(report, daemon, rounds(30, 12), rng)
            for app in APPS:
                _say(f"every rung, {app.name}")
                _measure(report, daemon, app, rounds(app.rounds, app.quick_rounds), rng)
            for app in APPS:
                for rung in RUNGS_AT_ONCE:
                    _say(f"ten at once, {rung}, {app.name}")
                    measure_burst(report, daemon, rounds(10, 3 if app is APPS[0] else 2), rung, app)
            _say("read ahead")
            measure_cached(report, daemon, rounds(15, 2), rng)
            if not options.quick:
                _say("peers, which may have to be installed first")
                measure_peers(report, daemon, rounds(PEER_ROUNDS, 0))
        finally:
            report.finish(options)  # also what was measured before a part failed
            daemon.clean_up()
    return 0


def _say(part: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {part}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _engine() -> Iterator[Engine]:
    """The engine that GPUD_TEST_ENGINE lends, or a private one."""
    if lent := os.environ.get("GPUD_TEST_ENGINE"):
        yield Engine(lent)
        return
    with PrivateEngine("bench") as private:
        yield private


def _measure(report: Report, daemon: DaemonProcess, app: App, rounds: int, rng: random.Random) -> None:
    pin = ""
    for rung in (*RUNGS, "ready"):
        pin = daemon.deploy(_spec(app, rung))["image"]["pin"]
    with contextlib.closing(EngineSocket(str(daemon.engine.socket_path))) as bare:
        arms: dict[str, Callable[[], float]] = {
            "docker_start": lambda: _bare_arm(bare, daemon, app, pin),
            **{rung: lambda rung=rung: _gpud_arm(daemon, app, rung) for rung in STANDBY_RUNGS},
            "paused": lambda: _paused_arm(daemon, app),
            "ready": lambda: _ready_arm(daemon, app),
        }
        for arm in arms.values():
            arm()  # not counted: page cache, connection pools, the key
        took_ms: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name in rng.sample(sorted(arms), len(arms)):
                _come_to_rest(daemon, app)
                took_ms[name].append(arms[name]())
    report.add(f"first_byte_ms_ready_{app.name}", "gpud", "ms", took_ms["ready"])
    for rung in RUNGS:
        metric = f"first_byte_ms_{rung}_{app.name}"
        report.add(metric, "gpud", "ms", took_ms[rung])
        report.add(metric, "docker_start", "ms", took_ms["docker_start"])
        report.add(f"{metric}_p95", "gpud", "ms", [_p95(took_ms[rung])])
        pairs = zip(took_ms[rung], took_ms["docker_start"], strict=True)
        report.add(f"{metric}_paired", "gpud less docker_start", "ms", [ours - bare for ours, bare in pairs])
    for rung in (*RUNGS, "ready"):
        assert daemon.api("DELETE", f"/v1/endpoints/{_name(app, rung)}").status == 204
    daemon.wait_zero(within_s=60)


def _p95(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=20)[-1]


def _name(app: App, rung: str) -> str:
    return f"{rung}-{app.name}"


def _spec(app: App, rung: str) -> dict[str, Any]:
    scale = {"idle_timeout_s": 0, "scale_down_delay_s": 0, "max_workers": 1}
    stays: dict[str, Any] = {"scale": {"idle_timeout_s": 3600, "max_workers": 1}}
    steps = {"ready": stays, "paused": stays | {"pause": {"after_idle_s": 0.05}}}.get(
        rung, {"standby": {"mode": rung}, "scale": scale}
    )
    return {
        "name": _name(app, rung),
        "image": app.image,
        "port": PORT,
        "env": dict(app.env),
        "health": {"path": "/health"},
        "gpus": {"count": 1},
        **steps,
    }


def _gpud_arm(daemon: DaemonProcess, app: App, rung: str) -> float:
    name = _name(app, rung)
    (kept,) = until(
        lambda: [s for s in daemon.endpoint(name)["standbys"] if (s["rung"], s["state"]) == (rung, "ready")],
        what=f"{name} has its standby",
        within_s=60,
    )
    began_s = time.perf_counter()
    reply = daemon.call(name, "/health", headers={"X-Gpud-Wake": "true"})
    took_s = time.perf_counter() - began_s
    assert reply.status == 200
    assert reply.worker == kept["id"], "it was started from its standby"
    until(lambda: not daemon.workers(name), what="the endpoint is back at zero", within_s=60)
    return took_s * 1000


def _come_to_rest(daemon: DaemonProcess, app: App) -> None:
    """Wait until nothing is being made, removed or stepped down."""

    def at_rest() -> bool:
        kept = [s for rung in STANDBY_RUNGS for s in daemon.endpoint(_name(app, rung))["standbys"]]
        states = sorted(worker["state"] for worker in daemon.workers())
        settled = [s["state"] for s in kept] == ["ready"] * len(STANDBY_RUNGS) and states == [
            "paused",
            "ready",
        ]
        return settled and len(daemon.containers()) == len(kept) + len(states)

    until(at_rest, what="nothing is under way", within_s=60)
    time.sleep(_QUIET_S)


def _ready_arm(daemon: DaemonProcess, app: App) -> float:
    began_s = time.perf_counter()
    reply = daemon.call(_name(app, "ready"), "/health", headers={"X-Gpud-Wake": "true"})
    took_s = time.perf_counter() - began_s
    assert reply.status == 200
    return took_s * 1000


def _paused_arm(daemon: DaemonProcess, app: App) -> float:
    name = _name(app, "paused")
    if not daemon.workers(name):
        daemon.call(name, "/health", headers={"X-Gpud-Wake": "true"})
    (kept,) = until(
        lambda: [worker for worker in daemon.workers(name) if worker["state"] == "paused"],
        what=f"the worker of {name} is paused",
        within_s=60,
    )
    time.sleep(_FROZEN_BY_NOW_S)
    began_s = time.perf_counter()
    reply = daemon.call(name, "/health", headers={"X-Gpud-Wake": "true"})
    took_s = time.perf_counter() - began_s
    assert (reply.status, reply.worker) == (200, kept["id"]), "the paused worker answered"
    return took_s * 1000


def _bare_arm(bare: EngineSocket, daemon: DaemonProcess, app: App, pin: str) -> float:
    worker_id = WorkerId("wk_" + secrets.token_hex(8))
    launch = WorkerLaunch(
        worker_id=worker_id,
        endpoint=EndpointName("bare"),
        revision=Revision("0" * 12),
        generation=1,
        image=PinnedImage(reference=app.image, pin=pin),
        port=PORT,
        env=(*app.env, ("GPUD_ENDPOINT", "bare"), ("GPUD_WORKER", worker_id)),
        gpu_uuids=(GpuUuid("GPU-static-0"),),
    )
    body = create_body(
        launch, install_id="bench", network=daemon.network, attach=GpuAttach.NONE, mounts=(), log_max_mib=16
    )
    name = f"bare-{worker_id}"
    bare.create(name, body)
    try:
        _same_host_config(bare, daemon, app, name)
        return bare.start_and_probe(name, daemon.network, PORT, "/health") * 1000
    finally:
        bare.remove(name)


def _same_host_config(bare: EngineSocket, daemon: DaemonProcess, app: App, name: str) -> None:
    """Stop when gpud's container is made otherwise than the bare one."""
    for kept in daemon.endpoint(_name(app, "created"))["standbys"]:
        if kept["state"] == "ready":
            ours = bare.call("GET", f"/containers/gpud-{kept['id']}/json")["HostConfig"]
            theirs = bare.call("GET", f"/containers/{name}/json")["HostConfig"]
            assert ours == theirs, f"gpud's HostConfig differs: {ours} and {theirs}"

"""Ten endpoints woken at once beside one, from a rung; and the bare engine's starts of as many containers.

One thread sends all requests and waits for all answers, so that the client's own threads do not share the
cores with what is measured. The bare arm starts four at a time, which is what gpud allows on two cores, one
container, and ten: what ten over one is there, is the engine's own. Beside parked workers stand containers
behind the same shim, triggered by hand one right after the other.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench_lib.bare_parked import wake_bare
from bench_lib.bare_worker import bare_body, bare_name, runtime_of
from bench_lib.engine_socket import EngineSocket
from bench_lib.plain import BURST, PORT

from gpud.core.endpoint import PinnedImage
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_lib.coldstart import App
    from bench_lib.report import Report

    from tests.e2e.daemon import DaemonProcess

PARALLEL = 4
"""Starts that the bare arm has the engine do at once."""
_ANSWER_WITHIN_S = 60.0
_QUIET_S = 0.3
_BARE = {"created": "docker_start", "parked": "triggers by hand"}
"""What stands beside gpud, by rung."""


def measure_burst(report: Report, daemon: DaemonProcess, rounds: int, rung: str, app: App) -> None:
    """Add the rows of one rung and application."""
    names = [f"burst-{rung}-{index}" for index in range(BURST)]
    pin = ""
    for name in names:
        pin = daemon.deploy(_spec(name, rung, app))["image"]["pin"]
    if rung == "paused":
        _wake(daemon, names)
    took: dict[str, list[float]] = {"one": [], "ten": [], "bare one": [], "bare ten": []}
    for _ in range(rounds + 1):  # the first is not counted
        for arm, woken in (("one", names[:1]), ("ten", names)):
            _until_kept(daemon, names, rung)
            took[arm].append(_wake(daemon, woken))
        if rung == "created":
            _until_kept(daemon, names, rung)
            took["bare one"].append(_bare(daemon, app, pin, 1))
            took["bare ten"].append(_bare(daemon, app, pin, BURST))
        if rung == "parked":
            with contextlib.closing(EngineSocket(str(daemon.engine.socket_path))) as bare:
                took["bare one"].append(wake_bare(bare, daemon, app, pin, 1, port=PORT))
                took["bare ten"].append(wake_bare(bare, daemon, app, pin, BURST, port=PORT))
    metric = f"burst_ten_ms_{rung}_{app.name}"
    report.add(metric, "gpud, one", "ms", took["one"][1:])
    report.add(metric, "gpud", "ms", took["ten"][1:])
    ratio = f"burst_ten_ratio_{rung}_{app.name}"
    report.add(ratio, "gpud, ten over one", "ratio", _ratios(took["ten"], took["one"]))
    if bare_arm := _BARE.get(rung):
        report.add(metric, f"{bare_arm}, one", "ms", took["bare one"][1:])
        report.add(metric, bare_arm, "ms", took["bare ten"][1:])
        report.add(ratio, f"{bare_arm}, ten over one", "ratio", _ratios(took["bare ten"], took["bare one"]))
        report.add(ratio, f"gpud over {bare_arm}", "ratio", _ratios(took["ten"], took["bare ten"]))
    for name in names:
        assert daemon.api("DELETE", f"/v1/endpoints/{name}").status == 204
    daemon.wait_zero(within_s=60)


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above[1:], below[1:], strict=True)]


def _spec(name: str, rung: str, app: App) -> dict[str, Any]:
    goes = {"idle_timeout_s": 0, "scale_down_delay_s": 0, "max_workers": 1}
    steps: dict[str, Any] = {"standby": {"mode": rung}, "scale": goes}
    if rung == "paused":
        steps = {"pause": {"after_idle_s": 0.05}, "scale": {"idle_timeout_s": 3600, "max_workers": 1}}
    return {
        "name": name,
        "image": app.image,
        "port": PORT,
        "env": dict(app.env),
        "health": {"path": "/health"},
        "gpus": {"count": 0},
        **steps,
    }


def _until_kept(daemon: DaemonProcess, names: list[str], rung: str) -> None:
    """Wait until every endpoint is on its rung, and nothing else is under way."""

    def kept() -> bool:
        workers = [worker["state"] for worker in daemon.workers()]
        if rung == "paused":
            return workers == ["paused"] * len(names)
        standbys = daemon.get("/v1/standbys")["items"]
        ready = {s["endpoint"] for s in standbys if (s["rung"], s["state"]) == (rung, "ready")}
        return not workers and ready.issuperset(names) and len(daemon.containers()) == len(standbys)

    until(kept, what=f"all endpoints are {rung}", within_s=120)
    time.sleep(_QUIET_S)


def _wake(daemon: DaemonProcess, names: list[str]) -> float:
    """Ask endpoints at the same moment; milliseconds until the last has answered."""
    head = f"Host: bench\r\nAuthorization: Bearer {daemon.key}\r\nX-Gpud-Wake: true\r\n\r\n"
    left = selectors.DefaultSelector()
    began_s = time.perf_counter()
    for name in names:
        connection = socket.create_connection(("127.0.0.1", daemon.port))
        connection.sendall(f"GET /e/{name}/health HTTP/1.1\r\n{head}".encode())
        left.register(connection, selectors.EVENT_READ)
    ended_s = began_s
    while left.get_map():
        answered = left.select(_ANSWER_WITHIN_S)
        assert answered, "an endpoint does not answer"
        for key, _events in answered:
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            ended_s = time.perf_counter()
            left.unregister(connection)
            connection.close()
    return (ended_s - began_s) * 1000


def _bare(daemon: DaemonProcess, app: App, pin: str, count: int) -> float:
    slots = threading.Semaphore(PARALLEL)
    image = PinnedImage(reference=app.image, pin=pin)
    names = [bare_name() for _ in range(count)]
    sockets = [EngineSocket(str(daemon.engine.socket_path)) for _ in names]

    def start(bare: EngineSocket, name: str) -> float:
        with slots:
            return bare.start_and_probe(name, daemon.network, PORT, "/health")

    try:
        for bare, name in zip(sockets, names, strict=True):
            body = bare_body(
                name, image, network=daemon.network, port=PORT, env=app.env, runtime=runtime_of(daemon)
            )
            bare.create(name, body)
        return _at_once([lambda b=b, n=n: start(b, n) for b, n in zip(sockets, names, strict=True)])
    finally:
        for bare, name in zip(sockets, names, strict=True):
            bare.remove(name)
            bare.close()


def _at_once(calls: list[Callable[[], float]]) -> float:
    """Milliseconds until the last of several calls made at once has returned."""
    with ThreadPoolExecutor(len(calls)) as pool:
        began_s = time.perf_counter()
        for future in [pool.submit(call) for call in calls]:
            future.result()
        return (time.perf_counter() - began_s) * 1000

"""The plain path: a start by the engine, beside the bare engine doing the same.

Five arms in an order drawn anew each round: an endpoint that keeps nothing (gpud creates and starts) beside
`create` and `start`; an endpoint that keeps one created container beside `start` of one created ahead. The
bare arms use the engine's raw socket, one inspect for the address and a probe every millisecond, and the
second of them runs twice a round. Their containers are made from gpud's own request, and a difference in
HostConfig stops the run. The static server tells on the machine's one monotonic clock when it began and when
it listened, so each start is split exactly.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench_lib.bare_worker import bare_body, bare_name, runtime_of
from bench_lib.engine_socket import EngineSocket

from gpud.core.endpoint import PinnedImage
from tests.e2e.waiting import until
from tests.rig.images import STATIC_IMAGE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from bench_lib.report import Report

    from tests.e2e.daemon import DaemonProcess

PORT = 8000
BURST = 10
"""Endpoints woken at once, elsewhere; the daemon may start as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One start.

    Args:
        total_ms: Until the first byte.
        to_main_ms: Until the program began.
        listening_ms: From the program's listening until the first byte.
    """

    total_ms: float
    to_main_ms: float
    listening_ms: float


def measure_plain(report: Report, daemon: DaemonProcess, rounds: int, rng: random.Random) -> None:
    """Add the rows of the plain path."""
    pin = daemon.deploy(_spec("plain"))["image"]["pin"]
    daemon.deploy(_spec("ahead", standby="created"))
    with contextlib.closing(EngineSocket(str(daemon.engine.socket_path))) as bare:
        _same_host_config(bare, daemon, pin)
        arms: dict[str, Callable[[], Taken]] = {
            "gpud": lambda: _gpud(daemon, "plain"),
            "gpud_created": lambda: _gpud(daemon, "ahead", kept=True),
            "docker_create_start": lambda: _bare(bare, daemon, pin, ahead=False),
            "docker_start": lambda: _bare(bare, daemon, pin, ahead=True),
            "docker_start, again": lambda: _bare(bare, daemon, pin, ahead=True),
        }
        for arm in arms.values():
            arm()  # not counted: page cache, connection pools, the key
        took: dict[str, list[Taken]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name in rng.sample(sorted(arms), len(arms)):
                took[name].append(arms[name]())
    _report(report, took)
    for name in ("plain", "ahead"):
        assert daemon.api("DELETE", f"/v1/endpoints/{name}").status == 204
    daemon.wait_zero(within_s=60)


def _report(report: Report, took: dict[str, list[Taken]]) -> None:
    for name, taken in took.items():
        report.add("first_byte_ms_plain_static", name, "ms", [each.total_ms for each in taken])
        report.add("plain_to_main_ms", name, "ms", [each.to_main_ms for each in taken])
        report.add("plain_listening_to_byte_ms", name, "ms", [each.listening_ms for each in taken])
    # The created rung does what the bare arm does, a start of a container created ahead: that is the overhead
    # by definition. The other row has gpud's create beside the bare one.
    pairs = {
        "gpud": ("gpud_created", "docker_start"),
        "gpud, creating too": ("gpud", "docker_create_start"),
        "gpud, creating, over docker_start": ("gpud", "docker_start"),
        # What two starts by the same arm differ by in one round: nobody can be seen to do better than that.
        "docker_start, over itself": ("docker_start, again", "docker_start"),
    }
    for subject, (ours, theirs) in pairs.items():
        over = [a.total_ms - b.total_ms for a, b in zip(took[ours], took[theirs], strict=True)]
        report.add("overhead_ms_plain", subject, "ms", over)
        report.add(
            "overhead_ms_plain_p95", subject, "ms", [statistics.quantiles(over, n=20, method="inclusive")[-1]]
        )


def _spec(name: str, *, standby: str = "none", gpus: int = 1) -> dict[str, Any]:
    return {
        "name": name,
        "image": STATIC_IMAGE,
        "port": PORT,
        "health": {"path": "/health"},
        "gpus": {"count": gpus},
        "scale": {"idle_timeout_s": 0, "scale_down_delay_s": 0, "max_workers": 1},
        "standby": {"mode": standby},
    }


def _call(daemon: DaemonProcess, name: str) -> Taken:
    began_s = time.perf_counter()
    reply = daemon.call(name, "/")
    ended_s = time.perf_counter()
    assert reply.status == 200
    assert reply.headers["x-gpud-cold-start"] == "true"
    return _taken(began_s, ended_s, reply.headers)


def _taken(began_s: float, ended_s: float, headers: Any) -> Taken:  # noqa: ANN401 - a mapping of either client
    main_s, listen_s = int(headers["x-main-ns"]) / 1e9, int(headers["x-listen-ns"]) / 1e9
    return Taken(
        total_ms=(ended_s - began_s) * 1000,
        to_main_ms=(main_s - began_s) * 1000,
        listening_ms=(ended_s - listen_s) * 1000,
    )


def _gpud(daemon: DaemonProcess, name: str, *, kept: bool = False) -> Taken:
    if kept:
        _until_kept(daemon, [name])
    taken = _call(daemon, name)
    _until_none(daemon, [name])
    return taken


def _until_kept(daemon: DaemonProcess, names: list[str]) -> None:
    for name in names:
        until(
            lambda name=name: any(s["state"] == "ready" for s in daemon.endpoint(name)["standbys"]),
            what=f"{name} has its standby",
            within_s=60,
        )


def _until_none(daemon: DaemonProcess, names: list[str]) -> None:
    for name in names:
        until(lambda name=name: not daemon.workers(name), what=f"{name} is back at zero", within_s=60)


def _body(daemon: DaemonProcess, name: str, pin: str) -> dict[str, Any]:
    image = PinnedImage(reference=STATIC_IMAGE, pin=pin)
    return bare_body(name, image, network=daemon.network, port=PORT, runtime=runtime_of(daemon))


def _bare(bare: EngineSocket, daemon: DaemonProcess, pin: str, *, ahead: bool) -> Taken:
    name = bare_name()
    body = _body(daemon, name, pin)
    began_s = time.perf_counter()
    bare.create(name, body)
    if ahead:
        time.sleep(0.01)
        began_s = time.perf_counter()
    try:
        headers = bare.start_and_ask(name, daemon.network, PORT, "/health")
        return _taken(began_s, time.perf_counter(), headers)
    finally:
        bare.remove(name)


def _same_host_config(bare: EngineSocket, daemon: DaemonProcess, pin: str) -> None:
    """Stop when gpud's container is made otherwise than the bare one, with or without a standby."""
    name = bare_name()
    bare.create(name, _body(daemon, name, pin))
    try:
        theirs = bare.call("GET", f"/containers/{name}/json")["HostConfig"]
        for endpoint in ("plain", "ahead"):
            worker_id = daemon.call(endpoint, "/").worker
            ours = bare.call("GET", f"/containers/gpud-{worker_id}/json")["HostConfig"]
            assert ours == theirs, f"gpud's HostConfig differs: {ours} and {theirs}"
            _until_none(daemon, [endpoint])
    finally:
        bare.remove(name)

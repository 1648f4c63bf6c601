"""What one light call of the engine costs, alone and ten at once: gpud's clients, the SDK as it comes, raw.

The call is an inspect of one created container, on threads, each arm in turn. gpud gives each thread a client
of its own and prepares requests itself; the SDK as it comes shares one client; raw is HTTP over the socket.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import docker
from bench_lib.engine_socket import EngineSocket

from gpud.adapters.docker_client import DockerClients
from tests.rig.images import STATIC_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_lib.report import Report

    from tests.e2e.daemon import DaemonProcess

AT_ONCE = 10
_TIMEOUT_S = 30.0


def measure_engine_calls(report: Report, daemon: DaemonProcess, rounds: int) -> None:
    """Add the milliseconds of a call, alone and at once, and the CPU time of one, for each client."""
    url = daemon.engine.socket_url
    container = daemon.engine.client.containers.create(STATIC_IMAGE)
    assert container.id
    name: str = container.id
    ours, shared = DockerClients(url, call_timeout_s=_TIMEOUT_S), docker.APIClient(url, timeout=_TIMEOUT_S)
    raw = threading.local()

    def by_socket() -> None:
        if not hasattr(raw, "engine"):
            raw.engine = EngineSocket(str(daemon.engine.socket_path))
        raw.engine.call("GET", f"/containers/{name}/json")

    arms: dict[str, Callable[[], object]] = {
        "gpud": lambda: ours.get().inspect_container(name),
        "docker_sdk": lambda: shared.inspect_container(name),
        "raw_http": by_socket,
    }
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool, contextlib.closing(shared):
            for call in arms.values():
                _at_once(pool, call)  # not counted: connections, the API version
            for metric, many in (("engine_call_ms", 1), ("engine_call_ms_ten_at_once", AT_ONCE)):
                took: dict[str, list[float]] = {arm: [] for arm in arms}
                cpu: dict[str, list[float]] = {arm: [] for arm in arms}
                for _ in range(rounds):
                    for arm, call in arms.items():
                        began_cpu_s = time.process_time()
                        took[arm] += _at_once(pool, call, many)
                        cpu[arm].append((time.process_time() - began_cpu_s) * 1000 / many)
                for arm in arms:
                    report.add(metric, arm, "ms", took[arm])
                    report.add(f"{metric}_cpu", arm, "ms", cpu[arm])
    finally:
        container.remove(force=True)


def _at_once(pool: ThreadPoolExecutor, call: Callable[[], object], many: int = AT_ONCE) -> list[float]:
    """Milliseconds that each of several calls made at once took."""
    barrier = threading.Barrier(many)

    def timed() -> float:
        barrier.wait()
        began_s = time.perf_counter()
        call()
        return (time.perf_counter() - began_s) * 1000

    return [future.result() for future in [pool.submit(timed) for _ in range(many)]]

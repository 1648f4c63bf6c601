"""What reading ahead is worth: starts after the image's files were evicted, with and without a recording.

Two endpoints of the Python worker, one with `page_cache.record`, take turns. Before each start every file of
the image's layers is given up with `posix_fadvise(DONTNEED)`; nothing else of the machine's cache is touched.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.waiting import until
from tests.rig.images import WORKER_IMAGE

if TYPE_CHECKING:
    import random

    from bench_lib.report import Report

    from tests.e2e.daemon import DaemonProcess

PORT = 8000
REST_S = 6.0
"""Between two starts of one endpoint: closer ones share one reading."""


def measure_cached(report: Report, daemon: DaemonProcess, rounds: int, rng: random.Random) -> None:
    """Add the rows of starts with and without reading ahead, from an evicted page cache."""
    arms = ("cached", "uncached")
    layers = _layers(daemon)
    for arm in arms:
        daemon.deploy(_spec(arm))
        _start(daemon, arm, [])
    until(
        lambda: daemon.events("image.reads_recorded", endpoint="cached-python3s"),
        what="a first start was recorded",
        within_s=30,
    )
    (noted,) = daemon.events("image.reads_recorded", endpoint="cached-python3s")
    took_ms: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in rng.sample(arms, len(arms)):
            time.sleep(REST_S)
            took_ms[arm].append(_start(daemon, arm, layers))
    warm_ms = [_start(daemon, "uncached", []) for _ in range(max(rounds // 2, 1))]
    metric = "first_byte_ms_cached_python3s"
    report.add(metric, "gpud", "ms", took_ms["cached"])
    report.add(metric, "uncached", "ms", took_ms["uncached"])
    report.add(metric, "never evicted", "ms", warm_ms)
    pairs = zip(took_ms["cached"], took_ms["uncached"], strict=True)
    report.add(f"{metric}_paired", "gpud less uncached", "ms", [a - b for a, b in pairs])
    report.add("cached_recorded_mib", "gpud", "MiB", [noted["facts"]["bytes"] / (1 << 20)])
    for arm in arms:
        assert daemon.api("DELETE", f"/v1/endpoints/{arm}-python3s").status == 204
    daemon.wait_zero(within_s=60)


def _spec(arm: str) -> dict[str, Any]:
    return {
        "name": f"{arm}-python3s",
        "image": WORKER_IMAGE,
        "port": PORT,
        "env": {"BOOT_DELAY_S": "3"},
        "health": {"path": "/health"},
        "gpus": {"count": 0},
        "scale": {"idle_timeout_s": 2, "scale_down_delay_s": 0, "max_workers": 1},
        "page_cache": {"record": arm == "cached"},
    }


def _layers(daemon: DaemonProcess) -> list[str]:
    data = daemon.engine.client.api.inspect_image(WORKER_IMAGE)["GraphDriver"]["Data"]
    return [data["UpperDir"], *data.get("LowerDir", "").split(":")]


def _start(daemon: DaemonProcess, arm: str, evicted: list[str]) -> float:
    name = f"{arm}-python3s"
    for layer in filter(None, evicted):
        _evict(Path(layer))
    began_s = time.perf_counter()
    reply = daemon.call(name, "/echo")
    took_s = time.perf_counter() - began_s
    assert reply.status == 200
    until(lambda: not daemon.workers(name), what="the endpoint is back at zero", within_s=60)
    return took_s * 1000


def _evict(layer: Path) -> None:
    for folder, _folders, names in os.walk(layer):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                continue
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

"""What reading ahead is worth: starts after the image's files were evicted, with and without a recording.

Two endpoints of one image, one with `page_cache.record`, take turns: of the Python worker, which reads some
ten MiB as it starts, and of one that reads all of `READS_MIB` MiB in small files first, as an application
with large libraries would. Before each start, the recorded one too, every file of the image's layers is given
up with `posix_fadvise(DONTNEED)`; nothing else of the machine's cache is touched.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.waiting import until
from tests.rig.images import WORKER_IMAGE, build_image

if TYPE_CHECKING:
    import random

    from bench_lib.report import Report

    from tests.e2e.daemon import DaemonProcess
    from tests.rig.engine import Engine

PORT = 8000
READS_IMAGE = "gpud/bench-reads:1"
IMAGES = {"python3s": WORKER_IMAGE, "reads": READS_IMAGE}
READS_MIB, FILE_KIB = 256, 128
REST_S = 6.0
"""From one start of an endpoint to the next: closer ones share one reading."""


def measure_cached(report: Report, daemon: DaemonProcess, rounds: int, rng: random.Random) -> None:
    """Add the rows of starts with and without reading ahead, from an evicted page cache."""
    _ensure_reads_image(daemon.engine)
    for app in IMAGES:
        _measure(report, daemon, app, rounds, rng)


def _measure(report: Report, daemon: DaemonProcess, app: str, rounds: int, rng: random.Random) -> None:
    arms, image = ("cached", "uncached"), IMAGES[app]
    layers = _layers(daemon, image)
    for arm in arms:
        daemon.deploy(_spec(arm, app, image))
        _start(daemon, f"{arm}-{app}", layers)  # what is recorded is what a start from nothing read
    until(
        lambda: daemon.events("image.reads_recorded", endpoint=f"cached-{app}"),
        what="a first start was recorded",
        within_s=30,
    )
    (noted,) = daemon.events("image.reads_recorded", endpoint=f"cached-{app}")
    took_ms: dict[str, list[float]] = {arm: [] for arm in arms}
    ended_s = dict.fromkeys(arms, time.monotonic())
    for _ in range(rounds):
        for arm in rng.sample(arms, len(arms)):
            time.sleep(max(0.0, ended_s[arm] + REST_S - time.monotonic()))
            ended_s[arm] = time.monotonic()
            took_ms[arm].append(_start(daemon, f"{arm}-{app}", layers))
    warm_ms = [_start(daemon, f"uncached-{app}", []) for _ in range(max(rounds // 2, 1))]
    metric = f"first_byte_ms_cached_{app}"
    report.add(metric, "gpud", "ms", took_ms["cached"])
    report.add(metric, "uncached", "ms", took_ms["uncached"])
    report.add(metric, "never evicted", "ms", warm_ms)
    pairs = zip(took_ms["cached"], took_ms["uncached"], strict=True)
    report.add(f"{metric}_paired", "gpud less uncached", "ms", [a - b for a, b in pairs])
    report.add(f"cached_recorded_mib_{app}", "gpud", "MiB", [noted["facts"]["bytes"] / (1 << 20)])
    for arm in arms:
        assert daemon.api("DELETE", f"/v1/endpoints/{arm}-{app}").status == 204
    daemon.wait_zero(within_s=60)


def _spec(arm: str, app: str, image: str) -> dict[str, Any]:
    return {
        "name": f"{arm}-{app}",
        "image": image,
        "port": PORT,
        "env": {"BOOT_DELAY_S": "3"} if app == "python3s" else {},
        "health": {"path": "/health"},
        "gpus": {"count": 0},
        "scale": {"idle_timeout_s": 1.5, "scale_down_delay_s": 0, "max_workers": 1},
        "page_cache": {"record": arm == "cached"},
    }


def _ensure_reads_image(engine: Engine) -> None:
    """The worker behind a command that reads many files first; they hold nothing that compresses."""
    each = os.urandom(FILE_KIB << 10)
    names = [f"f{number:04}" for number in range(READS_MIB * 1024 // FILE_KIB)]
    command = "cat /data/f* > /dev/null; exec python3 -u /worker.py"
    dockerfile = f'FROM {WORKER_IMAGE}\nCOPY f* /data/\nCMD ["sh", "-c", "{command}"]\n'
    files = {"Dockerfile": dockerfile.encode()} | dict.fromkeys(names, each)
    build_image(engine, READS_IMAGE, files)


def _layers(daemon: DaemonProcess, image: str) -> list[str]:
    data = daemon.engine.client.api.inspect_image(image)["GraphDriver"]["Data"]
    return [data["UpperDir"], *data.get("LowerDir", "").split(":")]


def _start(daemon: DaemonProcess, name: str, evicted: list[str]) -> float:
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

"""The workers' output: kept from the first byte to the last, through restarts and after the container."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = pytest.mark.e2e

_SECRET = "hunter2-hunter2"


def _numbers(lines: list[dict[str, Any]]) -> list[int]:
    return [int(line["text"].split()[2]) for line in lines if line["text"].startswith("flood line ")]


def _lines(daemon: DaemonProcess, **query: object) -> list[dict[str, Any]]:
    asked = "&".join(f"{name}={value}" for name, value in {"limit": 5000, **query}.items())
    items: list[dict[str, Any]] = daemon.get(f"/v1/logs?{asked}")["items"]
    return items


def _stats(daemon: DaemonProcess, worker_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = daemon.get(f"/v1/workers/{worker_id}/stats")["items"]
    return items


def test_output_is_kept_whole_through_a_killed_daemon_and_after_the_container_is_gone(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings={**static_gpus(1), "metrics": {"step_s": 1}})
    env = {"LOG_FLOOD_LINES_PER_S": 200, "API_TOKEN": _SECRET}
    daemon.deploy(worker_spec("chatty", worker_image, env=env, scale={"min_workers": 1}))
    (worker,) = daemon.wait_ready("chatty")
    until(lambda: len(_lines(daemon, endpoint="chatty")) > 100, what="lines")
    daemon.kill()
    daemon.start()
    (used, *_) = until(lambda: _stats(daemon, worker["id"]), what="a look at what it uses")
    assert used["memory_bytes"] > 1 << 20
    scraped = daemon.api("GET", "/metrics").body.decode()
    assert f'gpud_worker_memory_bytes{{endpoint="chatty",worker="{worker["id"]}"}}' in scraped
    assert 'gpud_gpu_seconds_total{endpoint="chatty",phase="idle"}' in scraped
    last = _numbers(_lines(daemon, worker=worker["id"]))[-1]
    until(lambda: _numbers(_lines(daemon, worker=worker["id"], limit=1))[:1] > [last + 100], what="more")
    assert daemon.api("DELETE", f"/v1/workers/{worker['id']}?force=true").status == 202
    until(lambda: worker["id"] not in {w["id"] for w in daemon.workers("chatty")}, what="its end")
    lines = _lines(daemon, worker=worker["id"], order="oldest")
    numbers = _numbers(lines)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] <= 1
    assert [line["text"] for line in lines if line["text"].startswith("listening")]
    told = [line["text"].split()[0] for line in lines if line["stream"] == "gpud"]
    assert told[0] == "worker.requested"
    assert {"worker.ready", "worker.adopted", "worker.gone"} <= set(told)
    assert _SECRET not in json.dumps(lines)
    shown = daemon.cli("logs", "chatty", "--previous", "--tail", "3", "--stream", "gpud")
    assert shown.returncode == 0
    assert "worker.gone" in shown.stdout

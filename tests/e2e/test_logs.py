"""The workers' output: kept from the first byte to the last, through restarts and after the container."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = pytest.mark.e2e

_SECRET = "hunter2-hunter2"
_LINE_BYTES = 65_536
_LONG_LINE = f"""
import os
text = b"x" * {_LINE_BYTES - 5} + os.environ["API_TOKEN"].encode()
with open("/proc/1/fd/2", "wb") as stderr:
    stderr.write(text.ljust(10_000_000, b"y") + b"\\nafter\\n")
"""


def _numbers(lines: list[dict[str, Any]]) -> list[int]:
    return [int(line["text"].split()[2]) for line in lines if line["text"].startswith("flood line ")]


def _lines(daemon: DaemonProcess, **query: object) -> list[dict[str, Any]]:
    asked = "&".join(f"{name}={value}" for name, value in {"limit": 5000, **query}.items())
    items: list[dict[str, Any]] = daemon.get(f"/v1/logs?{asked}")["items"]
    return items


def _stats(daemon: DaemonProcess, worker_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = daemon.get(f"/v1/workers/{worker_id}/stats")["items"]
    return items


def _log_process(daemon: DaemonProcess) -> int:
    children = [
        int(pid)
        for listed in Path(f"/proc/{daemon.pid}/task").glob("*/children")
        for pid in listed.read_text().split()
    ]
    (pid,) = (
        pid for pid in children if b"gpud.adapters.log_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


def _memory_bytes(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _a_line_of_ten_megabytes(daemon: DaemonProcess, worker_id: str) -> None:
    """Cut where it is said, with nothing lost without a word, none of a secret kept, and in little memory."""
    pid = _log_process(daemon)
    before_bytes = _memory_bytes(pid, "VmHWM")
    written = daemon.cli("exec", worker_id, "--", "python3", "-c", _LONG_LINE)
    assert written.returncode == 0, written.stderr
    stderr = {"worker": worker_id, "stream": "stderr", "order": "oldest"}
    until(lambda: "after" in {line["text"] for line in _lines(daemon, **stderr)}, what="the line behind it")
    long, after = [line["text"] for line in _lines(daemon, **stderr)]
    kept, mark, left_out = long.partition(" [")
    assert (len(kept), mark, after) == (_LINE_BYTES, " [", "after")
    cut_off = int(left_out.removesuffix(" more bytes left out]"))
    assert len(kept) + cut_off == 10_000_000 - len(_SECRET) + len("[redacted]")
    assert _SECRET[:7] not in long
    assert not [line for line in _lines(daemon, worker=worker_id) if "log_dropped" in line["text"]]
    shown = daemon.cli("logs", worker_id, "--stream", "stderr", "--tail", "2")
    assert f"{cut_off} more bytes left out]" in shown.stdout
    assert _memory_bytes(pid, "VmHWM") - before_bytes < 10_000_000


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
    _a_line_of_ten_megabytes(daemon, worker["id"])
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

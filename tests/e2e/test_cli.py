"""The command line against a daemon with a real engine: the daily commands, and what failures look like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import static_gpus
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import DaemonStarter

pytestmark = pytest.mark.e2e


def test_an_endpoint_is_deployed_called_watched_scaled_and_removed(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(2))

    deployed = daemon.cli(
        "deploy",
        worker_image,
        "-n",
        "hello",
        "--min-workers",
        "1",
        "--health-path",
        "/health",
        "-e",
        "BOOT_DELAY_S=0.5",
    )
    assert deployed.returncode == 0, deployed.stderr
    assert deployed.stdout.startswith("hello created: ready, revision ")
    assert deployed.stderr.rstrip("\n").split("\n")[-2:] == [
        "start: starting, until the health check passes",
        "ready: ready",
    ]

    _, row = daemon.cli("endpoint", "ls").stdout.rstrip("\n").split("\n")
    assert row.split()[:4] == ["hello", "ready", "1/1", "1-1"]
    (worker,) = json.loads(daemon.cli("worker", "ls", "--json").stdout)["items"]
    assert worker["id"] in daemon.cli("gpu", "ls").stdout

    token = daemon.cli("key", "create", "--scope", "invoke:hello").stdout.strip()
    url = f"http://127.0.0.1:{daemon.port}"
    answer = daemon.cli("invoke", "hello", "/echo", "-d", "{}", "--url", url, env={"GPUD_KEY": token})
    assert answer.returncode == 0, answer.stderr
    echoed = json.loads(answer.stdout)
    assert (echoed["method"], echoed["body_bytes"]) == ("POST", 2)
    other = daemon.cli("endpoint", "ls", "--url", url, env={"GPUD_KEY": token})
    assert other.returncode == 5

    assert daemon.cli("endpoint", "scale", "hello", "--min", "0", "--max", "2").returncode == 0
    assert daemon.cli("worker", "stop", worker["id"]).returncode == 0
    until(lambda: "hello" in daemon.cli("usage", "--since", "1h").stdout, what="the usage is told")
    gone = f"{worker['id']}  hello     gone"
    until(lambda: gone in daemon.cli("worker", "ls", "--all").stdout, what="the worker is gone")
    assert daemon.cli("endpoint", "rm", "hello").returncode == 0
    assert daemon.cli("endpoint", "get", "hello").returncode == 3
    assert daemon.cli("audit").stdout.startswith("The books hold")
    kinds = daemon.cli("events", "-n", "100").stdout
    for kind in ("endpoint.", "worker.ready", "worker.gone"):
        assert kind in kinds


def test_waiting_for_a_sleeping_endpoint_wakes_a_worker(
    start_daemon: DaemonStarter, worker_image: str, tmp_path: Path
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    path = tmp_path / "endpoint.toml"
    path.write_text(f'name = "hello"\nimage = "{worker_image}"\n[health]\npath = "/health"\n')
    assert daemon.cli("apply", "-f", str(path)).stdout == "hello created\n"
    assert daemon.cli("apply", "-f", str(path)).stdout == "hello unchanged\n"
    env = {"GPUD_KEY": daemon.cli("key", "create", "--scope", "admin").stdout.strip()}
    url = f"http://127.0.0.1:{daemon.port}"
    words = ("deploy", "--file", str(path), "--wait", "--wait-timeout", "30s")
    waited = daemon.cli(*words, "--url", url, env=env)
    assert waited.returncode == 0, waited.stderr
    assert daemon.workers("hello", state="ready")


def test_a_container_that_ends_at_once_is_told_within_seconds(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    failed = daemon.cli(
        "deploy",
        worker_image,
        "-n",
        "broken",
        "--min-workers",
        "1",
        "-e",
        "EXIT_AT_START=3",
        "--wait-timeout",
        "30s",
    )
    assert failed.returncode == 1, failed.stderr
    assert "broken is deployed, and its workers fail to start: " in failed.stderr
    shown = daemon.cli("endpoint", "get", "broken")
    assert "Last error" in shown.stdout


def test_more_gpus_than_the_box_has_are_refused_by_the_option_s_name(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    refused = daemon.cli("deploy", worker_image, "-n", "big", "--gpus", "2")
    assert refused.returncode == 2
    assert "  --gpus  " in refused.stderr
    missing = daemon.cli("deploy", "localhost:1/no/such:image", "-n", "missing")
    assert missing.returncode in (1, 3)
    assert missing.stderr.startswith("gpud: ")
    assert daemon.get("/v1/endpoints")["items"] == []

"""Workers that cannot start: the held request, the endpoint, the command line and the log say why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.clarity import assert_cli, assert_logged, assert_problem
from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = pytest.mark.e2e


def _assert_told_everywhere(daemon: DaemonProcess, spec: dict[str, Any], says: list[str]) -> None:
    name = spec["name"]
    daemon.deploy(spec)
    reply = daemon.call(name, "/echo")
    assert_problem(
        daemon, reply, status=503, slug="start-failed", says=[*says, f"gpud endpoint retry {name}"]
    )
    endpoint = daemon.endpoint(name)
    assert endpoint["condition"] == "failing"
    for words in says:
        assert words in endpoint["last_error"]
    assert_logged(daemon, "worker.failed", endpoint=name, says=says)
    until(lambda: daemon.events("worker.failed", endpoint=name), what="people can read it later")
    assert_cli(daemon.cli("endpoint", "retry", name), code=0, says=[])
    assert_cli(daemon.cli("invoke", name, "/echo"), code=1, says=says)
    # The next try's error counts, whichever asks first.
    assert_cli(_redeploy(daemon, spec), code=1, says=says)
    assert daemon.api("DELETE", f"/v1/endpoints/{name}").status == 204
    daemon.wait_zero()
    assert all(gpu["worker_id"] is None for gpu in daemon.gpus().values())
    daemon.audit()


def _redeploy(daemon: DaemonProcess, spec: dict[str, Any]) -> Any:
    env = [word for pair in spec["env"].items() for word in ("--env", "=".join(pair))]
    timeout = str(spec["health"]["start_timeout_s"])
    return daemon.cli(
        "deploy",
        spec["image"],
        *("--name", spec["name"], "--port", str(spec["port"]), "--wait", "--health-path", "/health"),
        *("--start-timeout", timeout),
        *env,
    )


def test_a_container_that_exits_at_once(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings={**static_gpus(1), "scaling": {"circuit_failures": 2}})
    spec = worker_spec("exits", worker_image, env={"EXIT_AT_START": 3})
    _assert_told_everywhere(
        daemon, spec, ["The container exited with code 3", "Last output: exiting at start with 3"]
    )


def test_a_worker_that_never_gets_healthy(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings={**static_gpus(1), "scaling": {"circuit_failures": 1}})
    spec = worker_spec("sick", worker_image, env={"REFUSE_HEALTH": 1}, health={"start_timeout_s": 2})
    _assert_told_everywhere(daemon, spec, ["Not ready 2 s after its start", "GET /health answers 503"])


def test_a_port_nobody_listens_on(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings={**static_gpus(1), "scaling": {"circuit_failures": 1}})
    spec = worker_spec("deaf", worker_image, port=8001, health={"start_timeout_s": 2})
    _assert_told_everywhere(
        daemon, spec, ["Not ready 2 s after its start", "connection refused on port 8001"]
    )


def test_a_start_that_hangs_silently_fails_by_its_stall_and_one_that_keeps_logging_does_not(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings={**static_gpus(2), "scaling": {"circuit_failures": 1}})
    patient = {"start_timeout_s": 60, "stall_timeout_s": 2}
    busy = worker_spec(
        "busy", worker_image, env={"HEALTH_AFTER_S": 5, "LOG_FLOOD_LINES_PER_S": 20}, health=patient
    )
    busy["scale"] = {**busy.get("scale", {}), "min_workers": 1}
    daemon.deploy(busy)
    daemon.deploy(worker_spec("hung", worker_image, env={"NEVER_LISTEN": 1}, health=patient))
    says = ["Its start stalled: for 2 s (health.stall_timeout_s)", "connection refused on port 8000"]
    assert_problem(daemon, daemon.call("hung", "/echo"), status=503, slug="start-failed", says=says)
    assert_logged(daemon, "worker.failed", endpoint="hung", says=says)
    assert daemon.call("busy", "/echo").status == 200
    assert not daemon.events("worker.failed", endpoint="busy")


def test_a_command_that_is_not_in_the_image(start_daemon: DaemonStarter, base_image: str) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy({"name": "bare", "image": base_image, "port": 8000, "command": ["/no/such/program"]})
    says = ["code 127", "its command was not found in the image", "/no/such/program"]
    reply = daemon.call("bare", "/")
    assert_problem(daemon, reply, status=503, slug="start-failed", says=says)
    assert_logged(daemon, "worker.failed", endpoint="bare", says=says)


def test_a_mended_endpoint_serves_though_it_failed_before(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(
        settings={**static_gpus(1), "scaling": {"circuit_failures": 1, "start_backoff_s": 60}}
    )
    daemon.deploy(worker_spec("mended", worker_image, env={"EXIT_AT_START": 3}))
    assert daemon.call("mended").status == 503
    daemon.deploy(worker_spec("mended", worker_image))
    assert daemon.call("mended").status == 200, "a new revision starts with a clean record"
    assert daemon.endpoint("mended")["last_error"] == ""

"""Idle workers that step down on a real engine: frozen or asleep, and woken by a request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import static_gpus, worker_spec
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = pytest.mark.e2e

_STEPS: dict[str, dict[str, Any]] = {
    "paused": {"pause": {"after_idle_s": 0.3}},
    "sleeping": {"sleep": {"preset": "vllm", "after_idle_s": 0.3, "timeout_s": 3}},
}
_ROLLOUT = {"min_ready_s": 0}


def _deploy(daemon: DaemonProcess, name: str, image: str, **fields: Any) -> None:
    scale = {"concurrency": 20, "idle_timeout_s": 600} | fields.pop("scale", {})
    daemon.deploy(worker_spec(name, image, scale=scale, **fields))


def _is(daemon: DaemonProcess, name: str, state: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [w for w in daemon.workers() if w["endpoint"] == name and w["state"] == state]

    return until(found, what=f"a worker of {name} is {state}", within_s=30)[0]


def test_requests_are_answered_by_workers_woken_from_each_rung(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    """One daemon goes through all of it: each rung, a killed daemon, workers that end on their rung."""
    daemon = start_daemon(settings=static_gpus(2))
    for rung, fields in _STEPS.items():
        _deploy(daemon, rung, worker_image, **fields)
        assert daemon.call(rung).status == 200
    kept = {rung: _is(daemon, rung, rung)["id"] for rung in _STEPS}
    leased = {
        row["worker_id"] for row in daemon.rows("SELECT * FROM gpu_lease WHERE released_boot_ns IS NULL")
    }
    assert leased == {kept["paused"]}
    listed = daemon.cli("worker", "ls").stdout
    assert all(rung in listed for rung in _STEPS)

    def held(rung: str) -> None:
        with ThreadPoolExecutor(20) as clients:
            replies = list(clients.map(lambda _: daemon.call(rung), range(20)))
        assert [(reply.status, reply.worker) for reply in replies] == [(200, kept[rung])] * 20

    for rung in _STEPS:
        held(rung)
        (woken,) = until(lambda: daemon.events("worker.woken", endpoint=rung), what="it is told")  # noqa: B023
        assert woken["facts"]["rung"] == rung
        _is(daemon, rung, rung)

    daemon.kill()
    daemon.start()
    assert {c.name for c in daemon.containers()} == {f"gpud-{worker}" for worker in kept.values()}
    for rung in _STEPS:
        held(rung)
        _is(daemon, rung, rung)

    for rung in _STEPS:
        daemon.container_of(kept[rung]).kill()
        reply = daemon.call(rung)
        assert (reply.status, reply.worker != kept[rung]) == (200, True)
        _is(daemon, rung, rung)
    daemon.audit()
    for rung in _STEPS:
        assert daemon.api("DELETE", f"/v1/endpoints/{rung}").status == 204
    until(lambda: not daemon.containers(), what="nothing is left", within_s=30)
    daemon.audit()


@pytest.mark.parametrize("knobs", [{"WAKE_STATUS": 500}, {"WAKE_HANGS": 1}, {"CRASH_AT_WAKE": 1}])
def test_a_worker_that_does_not_wake_is_started_cold(
    start_daemon: DaemonStarter, worker_image: str, knobs: dict[str, int]
) -> None:
    daemon = start_daemon()
    _deploy(daemon, "bad", worker_image, gpus={"count": 0}, env=knobs, **_STEPS["sleeping"])
    first = daemon.call("bad")
    _is(daemon, "bad", "sleeping")
    reply = daemon.call("bad")
    assert (reply.status, reply.worker != first.worker) == (200, True)
    assert daemon.events("worker.step_failed", endpoint="bad")
    daemon.audit()

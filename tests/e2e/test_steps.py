"""Idle workers that step down on a real engine: frozen or asleep, and woken by a request."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import nvml_gpus, static_gpus, worker_spec
from tests.e2e.waiting import until
from tests.rig.nvml_stand_in import GIB, StandInProcess

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess
    from tests.rig.nvml_stand_in import NvmlStandIn

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("shim")]

_STEPS: dict[str, dict[str, Any]] = {
    "paused": {"pause": {"after_idle_s": 0.3}},
    "sleeping": {"sleep": {"preset": "vllm", "after_idle_s": 0.3, "timeout_s": 3}},
}
_STANDBYS = ("created", "parked")
_MIB = 1 << 20


def _deploy(daemon: DaemonProcess, name: str, image: str, **fields: Any) -> None:
    scale = {"concurrency": 20, "idle_timeout_s": 600} | fields.pop("scale", {})
    limits = {"stop_grace_s": 1}
    daemon.deploy(worker_spec(name, image, scale=scale, limits=limits, **fields))


def _is(daemon: DaemonProcess, name: str, state: str) -> str:
    def found() -> list[dict[str, Any]]:
        return [w for w in daemon.workers() if w["endpoint"] == name and w["state"] == state]

    return str(until(found, what=f"a worker of {name} is {state}", within_s=30)[0]["id"])


def _leases(daemon: DaemonProcess) -> set[str]:
    rows = daemon.rows("SELECT worker_id FROM gpu_lease WHERE released_boot_ns IS NULL")
    return {row["worker_id"] for row in rows}


def _answered(daemon: DaemonProcess, name: str, worker: str) -> None:
    """Twenty requests at once are all answered by one worker."""
    with ThreadPoolExecutor(20) as clients:
        replies = list(clients.map(lambda _: daemon.call(name), range(20)))
    assert [(reply.status, reply.worker) for reply in replies] == [(200, worker)] * 20


def _die_of_what_they_were_woken_for(daemon: DaemonProcess, image: str) -> None:
    """On endpoints of their own: a rung that failed is left alone for ten seconds."""
    for rung, fields in _STEPS.items():
        _deploy(daemon, f"{rung}-hit", image, **fields)
        number = daemon.call(f"{rung}-hit").json()["request_number"]
        order = json.dumps({"crash_on_request": number + 1}).encode()
        worker = daemon.call(f"{rung}-hit", "/control", method="POST", body=order).worker
        assert _is(daemon, f"{rung}-hit", rung) == worker
        _answered_by_another_start(daemon, f"{rung}-hit", worker)


def _is_told_to_end_while_it_is_frozen(daemon: DaemonProcess, image: str) -> None:
    """It takes the signal when it is thawed, which is in the moment of its trigger."""
    _deploy(daemon, "told", image, **_STEPS["paused"])
    daemon.call("told")
    worker = _is(daemon, "told", "paused")
    daemon.container_of(worker).kill(signal="SIGTERM")
    _answered_by_another_start(daemon, "told", worker)
    (woken,) = [w for w in daemon.log_lines("worker.waking") if w["worker"] == worker]
    assert woken["endpoint"] == "told", "it came to its end on the way back, not before"


def _answered_by_another_start(daemon: DaemonProcess, name: str, dead: str) -> None:
    """A request is; and what its dead worker had, is given back and billed no more."""
    reply = daemon.call(name)
    assert (reply.status, reply.worker != dead) == (200, True), reply
    open_rows = (
        "SELECT worker_id FROM gpu_lease WHERE worker_id = ? AND released_boot_ns IS NULL",
        "SELECT worker_id FROM usage_segment WHERE worker_id = ? AND end_boot_ns IS NULL",
    )
    for query in open_rows:
        until(lambda: not daemon.rows(query, dead), what=f"nothing of {dead} is open")  # noqa: B023


def test_requests_are_answered_by_workers_woken_from_each_rung(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    """One daemon goes through all of it: each rung, its own death, workers that end on their rung."""
    daemon = start_daemon(settings=static_gpus(5))
    for rung in _STANDBYS:
        _deploy(daemon, rung, worker_image, gpus={"count": 0}, standby={"mode": rung})
    for rung, fields in _STEPS.items():
        _deploy(daemon, rung, worker_image, **fields)
        assert daemon.call(rung).status == 200
    kept = {rung: _is(daemon, rung, rung) for rung in _STEPS}
    until(lambda: _leases(daemon) == {kept["paused"]}, what="the sleeper's lease is closed on disk")
    listed = daemon.cli("worker", "ls").stdout
    assert all(rung in listed for rung in _STEPS)

    for rung in _STEPS:
        _answered(daemon, rung, kept[rung])
        woken = until(lambda: daemon.events("worker.woken", endpoint=rung), what="it is told")  # noqa: B023
        assert woken[0]["facts"]["rung"] == rung
        _is(daemon, rung, rung)
    for rung in _STANDBYS:
        found = until(
            lambda: [s for s in daemon.endpoint(rung)["standbys"] if s["state"] == "ready"],  # noqa: B023
            what=f"{rung} stands by",
        )
        kept[rung] = found[0]["id"]

    daemon.wait_on_disk()
    daemon.kill()
    daemon.start()
    assert {c.name for c in daemon.containers()} == {f"gpud-{worker}" for worker in kept.values()}
    for rung, worker in kept.items():
        _answered(daemon, rung, worker)

    for rung in _STEPS:
        _is(daemon, rung, rung)
        daemon.container_of(kept[rung]).kill()
        _answered_by_another_start(daemon, rung, kept[rung])
    _die_of_what_they_were_woken_for(daemon, worker_image)
    _is_told_to_end_while_it_is_frozen(daemon, worker_image)
    daemon.audit()
    for name in (*kept, *(f"{rung}-hit" for rung in _STEPS), "told"):
        assert daemon.api("DELETE", f"/v1/endpoints/{name}").status == 204
    until(lambda: not daemon.containers(), what="nothing is left", within_s=30)
    daemon.audit()


def test_a_worker_that_does_not_fall_asleep_or_wake_is_started_cold(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    knobs = {"status": {"WAKE_STATUS": 500}, "hang": {"WAKE_HANGS": 1}, "crash": {"CRASH_AT_WAKE": 1}}
    late, never = {"CRASH_AT_WAKE": 2}, {"SLEEP_STATUS": 500}
    daemon = start_daemon(settings={"scaling": {"starts": 8}})
    first: dict[str, str] = {}
    for name, env in (knobs | {"late": late, "never": never}).items():
        _deploy(daemon, name, worker_image, gpus={"count": 0}, env=env, **_STEPS["sleeping"])
        first[name] = daemon.call(name).worker
    for name in (*knobs, "late"):
        assert _is(daemon, name, "sleeping") == first[name]
    for name in knobs:
        reply = daemon.call(name)
        assert (reply.status, reply.worker != first[name]) == (200, True)
        assert until(lambda: daemon.events("worker.step_failed", endpoint=name), what="it is told")  # noqa: B023
    daemon.call("late")  # which it may still answer
    until(lambda: first["late"] not in {w["id"] for w in daemon.workers()}, what="it ended right after")
    for name in ("late", "never"):
        reply = daemon.call(name)
        assert (reply.status, reply.worker != first[name]) == (200, True)
    refused = daemon.call("hang", "/%73leep/")
    assert refused.status == 403, "its control paths are not for callers"
    daemon.audit()


def test_a_gpu_is_free_once_its_memory_is_back_and_what_a_sleeper_keeps_is_nobody_elses(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    nvml.set_gpus(nvml.gpus[:1])
    uuid = nvml.gpus[0].uuid
    daemon = start_daemon(settings=nvml_gpus(), env=nvml.env())
    sleep = _STEPS["sleeping"]["sleep"] | {"timeout_s": 20, "vram_mib": 300}
    _deploy(daemon, "model", worker_image, sleep=sleep)
    model = daemon.call("model", "/delay/0.5").worker
    pids = [StandInProcess(pid=int(row[1])) for row in daemon.container_of(model).top()["Processes"]]
    nvml.set_processes(uuid, pids)
    nvml.change(uuid, memory_used_bytes=8 * GIB)
    _is(daemon, "model", "dozing")
    until(lambda: "keeps GPU memory" in daemon.get(f"/v1/workers/{model}")["detail"], what="it says why")
    assert _leases(daemon) == {model}, "until its memory is back"
    nvml.change(uuid, memory_used_bytes=700 * _MIB)
    _is(daemon, "model", "sleeping")
    until(lambda: not _leases(daemon), what="its lease is closed on disk")

    _deploy(daemon, "other", worker_image, scale={"idle_timeout_s": 0, "scale_down_delay_s": 0})
    assert daemon.call("other").status == 200, "the sleeper's process and 300 MiB are no reason"
    assert daemon.gpus()[uuid]["health"] == "healthy"
    reply = daemon.call("model")
    assert (reply.status, reply.worker) == (200, model)
    assert daemon.gpus()[uuid]["health"] == "healthy"
    daemon.audit()

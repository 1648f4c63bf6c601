"""An image becomes an endpoint that wakes from zero on a pinned GPU, serves, is metered, and sleeps again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import nvml_gpus, static_gpus, worker_spec
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess
    from tests.rig.nvml_stand_in import NvmlStandIn

pytestmark = pytest.mark.e2e


def test_an_endpoint_wakes_on_a_pinned_gpu_serves_is_metered_and_returns_to_zero(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    settings = {
        **nvml_gpus(),
        "prices": {"gpu_hour_micros": 3_600_000_000},
        "energy": {"kwh_micros": 3_600_000_000},
        "metrics": {"step_s": 1.0},
    }
    daemon = start_daemon(settings=settings, env=nvml.env())
    endpoint = daemon.deploy(worker_spec("hello", worker_image, scale={"idle_timeout_s": 0.5}))
    assert endpoint["condition"] == "sleeping"
    assert daemon.containers() == []

    answer = daemon.call("hello")

    assert answer.status == 200
    assert answer.headers["x-gpud-cold-start"] == "true"
    # The engine's own hook, told by the device request, says which GPUs the container sees.
    leased = daemon.rows("SELECT gpu_uuid FROM gpu_lease WHERE worker_id = ?", answer.worker)
    assert [row["gpu_uuid"] for row in leased] == [answer.json()["nvidia_visible_devices"]]
    assert leased[0]["gpu_uuid"] in {gpu.uuid for gpu in nvml.gpus}
    warm = daemon.call("hello")
    assert warm.headers["x-gpud-cold-start"] == "false"
    assert warm.worker == answer.worker

    daemon.wait_zero("hello")
    until(lambda: not daemon.containers(), what="the container is removed")
    line = daemon.get("/v1/usage?by=endpoint")["items"][0]
    assert line["key"] == "hello"
    assert line["sessions"] == 1
    assert line["billed_s"] == -(-line["gpu_ms"] // 1000)
    assert 0 < line["cost_micros"] <= (line["gpu_ms"] + 1) * 1000, "a GPU second costs one unit here"
    assert {"start", "active", "idle", "stop"} <= set(line["phases_ms"])
    assert all(gpu["worker_id"] is None for gpu in daemon.gpus().values())
    report = daemon.get("/v1/usage?by=key")
    keys = {row["key"]: row for row in report["items"]}
    assert {"(idle)", "(starting)", "(stopping)"} < set(keys)
    (caller,) = (key for key in keys if not key.startswith("("))
    assert keys[caller]["gpu_ms"] > 0
    assert report["total"]["gpu_ms"] == pytest.approx(line["gpu_ms"], abs=len(keys))
    drawn_mj = report["total"]["energy_mj"]
    nvml.change(nvml.gpus[0].uuid, energy_mj=nvml.gpus[0].energy_mj + 25_000)
    until(
        lambda: daemon.get("/v1/usage?by=worker")["total"]["energy_mj"] == drawn_mj + 25_000,
        what="what the driver counted is told",
    )
    until(
        lambda: daemon.get("/v1/usage?by=worker")["items"][-1]["phases_ms"].get("unleased"),
        what="time in which nobody had a GPU is told",
    )
    nobodys = daemon.get("/v1/usage?by=worker")["items"][-1]
    assert nobodys["key"] == "(unleased)"
    assert 0 < nobodys["energy_mj"] <= drawn_mj + 25_000, "the rest fell into the worker's time"
    assert nobodys["energy_cost_micros"] == nobodys["energy_mj"], "a joule costs a thousandth of a unit here"
    scraped = daemon.api("GET", "/metrics").body.decode()
    assert 'gpud_energy_joules_total{endpoint="",phase="unleased"}' in scraped
    daemon.audit()


def test_every_phase_of_a_cold_start_is_told(start_daemon: DaemonStarter, worker_image: str) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("hello", worker_image))
    answer = daemon.call("hello")
    assert answer.status == 200
    # The answer does not wait for the event to be on disk.
    (ready,) = until(lambda: daemon.events("worker.ready", endpoint="hello"), what="the event is on record")
    phases = {name: ready["facts"][f"{name}_ms"] for name in ("image", "reserve", "create", "start", "ready")}
    assert all(took_ms >= 0 for took_ms in phases.values())
    assert sum(phases.values()) == pytest.approx(ready["facts"]["total_ms"], abs=0.01)
    assert phases["create"] > 0
    assert phases["start"] > 0
    assert phases["ready"] > 0

    def answered() -> bool:
        """The first byte is written down a moment after the client has it."""
        return daemon.get("/v1/endpoints/hello/starts")["items"][0]["first_byte_ms"] is not None

    until(answered, what="the first byte is on record")
    (start,) = daemon.get("/v1/endpoints/hello/starts")["items"]
    finer = ("wait", "evict", "pull", "reserve", "create", "engine_start", "listen", "ready")
    assert sum(start[f"{phase}_ms"] for phase in finer) == pytest.approx(start["total_ms"], abs=0.01)
    assert start["listen_ms"] > 0
    assert "start_listen;dur=" in answer.headers["server-timing"]


def test_twenty_of_twenty_requests_held_over_a_cold_start_are_answered(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    daemon = start_daemon(settings=static_gpus(1))
    daemon.deploy(worker_spec("slow-start", worker_image, env={"BOOT_DELAY_S": 1}))
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: daemon.call("slow-start"), range(20)))
    assert [answer.status for answer in answers] == [200] * 20
    assert {answer.headers["x-gpud-cold-start"] for answer in answers} == {"true"}
    assert daemon.call("slow-start", "/stats").json()["requests"] == 20, "none is sent twice"
    assert len({answer.worker for answer in answers}) == 1


def test_twenty_four_requests_at_once_scale_to_three_workers_on_three_gpus(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    daemon = start_daemon(settings=nvml_gpus(), env=nvml.env())
    scale = {"max_workers": 3, "concurrency": 8, "idle_timeout_s": 0.5}
    daemon.deploy(worker_spec("burst", worker_image, scale=scale))
    with ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(lambda _: daemon.call("burst", "/delay/2"), range(24)))
    assert [answer.status for answer in answers] == [200] * 24
    served = daemon.rows(
        "SELECT l.gpu_uuid, l.worker_id FROM gpu_lease l JOIN worker w ON w.id = l.worker_id "
        "WHERE w.endpoint = 'burst'"
    )
    assert len(served) == 3
    assert len({row["gpu_uuid"] for row in served}) == 3
    assert {answer.worker for answer in answers} == {row["worker_id"] for row in served}
    daemon.wait_zero("burst")
    daemon.audit()


def test_two_endpoints_that_share_one_gpu_take_turns_and_never_overlap(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    nvml.set_gpus(nvml.gpus[:1])
    daemon = start_daemon(settings=nvml_gpus(), env=nvml.env())
    for name in ("left", "right"):
        daemon.deploy(worker_spec(name, worker_image, scale={"idle_timeout_s": 0}))
    turns = ["left", "right"] * 3
    with ThreadPoolExecutor(len(turns)) as clients:
        answers = list(clients.map(lambda name: daemon.call(name, "/delay/0.1"), turns))
    assert [answer.status for answer in answers] == [200] * len(turns)
    daemon.wait_zero()
    _assert_containers_never_overlapped(daemon)
    daemon.audit()


def _assert_containers_never_overlapped(daemon: DaemonProcess) -> None:
    held = daemon.rows(
        "SELECT w.endpoint, w.container_started_ns AS started_ns, w.container_finished_ns AS finished_ns, "
        "l.leased_boot_ns, l.released_boot_ns "
        "FROM worker w JOIN gpu_lease l ON l.worker_id = w.id ORDER BY l.leased_boot_ns"
    )
    assert {row["endpoint"] for row in held} == {"left", "right"}
    for before, after in pairwise(held):
        assert before["released_boot_ns"] <= after["leased_boot_ns"]
        assert 0 < before["finished_ns"] < after["started_ns"]

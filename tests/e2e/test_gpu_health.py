"""GPUs that misbehave, as NVML tells it: quarantined, left, and never handed to two."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.daemon import nvml_gpus, worker_spec
from tests.e2e.waiting import until
from tests.rig.nvml_stand_in import GIB, StandInMig, StandInProcess, stand_in_gpus

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess
    from tests.rig.nvml_stand_in import NvmlStandIn

pytestmark = pytest.mark.e2e

_WITHIN_S = 10.0


def _wait_health(daemon: DaemonProcess, uuid: str, health: str) -> dict[str, Any]:
    return until(
        lambda: (gpu := daemon.gpus()[uuid]) and gpu["health"] == health and gpu,
        what=f"{uuid} is {health}",
        within_s=_WITHIN_S,
    )


def test_a_gpu_that_somebody_else_uses_is_quarantined_and_another_one_taken(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    busy, free = nvml.gpus[0].uuid, nvml.gpus[1].uuid
    nvml.set_gpus(nvml.gpus[:2])
    nvml.set_processes(busy, [StandInProcess(pid=os.getpid())])
    daemon = start_daemon(settings=nvml_gpus(), env=nvml.env())
    daemon.deploy(worker_spec("careful", worker_image))
    reply = daemon.call("careful")
    assert reply.json()["nvidia_visible_devices"] == free
    gpu = daemon.gpus()[busy]
    assert gpu["health"] == "quarantined"
    assert f"Processes {os.getpid()} use this GPU" in gpu["reason"]
    assert daemon.events("gpu.health_changed", gpu_uuid=busy, health="quarantined")
    assert daemon.endpoint("careful")["last_error"] == "", "it is no failure of the endpoint"
    assert daemon.cli("gpu", "uncordon", busy).returncode == 0
    assert daemon.gpus()[busy]["health"] == "healthy"


def test_memory_that_a_stopped_worker_does_not_return_quarantines_its_gpu(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    settings = {"gpus": {"source": "nvml", "release_timeout_s": 0.5}}
    daemon = start_daemon(settings=settings, env=nvml.env())
    daemon.deploy(worker_spec("leaky", worker_image))
    uuid = daemon.call("leaky").json()["nvidia_visible_devices"]
    nvml.change(uuid, memory_used_bytes=2 * GIB)
    assert daemon.api("DELETE", "/v1/endpoints/leaky").status == 204
    gpu = _wait_health(daemon, uuid, "quarantined")
    assert "2048 MiB still in use after" in gpu["reason"]
    daemon.wait_zero()
    daemon.deploy(worker_spec("next", worker_image))
    assert daemon.call("next").json()["nvidia_visible_devices"] != uuid
    daemon.audit()


def test_a_container_on_a_gpu_that_is_not_its_own_is_stopped_and_told(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    settings = {**nvml_gpus(), "scaling": {"circuit_failures": 1, "start_backoff_s": 60}}
    daemon = start_daemon(settings=settings, env=nvml.env())
    spec = worker_spec("stray", worker_image, env={"BOOT_DELAY_S": 1}, scale={"min_workers": 1})
    daemon.deploy(spec)
    (worker,) = until(lambda: daemon.workers("stray", state="starting"), what="the container runs")
    foreign = next(gpu.uuid for gpu in nvml.gpus if gpu.uuid not in worker["gpu_uuids"])
    pid = daemon.container_of(worker["id"]).attrs["State"]["Pid"]
    nvml.set_processes(foreign, [StandInProcess(pid=pid)])
    failed = until(lambda: daemon.events("worker.failed", worker_id=worker["id"]), what="it is stopped")[0]
    assert failed["facts"]["cause"] == "pin_violated"
    assert foreign in failed["facts"]["detail"]
    nvml.set_processes(foreign, [])
    daemon.wait_zero()
    daemon.audit()


def test_a_gpu_that_falls_off_the_bus_is_left_and_a_harmless_xid_is_not(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    nvml.set_gpus(nvml.gpus[:2])
    daemon = start_daemon(settings=nvml_gpus(), env=nvml.env())
    daemon.deploy(worker_spec("mover", worker_image))
    before = daemon.call("mover")
    lost = before.json()["nvidia_visible_devices"]
    (other,) = {gpu.uuid for gpu in nvml.gpus} - {lost}
    nvml.xid(other, 31)
    nvml.lose(lost)
    gpu = _wait_health(daemon, lost, "unhealthy")
    assert gpu["reason"]
    until(lambda: before.worker not in {w["id"] for w in daemon.workers()}, what="its worker is stopped")
    after = daemon.call("mover")
    assert after.json()["nvidia_visible_devices"] == other
    assert daemon.gpus()[other]["health"] == "healthy", "Xid 31 is the application's own fault"
    assert daemon.endpoint("mover")["last_error"] == ""
    daemon.audit()


def test_mig_devices_are_leased_by_their_own_uuid_and_their_parent_never(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    devices = tuple(
        StandInMig(uuid=f"MIG-0000000{n}-0000-4000-8000-000000000000", gpu_instance=n) for n in (1, 2)
    )
    nvml.set_gpus(stand_in_gpus(1, mig_enabled=True, mig_devices=devices))
    daemon = start_daemon(settings=nvml_gpus(), env=nvml.env())
    scale = {"policy": "fixed", "max_workers": 2}
    daemon.deploy(worker_spec("slices", worker_image, scale=scale))
    workers = daemon.wait_ready("slices", 2)
    assert set(daemon.gpus()) == {device.uuid for device in devices}
    assert {uuid for worker in workers for uuid in worker["gpu_uuids"]} == {d.uuid for d in devices}
    seen = {daemon.call("slices").json()["nvidia_visible_devices"] for _ in range(4)}
    assert seen == {device.uuid for device in devices}


def test_a_cordoned_gpu_is_drained_and_not_used_until_it_is_uncordoned(
    start_daemon: DaemonStarter, worker_image: str, nvml: NvmlStandIn
) -> None:
    nvml.set_gpus(nvml.gpus[:1])
    daemon = start_daemon(settings=nvml_gpus(), env=nvml.env())
    spec = worker_spec("moved", worker_image, limits={"queue_timeout_s": 30}, scale={"min_workers": 1})
    daemon.deploy(spec)
    worker = daemon.call("moved").worker
    uuid = nvml.gpus[0].uuid
    assert daemon.cli("gpu", "cordon", uuid).returncode == 0
    until(lambda: worker not in {w["id"] for w in daemon.workers()}, what="it is drained")
    until(lambda: daemon.endpoint("moved")["condition"] == "waiting_for_gpu", what="a wish is unmet")
    (wait,) = [w for w in daemon.endpoint("moved")["waits"] if w["reason"] == "gpu_unhealthy"]
    assert uuid in wait["detail"]
    assert daemon.cli("gpu", "uncordon", uuid).returncode == 0
    assert daemon.call("moved").status == 200

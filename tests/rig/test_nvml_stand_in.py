"""Does the unmodified pynvml see what the state file says, and change when it changes?"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pynvml
import pytest

from tests.rig import leftovers
from tests.rig.nvml_stand_in import (
    ERROR_NOT_SUPPORTED,
    GIB,
    TOPOLOGY_SINGLE_SWITCH,
    NvmlStandIn,
    StandInMig,
    StandInProcess,
    stand_in_gpus,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def loaded(nvml: NvmlStandIn) -> Iterator[NvmlStandIn]:
    nvml.load_in_process()
    pynvml.nvmlInit()
    yield nvml
    nvml.refuse_init(0)
    nvml.resume()
    with contextlib.suppress(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlShutdown()


def test_a_child_process_sees_the_gpus_through_the_library_path(nvml: NvmlStandIn) -> None:
    script = (
        "import pynvml as n\nn.nvmlInit()\nprint(n.nvmlSystemGetDriverVersion())\n"
        "for i in range(n.nvmlDeviceGetCount()):\n"
        "    print(n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | nvml.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [nvml.driver_version, *(gpu.uuid for gpu in nvml.gpus)]


def test_facts_of_a_gpu_are_told_by_index_and_by_uuid(loaded: NvmlStandIn) -> None:
    uuid = loaded.gpus[2].uuid
    loaded.change(
        uuid,
        memory_used_bytes=3 * GIB,
        memory_reserved_bytes=GIB,
        utilisation_percent=71,
        power_mw=250_000,
        energy_mj=123_456_789_012,
        temperature_celsius=66,
        clocks_event_reasons=0x20,
        ecc_uncorrected=2,
        remapped_rows=(1, 2, 1, 0),
        numa_node=1,
        cpus="0-3,64,70-71",
    )
    handle = pynvml.nvmlDeviceGetHandleByIndex(2)
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == uuid
    assert pynvml.nvmlDeviceGetUUID(handle) == uuid
    assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA A100-SXM4-80GB"
    assert pynvml.nvmlDeviceGetPciInfo(handle).busId == "00000000:03:00.0"
    first = pynvml.nvmlDeviceGetMemoryInfo(handle)
    second = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    assert (first.total, first.used, first.free) == (80 * GIB, 4 * GIB, 76 * GIB)
    assert (second.total, second.used, second.reserved, second.free) == (80 * GIB, 3 * GIB, GIB, 76 * GIB)
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 71
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 250_000
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 123_456_789_012
    assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) == 66
    assert pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU) == 66
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == 0x20
    volatile = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    assert pynvml.nvmlDeviceGetTotalEccErrors(handle, *volatile) == 2
    assert list(pynvml.nvmlDeviceGetRemappedRows(handle)) == [1, 2, 1, 0]
    assert pynvml.nvmlDeviceGetNumaNodeId(handle) == 1
    assert list(pynvml.nvmlDeviceGetMemoryAffinity(handle, 1, pynvml.NVML_AFFINITY_SCOPE_NODE)) == [0b10]
    assert list(pynvml.nvmlDeviceGetCpuAffinity(handle, 2)) == [0b1111, 0b11000001]


def test_processes_are_listed_by_kind(loaded: NvmlStandIn) -> None:
    uuid = loaded.gpus[0].uuid
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    loaded.set_processes(
        uuid,
        [StandInProcess(pid=100 + n, used_bytes=n) for n in range(9)]
        + [StandInProcess(pid=7, kind="graphics")],
    )
    listed = [(one.pid, one.usedGpuMemory) for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    assert listed == [(100 + n, n) for n in range(9)]
    assert [one.pid for one in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)] == [7]
    assert pynvml.nvmlDeviceGetMemoryInfo(handle).used == 36 + GIB


def test_mig_devices_have_uuids_memory_and_processes_of_their_own(loaded: NvmlStandIn) -> None:
    uuid = loaded.gpus[1].uuid
    parts = tuple(StandInMig(uuid=f"MIG-{n}", gpu_instance=n + 7) for n in range(2))
    loaded.change(uuid, mig_enabled=True, mig_devices=parts)
    loaded.set_processes("MIG-1", [StandInProcess(pid=42)])
    gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    handles = [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index) for index in range(2)]
    assert [pynvml.nvmlDeviceGetUUID(handle) for handle in handles] == ["MIG-0", "MIG-1"]
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)
    assert pynvml.nvmlDeviceGetMemoryInfo(handles[1]).total == 10 * GIB
    assert pynvml.nvmlDeviceGetGpuInstanceId(handles[1]) == 8
    assert pynvml.nvmlDeviceIsMigDeviceHandle(handles[1]).value == 1
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handles[1])) == uuid
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handles[0]) == []
    of_gpu = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert [(one.pid, one.gpuInstanceId) for one in of_gpu] == [(42, 8)]
    assert pynvml.nvmlDeviceGetCount() == 4


def test_topology_and_links_between_gpus_are_told(loaded: NvmlStandIn) -> None:
    one, two, three, _ = (gpu.uuid for gpu in loaded.gpus)
    loaded.change(one, nvlinks=((0, two), (1, two)), topology=((TOPOLOGY_SINGLE_SWITCH, two),), numa_node=0)
    loaded.change(two, numa_node=0)
    first, second, third = (pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in (one, two, three))
    assert pynvml.nvmlDeviceGetTopologyCommonAncestor(second, first) == pynvml.NVML_TOPOLOGY_SINGLE
    assert pynvml.nvmlDeviceGetTopologyCommonAncestor(first, third) == pynvml.NVML_TOPOLOGY_SYSTEM
    nvlink = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
    assert pynvml.nvmlDeviceGetP2PStatus(first, second, nvlink) == pynvml.NVML_P2P_STATUS_OK
    assert pynvml.nvmlDeviceGetP2PStatus(first, third, nvlink) == pynvml.NVML_P2P_STATUS_NOT_SUPPORTED
    assert [pynvml.nvmlDeviceGetNvLinkState(first, link) for link in range(3)] == [1, 1, 0]
    assert pynvml.nvmlDeviceGetNvLinkRemotePciInfo(first, 1).busId == loaded.gpus[1].pci_bus_id


def test_xid_events_reach_the_sets_that_registered_their_gpu(loaded: NvmlStandIn) -> None:
    one, two = (gpu.uuid for gpu in loaded.gpus[:2])
    loaded.xid(one, 13)
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(
        pynvml.nvmlDeviceGetHandleByUUID(one), pynvml.nvmlEventTypeXidCriticalError, events
    )
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 20)
    loaded.xid(two, 31)
    loaded.xid(one, 48)
    loaded.xid(one, 63)
    seen = [pynvml.nvmlEventSetWait_v2(events, 1000) for _ in range(2)]
    assert [(pynvml.nvmlDeviceGetUUID(event.device), event.eventData) for event in seen] == [
        (one, 48),
        (one, 63),
    ]
    later = threading.Timer(0.05, loaded.xid, (one, 94))
    later.start()
    assert pynvml.nvmlEventSetWait_v2(events, 5000).eventData == 94
    later.join()
    pynvml.nvmlEventSetFree(events)


def test_a_gpu_off_the_bus_is_lost_and_the_others_are_not(loaded: NvmlStandIn) -> None:
    uuid = loaded.gpus[0].uuid
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    loaded.lose(uuid)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetUtilizationRates(handle)
    assert pynvml.nvmlEventSetWait_v2(events, 1000).eventData == 79
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlEventSetWait_v2(events, 1000)
    assert pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(1))
    loaded.recover(uuid)
    assert pynvml.nvmlDeviceGetUUID(handle) == uuid
    loaded.set_gpus(loaded.gpus[1:])
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetUUID(handle)
    assert pynvml.nvmlDeviceGetCount() == 3


@pytest.mark.parametrize("whole_library", [True, False])
def test_calls_hang_until_they_may_go_on(loaded: NvmlStandIn, whole_library: bool) -> None:
    one, two = (gpu.uuid for gpu in loaded.gpus[:2])
    hanging, other = (pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in (one, two))
    loaded.hang(None if whole_library else one)
    caller = threading.Thread(target=pynvml.nvmlDeviceGetName, args=(hanging,))
    caller.start()
    if not whole_library:
        assert pynvml.nvmlDeviceGetUUID(other) == two
    caller.join(timeout=0.1)
    assert caller.is_alive()
    loaded.resume()
    assert leftovers.wait_until(lambda: not caller.is_alive(), timeout_s=5)


def test_initialising_and_single_functions_fail_when_told_to(loaded: NvmlStandIn) -> None:
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    loaded.fail("nvmlDeviceGetTotalEnergyConsumption", ERROR_NOT_SUPPORTED)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    loaded.fail("nvmlDeviceGetTotalEnergyConsumption", 0)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    loaded.refuse_init()
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()


def _give_up_all() -> int:
    users = 0
    while True:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError_Uninitialized:
            return users
        users += 1


def test_calls_before_initialising_are_refused(loaded: NvmlStandIn) -> None:
    # NVML counts its users: whatever else in this process has it open gives it up first.
    users = _give_up_all()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    for _ in range(users):
        pynvml.nvmlInit()
    assert loaded.gpus


def test_without_a_state_file_there_is_no_driver(tmp_path: Path, loaded: NvmlStandIn) -> None:
    other = NvmlStandIn(tmp_path, stand_in_gpus(1))
    other.state_path.unlink()
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()
    assert loaded.state_path == other.state_path

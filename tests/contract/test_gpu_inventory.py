"""What every GPU inventory promises: the fake, declared GPUs, and NVML through a stand-in library."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import AsyncMock

import pytest

from gpud.adapters.nvml_gpus import NvmlGpus
from gpud.adapters.static_gpus import NoGpus, StaticGpus
from gpud.core.gpu import GpuStatus
from gpud.core.ids import GpuUuid
from gpud.core.topology import Distance
from gpud.errors import DependencyDown
from gpud.fleet.energy_meter import EnergyMeter
from gpud.fleet.sampler import Sampler
from gpud.settings import StaticGpu
from tests.fakes.gpus import FakeGpus, fake_gpus
from tests.rig.nvml_stand_in import (
    ECC_EVENT_TYPE,
    ERROR_NOT_SUPPORTED,
    ERROR_UNKNOWN,
    GIB,
    TOPOLOGY_SINGLE_SWITCH,
    NvmlStandIn,
    StandInMig,
    StandInProcess,
    stand_in_gpus,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gpud.core.records import EnergyDrawn
    from gpud.ports.gpus import GpuFault, GpuInventory

ROOT = Path(__file__).parents[2]
MIB_PER_GIB = 1024
BUDGET_S = 0.3
MIG_A = GpuUuid("MIG-aaaaaaaa-0000-4000-8000-000000000001")
MIG_B = GpuUuid("MIG-bbbbbbbb-0000-4000-8000-000000000002")


class Box(Protocol):
    """A box of two GPUs, and what may happen to it."""

    @property
    def inventory(self) -> GpuInventory: ...
    @property
    def uuids(self) -> list[GpuUuid]: ...
    def run(self, uuid: GpuUuid, *pids: int) -> None: ...
    def lose(self, uuid: GpuUuid) -> None: ...
    def recover(self, uuid: GpuUuid) -> None: ...
    def xid(self, uuid: GpuUuid, code: int) -> None: ...
    def hang(self) -> None: ...
    def resume(self) -> None: ...


class FakeBox:
    def __init__(self) -> None:
        self.inventory = FakeGpus(fake_gpus(2), budget_s=BUDGET_S)
        self.uuids = [gpu.uuid for gpu in fake_gpus(2)]
        self._running: dict[GpuUuid, tuple[int, ...]] = {}
        self.lose, self.recover = self.inventory.lose, self.inventory.recover
        self.xid, self.hang, self.resume = self.inventory.xid, self.inventory.hang, self.inventory.resume

    def run(self, uuid: GpuUuid, *pids: int) -> None:
        for pid in self._running.get(uuid, ()):
            self.inventory.end_process(pid)
        self._running[uuid] = pids
        for pid in pids:
            self.inventory.start_process(uuid, pid, used_mib=MIB_PER_GIB)


class NvmlBox:
    def __init__(self, folder: Path) -> None:
        self.nvml = NvmlStandIn(folder, stand_in_gpus(2))
        self.nvml.load_in_process()
        self.inventory = NvmlGpus(budget_s=BUDGET_S)
        self.uuids = [GpuUuid(gpu.uuid) for gpu in self.nvml.gpus]
        self.lose, self.recover = self.nvml.lose, self.nvml.recover
        self.hang, self.resume, self.xid = self.nvml.hang, self.nvml.resume, self.nvml.xid

    def run(self, uuid: GpuUuid, *pids: int) -> None:
        self.nvml.set_processes(uuid, [StandInProcess(pid=pid) for pid in pids])


@asynccontextmanager
async def nvml_box(folder: Path) -> AsyncIterator[NvmlBox]:
    box = NvmlBox(folder)
    try:
        yield box
    finally:
        box.resume()
        await box.inventory.close()


@pytest.fixture
async def nvml(tmp_path: Path) -> AsyncIterator[NvmlBox]:
    async with nvml_box(tmp_path) as box:
        yield box


@pytest.fixture(params=["fake", "nvml"])
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    if request.param == "fake":
        yield FakeBox()
        return
    async with nvml_box(tmp_path) as box:
        yield box


@pytest.fixture(params=["fake", "nvml", "static"])
async def inventory(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GpuInventory]:
    if request.param == "static":
        yield StaticGpus([StaticGpu(uuid="card-0"), StaticGpu(uuid="card-1", memory_mib=8192)])
    elif request.param == "fake":
        yield FakeBox().inventory
    else:
        async with nvml_box(tmp_path) as box:
            yield box.inventory


async def until(seen: Callable[[], Awaitable[Any]], *, within_s: float = 10.0) -> Any:
    """Ask again and again until something true comes back."""
    async with asyncio.timeout(within_s):
        while not (found := await seen()):  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)
        return found


async def faults_until(box: Box, count: int) -> list[GpuFault]:
    faults: list[GpuFault] = []

    async def enough() -> bool:
        faults.extend(await box.inventory.faults())
        return len(faults) >= count

    await until(enough)
    return faults


async def watched(box: Box, uuid: GpuUuid | None = None) -> None:
    """Wait until an Xid of a GPU gets through: events from before the first look are nobody's."""
    await box.inventory.list_gpus()
    uuid = uuid or box.uuids[0]

    async def heard(code: int) -> bool:
        return code in {fault.xid for fault in await box.inventory.faults()}

    async def sent_and_heard() -> bool:
        box.xid(uuid, 61)
        return await heard(61)

    await until(sent_and_heard)
    # Events come in order: once this one is heard, none of those above is still under way.
    box.xid(uuid, 62)
    await until(lambda: heard(62))


async def _answers(inventory: GpuInventory) -> bool:
    try:
        await inventory.list_gpus()
    except DependencyDown:
        return False
    return True


async def test_every_gpu_has_a_uuid_of_its_own_a_name_and_memory(inventory: GpuInventory) -> None:
    gpus = await inventory.list_gpus()
    assert len({gpu.uuid for gpu in gpus}) == len(gpus) == 2
    assert all(gpu.name and gpu.memory_mib > 0 for gpu in gpus)


async def test_the_order_of_the_gpus_is_that_of_their_index(inventory: GpuInventory) -> None:
    assert [gpu.index for gpu in await inventory.list_gpus()] == [0, 1]


async def test_listing_twice_says_the_same(inventory: GpuInventory) -> None:
    assert await inventory.list_gpus() == await inventory.list_gpus()


async def test_a_uuid_nobody_knows_has_no_usage(inventory: GpuInventory) -> None:
    assert await inventory.usage([GpuUuid("GPU-of-another-box")]) == ()


async def test_a_box_that_is_well_has_no_faults(inventory: GpuInventory) -> None:
    await inventory.list_gpus()
    assert await inventory.faults() == ()


async def test_declared_gpus_may_declare_their_neighbours() -> None:
    gpus = StaticGpus([StaticGpu(uuid="card-0", numa_node=1, nvlinks=("card-1",)), StaticGpu(uuid="card-1")])
    first, second = await gpus.list_gpus()
    assert (first.numa_node, first.near) == (1, ((second.uuid, Distance.NVLINK),))
    assert (second.numa_node, second.near) == (-1, ())


async def test_declared_gpus_are_as_declared_and_cannot_be_verified() -> None:
    gpus = StaticGpus([StaticGpu(uuid="card-0", name="A card", memory_mib=8192)])
    (gpu,) = await gpus.list_gpus()
    assert (gpu.uuid, gpu.name, gpu.memory_mib, gpu.numa_node, gpu.cpus) == ("card-0", "A card", 8192, -1, "")
    assert await gpus.usage([gpu.uuid]) == ()
    assert gpus.source == "static"


async def test_a_box_without_gpus_lists_none() -> None:
    assert await NoGpus().list_gpus() == ()
    assert NoGpus.source == "none"


async def test_processes_and_their_memory_are_seen_on_the_gpu_they_run_on(box: Box) -> None:
    one, other = box.uuids
    box.run(one, 4711, 4712)
    uses = {use.uuid: use for use in await box.inventory.usage(box.uuids)}
    assert (uses[one].pids, uses[one].used_mib) == ((4711, 4712), 2 * MIB_PER_GIB)
    assert (uses[other].pids, uses[other].used_mib) == ((), 0)


async def test_memory_of_an_ended_process_is_free_again(box: Box) -> None:
    box.run(box.uuids[0], 4711)
    box.run(box.uuids[0])
    (use,) = await box.inventory.usage(box.uuids[:1])
    assert (use.pids, use.used_mib) == ((), 0)


async def test_a_lost_gpu_is_not_listed_has_no_usage_and_is_a_fault(box: Box) -> None:
    one, other = box.uuids
    await watched(box)
    box.lose(one)
    assert [gpu.uuid for gpu in await box.inventory.list_gpus()] == [other]
    assert [use.uuid for use in await box.inventory.usage([one, other])] == [other]
    faults = await faults_until(box, 1)
    assert {fault.uuid for fault in faults} == {one}
    assert all(fault.detail for fault in faults)


async def test_a_lost_gpu_that_comes_back_is_listed_again(box: Box) -> None:
    await watched(box)
    box.lose(box.uuids[0])
    await box.inventory.list_gpus()
    box.recover(box.uuids[0])
    assert [gpu.uuid for gpu in await box.inventory.list_gpus()] == box.uuids


async def test_a_fault_is_told_once(box: Box) -> None:
    await watched(box)
    box.xid(box.uuids[1], 48)
    (fault,) = await faults_until(box, 1)
    assert (fault.uuid, fault.xid) == (box.uuids[1], 48)
    assert await box.inventory.faults() == ()


@pytest.mark.parametrize("code", [13, 31, 43, 45, 68, 109])
async def test_an_xid_that_applications_cause_is_no_fault(box: Box, code: int) -> None:
    await watched(box)
    box.xid(box.uuids[0], code)
    box.xid(box.uuids[0], 94)
    assert [fault.xid for fault in await faults_until(box, 1)] == [94]


async def test_a_hanging_driver_fails_calls_after_their_budget_then_at_once_then_recovers(box: Box) -> None:
    await box.inventory.list_gpus()
    box.hang()
    started_s = time.monotonic()
    with pytest.raises(DependencyDown):
        await box.inventory.list_gpus()
    assert time.monotonic() - started_s >= BUDGET_S * 0.9
    started_s = time.monotonic()
    with pytest.raises(DependencyDown):
        await box.inventory.usage(box.uuids)
    assert time.monotonic() - started_s < BUDGET_S / 2
    assert await box.inventory.faults() == ()
    box.resume()
    await until(lambda: _answers(box.inventory))
    assert len(await box.inventory.list_gpus()) == 2


async def test_the_loop_runs_on_while_the_driver_hangs(box: Box) -> None:
    box.hang()
    call = asyncio.create_task(box.inventory.list_gpus())
    turns = 0
    while not call.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > BUDGET_S / 0.001 / 10
    assert isinstance(call.exception(), DependencyDown)


async def test_a_mig_device_is_listed_in_place_of_its_gpu(nvml: NvmlBox) -> None:
    parent = _split_first_gpu(nvml)
    gpus = await nvml.inventory.list_gpus()
    assert [(gpu.uuid, gpu.mig_parent, gpu.memory_mib) for gpu in gpus] == [
        (MIG_A, parent, 10 * MIB_PER_GIB),
        (MIG_B, parent, 20 * MIB_PER_GIB),
        (nvml.uuids[1], None, 80 * MIB_PER_GIB),
    ]
    assert gpus[0].name == "NVIDIA A100-SXM4-80GB MIG 1g.10gb"


async def test_a_gpu_in_mig_mode_without_devices_offers_nothing(nvml: NvmlBox) -> None:
    nvml.nvml.change(nvml.uuids[0], mig_enabled=True)
    assert [gpu.uuid for gpu in await nvml.inventory.list_gpus()] == nvml.uuids[1:]


@pytest.mark.parametrize("on_parent_only", [False, True])
async def test_a_mig_device_has_its_own_processes_only(nvml: NvmlBox, *, on_parent_only: bool) -> None:
    _split_first_gpu(nvml)
    nvml.nvml.set_processes(MIG_A, [StandInProcess(pid=1), StandInProcess(pid=2, kind="graphics")])
    nvml.nvml.set_processes(MIG_B, [StandInProcess(pid=3)])
    if on_parent_only:
        nvml.nvml.fail("nvmlDeviceGetGraphicsRunningProcesses_v3", ERROR_NOT_SUPPORTED)
    uses = await nvml.inventory.usage([MIG_A, MIG_B])
    assert [use.pids for use in uses] == [(1,) if on_parent_only else (1, 2), (3,)]


async def test_an_error_of_a_gpu_in_mig_mode_concerns_all_its_devices(nvml: NvmlBox) -> None:
    parent = _split_first_gpu(nvml)
    await watched(nvml, nvml.uuids[1])
    nvml.xid(parent, 79)
    faults = await faults_until(nvml, 2)
    assert [(fault.uuid, fault.xid) for fault in faults] == [(MIG_A, 79), (MIG_B, 79)]


async def test_a_double_bit_error_is_a_fault_without_xid(nvml: NvmlBox) -> None:
    await watched(nvml, nvml.uuids[0])
    nvml.nvml.xid(nvml.uuids[1], 0, event_type=ECC_EVENT_TYPE)
    (fault,) = await faults_until(nvml, 1)
    assert (fault.uuid, fault.xid) == (nvml.uuids[1], 0)
    assert "ECC" in fault.detail


async def test_events_go_on_after_a_gpu_was_lost(nvml: NvmlBox) -> None:
    await watched(nvml, nvml.uuids[0])
    nvml.lose(nvml.uuids[0])
    await nvml.inventory.list_gpus()
    await watched(nvml, nvml.uuids[1])


async def test_a_gpu_taken_out_of_the_box_is_a_fault(nvml: NvmlBox) -> None:
    await nvml.inventory.list_gpus()
    nvml.nvml.set_gpus(nvml.nvml.gpus[:1])
    assert [gpu.uuid for gpu in await nvml.inventory.list_gpus()] == nvml.uuids[:1]
    (fault,) = await nvml.inventory.faults()
    assert fault.uuid == nvml.uuids[1]
    await nvml.inventory.list_gpus()
    assert await nvml.inventory.faults() == ()


async def test_a_gpu_that_fails_for_another_reason_is_left_out_and_the_rest_stays(nvml: NvmlBox) -> None:
    await nvml.inventory.list_gpus()
    nvml.nvml.change(nvml.uuids[1], error=ERROR_UNKNOWN)
    assert [gpu.uuid for gpu in await nvml.inventory.list_gpus()] == nvml.uuids[:1]
    assert [use.uuid for use in await nvml.inventory.usage(nvml.uuids)] == nvml.uuids[:1]


async def test_memory_the_driver_keeps_for_itself_is_not_in_use(nvml: NvmlBox) -> None:
    nvml.nvml.change(nvml.uuids[0], memory_reserved_bytes=GIB, memory_used_bytes=5)
    (use,) = await nvml.inventory.usage(nvml.uuids[:1])
    assert use.used_mib == 1
    nvml.nvml.fail("nvmlDeviceGetMemoryInfo_v2", ERROR_NOT_SUPPORTED)
    (use,) = await nvml.inventory.usage(nvml.uuids[:1])
    assert use.used_mib == MIB_PER_GIB + 1


async def test_what_a_gpu_does_is_told_as_far_as_the_driver_tells(nvml: NvmlBox) -> None:
    first, second = nvml.uuids[:2]
    nvml.nvml.change(
        first,
        memory_used_bytes=2 * GIB,
        utilisation_percent=87,
        memory_utilisation_percent=40,
        power_mw=250_500,
        energy_mj=123,
        temperature_celsius=61,
        processes=(StandInProcess(pid=7, used_bytes=GIB),),
    )
    reading, other = await nvml.inventory.readings([first, second, GpuUuid("GPU-nobody")])
    assert (reading.uuid, other.uuid) == (first, second)
    assert (reading.used_mib, reading.total_mib) == (2 * MIB_PER_GIB, 80 * MIB_PER_GIB)
    assert (reading.gpu_percent, reading.memory_percent) == (87, 40)
    assert (reading.power_w, reading.energy_mj, reading.temperature_c) == (250.5, 123, 61)
    assert reading.processes == ((7, MIB_PER_GIB),)
    nvml.nvml.fail("nvmlDeviceGetUtilizationRates", ERROR_NOT_SUPPORTED)
    nvml.nvml.fail("nvmlDeviceGetPowerUsage", ERROR_NOT_SUPPORTED)
    (reading,) = await nvml.inventory.readings([first])
    assert (reading.gpu_percent, reading.memory_percent, reading.power_w) == (None, None, None)
    assert reading.used_mib == 2 * MIB_PER_GIB


async def test_what_the_driver_counts_is_metered_and_power_where_it_counts_nothing(nvml: NvmlBox) -> None:
    """The whole way from the library to what is written: a driver loaded anew, a lost GPU, and power."""
    first, second = nvml.uuids[:2]
    rows: list[EnergyDrawn] = []
    at_ns = 0
    clock: Any = SimpleNamespace(
        boot_ns=lambda: at_ns, wall_ns=lambda: at_ns, at_ms=lambda: at_ns // 10**6, now_s=lambda: at_ns / 1e9
    )
    gpus = {gpu.uuid: GpuStatus(gpu=gpu) for gpu in await nvml.inventory.list_gpus()}
    state: Any = SimpleNamespace(gpus=gpus, workers={})
    journal: Any = SimpleNamespace(listeners=[], add=rows.append)
    reader: Any = SimpleNamespace(uses=AsyncMock(return_value={}))
    sampler = Sampler(state=state, gpus=nvml.inventory, reader=reader, clock=clock, step_s=10.0)
    sampler.energy = EnergyMeter(state, journal, clock)

    async def look(**facts: int) -> dict[str, tuple[int, int]]:
        nonlocal at_ns
        at_ns += 10 * 10**9
        rows.clear()
        for uuid in (first, second):
            nvml.nvml.change(uuid, **facts)
        await sampler.look()
        return {row.gpu_uuid: (row.mj, row.sampled_mj) for row in rows}

    assert await look(energy_mj=5_000_000_000, power_mw=200_000) == {}
    assert await look(energy_mj=5_002_500_000) == {first: (2_500_000, 0), second: (2_500_000, 0)}
    assert await look(energy_mj=700_000) == {first: (700_000, 0), second: (700_000, 0)}, (
        "the driver was reloaded"
    )
    nvml.lose(second)
    assert await look(energy_mj=900_000) == {first: (200_000, 0)}
    nvml.recover(second)
    assert await look(energy_mj=1_000_000) == {first: (100_000, 0), second: (300_000, 0)}
    nvml.nvml.fail("nvmlDeviceGetTotalEnergyConsumption", ERROR_NOT_SUPPORTED)
    await look(power_mw=200_000)
    assert await look(power_mw=300_000) == {first: (2_500_000, 2_500_000), second: (2_500_000, 2_500_000)}


async def test_cpus_and_numa_node_near_a_gpu_are_told_as_far_as_they_are_online(nvml: NvmlBox) -> None:
    nvml.nvml.change(nvml.uuids[0], cpus="0,1000", numa_node=3)
    nvml.nvml.change(nvml.uuids[1], cpus="1000", numa_node=-1)
    one, other = await nvml.inventory.list_gpus()
    assert (one.cpus, one.numa_node) == ("0", 3)
    assert (other.cpus, other.numa_node) == ("", -1)


async def test_neighbours_are_told_by_nvlink_and_by_what_they_share_of_pcie(nvml: NvmlBox) -> None:
    nvml.nvml.set_gpus(stand_in_gpus(4, numa_node=0))
    first, second, third, fourth = (gpu.uuid for gpu in nvml.nvml.gpus)
    nvml.nvml.change(first, nvlinks=((0, third),), topology=((TOPOLOGY_SINGLE_SWITCH, second),))
    nvml.nvml.change(fourth, numa_node=1)
    gpus = {gpu.uuid: dict(gpu.near) for gpu in await nvml.inventory.list_gpus()}
    assert gpus[GpuUuid(first)] == {
        second: Distance.SWITCH,
        third: Distance.NVLINK,
        fourth: Distance.SYSTEM,
    }
    assert gpus[GpuUuid(third)][GpuUuid(first)] == Distance.NVLINK
    assert gpus[GpuUuid(second)][GpuUuid(third)] == Distance.NODE
    nvml.nvml.fail("nvmlDeviceGetP2PStatus", ERROR_NOT_SUPPORTED)
    nvml.nvml.fail("nvmlDeviceGetTopologyCommonAncestor", ERROR_NOT_SUPPORTED)
    assert all(not gpu.near for gpu in await nvml.inventory.list_gpus())


async def test_a_driver_that_is_not_loaded_is_told_and_asked_again(nvml: NvmlBox) -> None:
    nvml.nvml.refuse_init()
    with pytest.raises(DependencyDown, match="modprobe nvidia"):
        await nvml.inventory.list_gpus()
    nvml.nvml.refuse_init(0)
    assert len(await nvml.inventory.list_gpus()) == 2


async def test_a_session_that_ended_is_opened_again(nvml: NvmlBox) -> None:
    await nvml.inventory.list_gpus()
    nvml.nvml.fail("nvmlDeviceGetCount_v2", 1)
    with pytest.raises(DependencyDown, match="session"):
        await nvml.inventory.list_gpus()
    nvml.nvml.fail("nvmlDeviceGetCount_v2", 0)
    assert len(await nvml.inventory.list_gpus()) == 2


async def test_one_hanging_gpu_is_a_driver_that_does_not_answer(nvml: NvmlBox) -> None:
    await nvml.inventory.list_gpus()
    nvml.nvml.hang(nvml.uuids[1])
    with pytest.raises(DependencyDown, match="hangs"):
        await nvml.inventory.list_gpus()
    assert nvml.inventory.stale
    nvml.nvml.resume()
    await until(lambda: _answers(nvml.inventory))
    assert not nvml.inventory.stale


async def test_closing_twice_or_during_a_hang_does_not_wait_for_the_driver(nvml: NvmlBox) -> None:
    await nvml.inventory.list_gpus()
    nvml.hang()
    with pytest.raises(DependencyDown):
        await nvml.inventory.list_gpus()
    started_s = time.monotonic()
    await nvml.inventory.close()
    await nvml.inventory.close()
    assert time.monotonic() - started_s < BUDGET_S
    with pytest.raises(DependencyDown):
        await nvml.inventory.list_gpus()


async def test_a_process_ends_although_the_driver_hangs(tmp_path: Path) -> None:
    stand_in = NvmlStandIn(tmp_path, stand_in_gpus(1))
    stand_in.hang()
    script = (
        "import asyncio\n"
        "from gpud.adapters.nvml_gpus import NvmlGpus\n"
        "from gpud.errors import DependencyDown\n"
        "async def main():\n"
        "    gpus = NvmlGpus(budget_s=0.1)\n"
        "    try:\n"
        "        await gpus.list_gpus()\n"
        "    except DependencyDown:\n"
        "        print('down')\n"
        "    await gpus.close()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        cwd=ROOT,
        env=os.environ | stand_in.env() | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.splitlines()[-1] == b"down"


def _split_first_gpu(box: NvmlBox) -> GpuUuid:
    box.nvml.change(
        box.uuids[0],
        mig_enabled=True,
        mig_devices=(
            StandInMig(uuid=MIG_A, gpu_instance=7),
            StandInMig(uuid=MIG_B, gpu_instance=8, memory_total_bytes=20 * GIB),
        ),
    )
    return box.uuids[0]

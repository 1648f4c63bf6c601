"""Reads GPUs, their memory and their processes from NVML; plain calls that block."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pynvml

from gpud.core.gpu import Gpu, GpuReading, GpuUse
from gpud.core.ids import GpuUuid
from gpud.core.topology import Distance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Handle: TypeAlias = Any
"""What NVML gives out, such as a handle of a device; pynvml has no types."""

MIB: Final = 1 << 20
_WORD_BITS: Final = 64
_CPU_WORDS: Final = 64
"""Room for 4096 CPUs: NVML refuses a set that is too small and fills one that is too large."""

SESSION_ERRORS: Final = (
    pynvml.NVMLError_Uninitialized,
    pynvml.NVMLError_DriverNotLoaded,
    pynvml.NVMLError_LibRmVersionMismatch,
)
"""What ends the session with the driver, rather than telling about one GPU."""

_CANNOT_TELL: Final = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_InvalidArgument,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A leasable device as events and process lists name it.

    Args:
        uuid: Of the GPU or MIG device.
        gpu_instance: NVML's GPU instance id; None for a whole GPU.
        compute_instance: NVML's compute instance id; None for a whole GPU.
    """

    uuid: GpuUuid
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One physical GPU that answers, and what of it can be leased.

    Args:
        uuid: Of the physical GPU, which in MIG mode is not leasable itself.
        handle: NVML's.
        gpus: Leasable devices.
        instances: The same devices, as events name them.
    """

    uuid: str
    handle: Handle
    gpus: tuple[Gpu, ...]
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A GPU that is there and does not answer.

    Args:
        index: NVML's.
        uuid: Empty when even that cannot be read.
        why: The driver's words.
    """

    index: int
    uuid: str
    why: str


def read_boards(online_cpus: frozenset[int]) -> tuple[tuple[Board, ...], tuple[Unreadable, ...]]:
    """List every physical GPU, those that answer and those that do not.

    Args:
        online_cpus: CPUs a container may be bound to; the driver also names others.

    Raises:
        pynvml.NVMLError: The driver as a whole does not answer.
    """
    boards: list[Board] = []
    unreadable: list[Unreadable] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        uuid = ""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            boards.append(_board(handle, uuid, index, online_cpus))
        except SESSION_ERRORS:
            raise
        except pynvml.NVMLError as error:
            unreadable.append(Unreadable(index=index, uuid=uuid, why=str(error)))
    return tuple(_with_neighbours(boards)), tuple(unreadable)


def read_use(uuid: GpuUuid) -> GpuUse:
    """Read memory in use and the processes of one GPU or MIG device.

    Raises:
        pynvml.NVMLError: The driver does not know the UUID, or the GPU does not answer.
    """
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    return GpuUse(uuid=uuid, used_mib=-(-_memory(handle).used // MIB), pids=_pids(handle))


def read_reading(uuid: GpuUuid) -> GpuReading:
    """Read what one GPU or MIG device does; what it does not tell, as a MIG device its load, is None.

    Raises:
        pynvml.NVMLError: The driver does not know the UUID, or the GPU does not answer.
    """
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    memory = _memory(handle)
    rates = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    power_mw = _told(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return GpuReading(
        uuid=uuid,
        used_mib=-(-memory.used // MIB),
        total_mib=memory.total // MIB,
        gpu_percent=None if rates is None else float(rates.gpu),
        memory_percent=None if rates is None else float(rates.memory),
        power_w=None if power_mw is None else power_mw / 1000,
        energy_mj=_told(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
        temperature_c=_told(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        processes=tuple(sorted(_processes(handle).items())),
    )


def _told(read: Callable[[], Handle]) -> Handle | None:
    try:
        return read()
    except _CANNOT_TELL:
        return None


def _processes(handle: Handle) -> dict[int, int]:
    """The MiB each process has; the driver does not tell them everywhere."""
    found: dict[int, int] = {}
    for listing in (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        for process in _told(lambda listing=listing: listing(handle)) or ():  # type: ignore[misc]
            found[process.pid] = max(found.get(process.pid, 0), (process.usedGpuMemory or 0) // MIB)
    return found


def cpuset(cpus: frozenset[int]) -> str:
    """Spell a set of CPUs as the kernel does: `0-15,32`; empty for none."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def cpus_of(spelled: str) -> frozenset[int]:
    """Read a set of CPUs from the kernel's spelling."""
    cpus: set[int] = set()
    for part in filter(None, spelled.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _board(handle: Handle, uuid: str, index: int, online_cpus: frozenset[int]) -> Board:
    cpus = cpuset(_near_cpus(handle) & online_cpus)
    numa_node = _numa_node(handle)

    def gpu(device: Handle, device_uuid: str, parent: GpuUuid | None) -> Gpu:
        return Gpu(
            uuid=GpuUuid(device_uuid),
            name=pynvml.nvmlDeviceGetName(device),
            memory_mib=_memory(device).total // MIB,
            index=index,
            numa_node=numa_node,
            cpus=cpus,
            mig_parent=parent,
        )

    if not _in_mig_mode(handle):
        whole = gpu(handle, uuid, None)
        return Board(uuid=uuid, handle=handle, gpus=(whole,), instances=(Instance(uuid=whole.uuid),))
    gpus, instances = [], []
    for device in _mig_devices(handle):
        part = gpu(device, pynvml.nvmlDeviceGetUUID(device), GpuUuid(uuid))
        gpus.append(part)
        instances.append(
            Instance(
                uuid=part.uuid,
                gpu_instance=pynvml.nvmlDeviceGetGpuInstanceId(device),
                compute_instance=pynvml.nvmlDeviceGetComputeInstanceId(device),
            )
        )
    return Board(uuid=uuid, handle=handle, gpus=tuple(gpus), instances=tuple(instances))


def _with_neighbours(boards: list[Board]) -> Iterator[Board]:
    """Tell each whole GPU how far the others are; MIG devices know their parent, which says enough."""
    for board in boards:
        if board.gpus and board.gpus[0].mig_parent is None:
            others = [other for other in boards if other is not board]
            near = tuple(
                (GpuUuid(other.uuid), far)
                for other in others
                if (far := _distance(board.handle, other.handle)) is not None
            )
            board = replace(board, gpus=tuple(replace(gpu, near=near) for gpu in board.gpus))  # noqa: PLW2901
        yield board


def _distance(one: Handle, other: Handle) -> int | None:
    """How far apart two GPUs are; None when the driver does not tell."""
    try:
        if _are_linked(one, other):
            return Distance.NVLINK
        return int(pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other))
    except SESSION_ERRORS:
        raise
    except pynvml.NVMLError:  # of a GPU that is failing; that is told elsewhere
        return None


def _are_linked(one: Handle, other: Handle) -> bool:
    """Whether they reach each other by NVLink, directly or through a switch of such links."""
    try:
        status = pynvml.nvmlDeviceGetP2PStatus(one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    except _CANNOT_TELL:
        return False
    return bool(status == pynvml.NVML_P2P_STATUS_OK)


def _in_mig_mode(handle: Handle) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except _CANNOT_TELL:
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _mig_devices(handle: Handle) -> Iterator[Handle]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        # Indices have gaps once a device in the middle was destroyed.
        with contextlib.suppress(pynvml.NVMLError_NotFound):
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)


def _memory(handle: Handle) -> Handle:
    # Version 2 leaves out what the driver keeps for itself, which on large GPUs is more than an
    # idle GPU may have in use; older drivers know version 1 only.
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except _CANNOT_TELL:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _near_cpus(handle: Handle) -> frozenset[int]:
    return _bits(lambda: pynvml.nvmlDeviceGetCpuAffinity(handle, _CPU_WORDS))


def _numa_node(handle: Handle) -> int:
    # Not nvmlDeviceGetNumaNodeId: that is the node the GPU's own memory forms, where it does.
    nodes = _bits(
        lambda: pynvml.nvmlDeviceGetMemoryAffinity(handle, _CPU_WORDS, pynvml.NVML_AFFINITY_SCOPE_NODE)
    )
    return next(iter(nodes)) if len(nodes) == 1 else -1


def _bits(read: Callable[[], Handle]) -> frozenset[int]:
    try:
        words = read()
    except _CANNOT_TELL:
        return frozenset()
    return frozenset(
        number * _WORD_BITS + bit
        for number, word in enumerate(words)
        for bit in range(_WORD_BITS)
        if word >> bit & 1
    )


def _pids(handle: Handle) -> tuple[int, ...]:
    pids: set[int] = set()
    for listing in (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        try:
            pids.update(process.pid for process in listing(handle))
        except _CANNOT_TELL:
            pids.update(_pids_on_parent(handle, listing))
    return tuple(sorted(pids))


def _pids_on_parent(handle: Handle, listing: Callable[[Handle], list[Handle]]) -> Iterator[int]:
    """Pick a MIG device's processes from its GPU's list; nothing for a whole GPU."""
    try:
        parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        place = (
            pynvml.nvmlDeviceGetGpuInstanceId(handle),
            pynvml.nvmlDeviceGetComputeInstanceId(handle),
        )
        processes = listing(parent)
    except _CANNOT_TELL:
        return
    for process in processes:
        if (process.gpuInstanceId, process.computeInstanceId) == place:
            yield process.pid

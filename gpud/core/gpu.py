"""What the box offers to workers, in what health, and who holds it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import GpuUuid, WorkerId


class GpuHealth(StrEnum):
    """Whether a GPU may be leased.

    `CORDONED` is the operator's word, `QUARANTINED` heals by itself (memory not returned, or
    a foreign process), `UNHEALTHY` needs an operator or a reboot.
    """

    HEALTHY = "healthy"
    CORDONED = "cordoned"
    QUARANTINED = "quarantined"
    UNHEALTHY = "unhealthy"


class GpuAttach(StrEnum):
    """How the engine is told which GPUs a container gets."""

    AUTO = "auto"
    DEVICE_REQUEST = "device_request"
    CDI = "cdi"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One leasable device: a whole GPU, or one MIG device (its parent is then not listed).

    Args:
        uuid: NVML's UUID.
        name: Product name, such as `NVIDIA H100 80GB HBM3`.
        memory_mib: Total memory.
        index: NVML index, for display only.
        numa_node: Node the GPU hangs on; -1 when unknown.
        cpus: CPUs near the GPU, in cpuset spelling such as `0-15,32`; empty when unknown.
        mig_parent: UUID of the parent GPU, for a MIG device.
        near: Other GPUs and how far they are (`core.topology.Distance`), as far as that is known.
    """

    uuid: GpuUuid
    name: str
    memory_mib: int
    index: int = 0
    numa_node: int = -1
    cpus: str = ""
    mig_parent: GpuUuid | None = None
    near: tuple[tuple[GpuUuid, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """What runs on a GPU at one moment, as NVML says.

    Args:
        uuid: Of the GPU or MIG device.
        used_mib: Memory in use.
        pids: Host process ids with a context on it.
    """

    uuid: GpuUuid
    used_mib: int
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """What a GPU does at one moment, as NVML says; None where it does not tell.

    Args:
        uuid: Of the GPU or MIG device.
        used_mib: Memory in use.
        total_mib: All of it.
        gpu_percent: Time in which it computed.
        memory_percent: Time in which its memory was read or written.
        power_w: Drawn now.
        energy_mj: Drawn since the driver was loaded, in millijoules.
        temperature_c: Of the chip.
        processes: Host process ids and the MiB each has.
    """

    uuid: GpuUuid
    used_mib: int
    total_mib: int
    gpu_percent: float | None = None
    memory_percent: float | None = None
    power_w: float | None = None
    energy_mj: int | None = None
    temperature_c: float | None = None
    processes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSlice:
    """A part of one GPU's memory that one worker reserves, beside others on the same GPU.

    Args:
        memory_mib: Reserved.
        of_mib: The GPU's total.
    """

    memory_mib: int
    of_mib: int

    @property
    def share_ppm(self) -> int:
        """The part it is, in millionths, rounded down: shares of one GPU never exceed it together."""
        return min(WHOLE_PPM, self.memory_mib * WHOLE_PPM // max(1, self.of_mib))


WHOLE_PPM = 1_000_000
"""A whole GPU in millionths of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStatus:
    """A GPU's health and why.

    Args:
        reason: Empty when healthy.
        since_ms: Unix wall time of the last change of health.
    """

    gpu: Gpu
    health: GpuHealth = GpuHealth.HEALTHY
    reason: str = ""
    since_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLease:
    """An exclusive hold of one GPU by one worker, from RESERVED to GONE."""

    gpu_uuid: GpuUuid
    worker_id: WorkerId

"""GPUs declared in gpud.toml, for machines without NVML, and the box without any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.gpu import Gpu
from gpud.core.ids import GpuUuid
from gpud.core.topology import Distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.gpu import GpuReading, GpuUse
    from gpud.ports.gpus import GpuFault
    from gpud.settings import StaticGpu


class StaticGpus:
    """Declared GPUs: leased like real ones, but nothing about them can be verified."""

    source = "static"

    def __init__(self, declared: Sequence[StaticGpu]) -> None:
        self._gpus = tuple(
            Gpu(
                uuid=GpuUuid(gpu.uuid),
                name=gpu.name,
                memory_mib=gpu.memory_mib,
                index=index,
                numa_node=gpu.numa_node,
                near=tuple((GpuUuid(uuid), int(Distance.NVLINK)) for uuid in gpu.nvlinks),
            )
            for index, gpu in enumerate(declared)
        )

    async def list_gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs as they were declared, in that order."""
        return self._gpus

    async def usage(self, uuids: Sequence[GpuUuid]) -> tuple[GpuUse, ...]:
        """Return nothing: no driver can say what runs on a declared GPU."""
        del uuids
        return ()

    async def readings(self, uuids: Sequence[GpuUuid]) -> tuple[GpuReading, ...]:
        """Return nothing: no driver can say what a declared GPU does."""
        del uuids
        return ()

    async def faults(self) -> tuple[GpuFault, ...]:
        """Return nothing: no driver reports faults of a declared GPU."""
        return ()


class NoGpus(StaticGpus):
    """A box without GPUs; CPU workers still run."""

    source = "none"

    def __init__(self) -> None:
        super().__init__(())

"""What the fleet needs to know about the GPUs of the box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.gpu import Gpu, GpuReading, GpuUse
    from gpud.core.ids import GpuUuid


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFault:
    """A GPU reported trouble.

    Args:
        uuid: Of the GPU.
        xid: NVIDIA Xid code; 0 when the fault is another one.
        detail: For a person.
    """

    uuid: GpuUuid
    xid: int
    detail: str


class GpuInventory(Protocol):
    """The GPUs of the box. Every method raises DependencyDown when the driver does not answer in 5 s."""

    source: str
    """`nvml`, `static` (declared, nothing can be verified) or `none`."""

    async def list_gpus(self) -> tuple[Gpu, ...]:
        """Every leasable device, in display order."""
        ...

    async def usage(self, uuids: Sequence[GpuUuid]) -> tuple[GpuUse, ...]:
        """Memory and processes now; a UUID the driver no longer knows is left out."""
        ...

    async def readings(self, uuids: Sequence[GpuUuid]) -> tuple[GpuReading, ...]:
        """Memory, load, power and temperature now; a UUID the driver no longer knows is left out."""
        ...

    async def faults(self) -> tuple[GpuFault, ...]:
        """Faults reported since the last call; never blocks long."""
        ...

"""Which source of GPUs do the settings mean on this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.adapters.nvml_gpus import NvmlGpus, nvml_loads
from gpud.adapters.static_gpus import NoGpus, StaticGpus

if TYPE_CHECKING:
    from gpud.ports.gpus import GpuInventory
    from gpud.settings import GpuSettings


def choose_gpus(settings: GpuSettings) -> GpuInventory:
    """Build the inventory that `gpus.source` names.

    `auto` takes NVML wherever its library loads, even while the driver does not answer: GPUs
    that exist must not be mistaken for declared ones because the driver is late.

    Raises:
        NvmlMissing: `source` is `nvml` and the library cannot be loaded.
    """
    match settings.source:
        case "nvml":
            return NvmlGpus()
        case "static":
            return StaticGpus(settings.static)
        case "none":
            return NoGpus()
        case "auto":
            if nvml_loads():
                return NvmlGpus()
            return StaticGpus(settings.static) if settings.static else NoGpus()

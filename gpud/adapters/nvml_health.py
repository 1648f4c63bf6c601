"""Reads from NVML what a doctor wants to know of each GPU; plain calls that block."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pynvml

from gpud.adapters.nvml_gpus import LIBRARY
from gpud.core.doctor.gpus import GpuLook, NvmlLook

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")


def look_at_gpus(source: str, *, static: int) -> NvmlLook:
    """Look at NVML and every GPU.

    Args:
        source: The setting `gpus.source`.
        static: GPUs declared in gpud.toml.
    """
    hardware = _on_the_bus()
    if source in ("none", "static"):
        return NvmlLook(source=source, static=static, hardware=hardware)
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        return NvmlLook(source=source, static=static, library_error=str(error), hardware=hardware)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        told = f"NVML does not answer: {error}"
        return NvmlLook(source=source, static=static, session_error=told, hardware=hardware)
    try:
        driver = _told(pynvml.nvmlSystemGetDriverVersion) or ""
        gpus = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        told = f"NVML does not answer: {error}"
        return NvmlLook(source=source, static=static, session_error=told, hardware=hardware)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return NvmlLook(source=source, static=static, hardware=hardware, driver=driver, gpus=gpus)


def _gpu(index: int) -> GpuLook:
    uuid = ""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        pynvml.nvmlDeviceGetMemoryInfo(handle)  # a GPU that is lost still says its name
    except pynvml.NVMLError as error:
        return GpuLook(index=index, uuid=uuid, error=str(error))
    persistent = _told(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle))
    rows = _told(lambda: pynvml.nvmlDeviceGetRemappedRows(handle))
    return GpuLook(
        index=index,
        uuid=uuid,
        name=name,
        temperature_c=_told(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        persistent=None if persistent is None else bool(persistent),
        memory_errors=_told(
            lambda: pynvml.nvmlDeviceGetTotalEccErrors(
                handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
            )
        ),
        repair_pending=bool(rows and rows[2]),
        repair_failed=bool(rows and rows[3]),
    )


def _told(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except pynvml.NVMLError:
        return None


def _on_the_bus() -> int | None:
    """Count NVIDIA's GPUs on the PCI bus; None where that cannot be read."""
    try:
        devices = list(_PCI_DEVICES.iterdir())
    except OSError:
        return None
    count = 0
    for device in devices:
        with contextlib.suppress(OSError):
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            kind = (device / "class").read_text(encoding="ascii").strip()
            count += vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASSES)
    return count

"""Do the GPUs answer, and are they well?"""

from __future__ import annotations

from dataclasses import dataclass

from gpud.core.doctor.findings import Finding, failed, ok, skipped, warning

_HOT_C = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLook:
    """What the driver tells of one GPU; None where it does not tell.

    Args:
        error: Why it does not answer; empty when it does.
        persistent: The driver keeps it initialised while nobody uses it.
        memory_errors: Uncorrectable ones since the driver was loaded.
        repair_failed: Memory rows could not be replaced.
        repair_pending: They will be at the next reset.
        daemon_health: gpud's own word; empty when it was not asked.
        daemon_reason: Why it is not healthy.
    """

    index: int
    uuid: str = ""
    name: str = ""
    error: str = ""
    temperature_c: int | None = None
    persistent: bool | None = None
    memory_errors: int | None = None
    repair_failed: bool = False
    repair_pending: bool = False
    daemon_health: str = ""
    daemon_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlLook:
    """What NVML said.

    Args:
        source: The setting `gpus.source`.
        static: GPUs declared in gpud.toml.
        library_error: Why NVML's library cannot be loaded; empty when it can.
        session_error: Why it does not answer; empty when it does.
        hardware: NVIDIA's devices on the PCI bus; None when that cannot be read.
        driver: Version of the driver.
        gpus: As far as they are listed.
    """

    source: str
    static: int = 0
    library_error: str = ""
    session_error: str = ""
    hardware: int | None = None
    driver: str = ""
    gpus: tuple[GpuLook, ...] = ()


def check_nvml(look: NvmlLook) -> Finding:
    """Judge NVML as a whole."""
    check = "nvml"
    if look.source in ("none", "static"):
        told = "no GPUs are used" if look.source == "none" else f"{look.static} GPUs are declared by hand"
        return skipped(check, f'gpus.source is "{look.source}": {told}')
    if look.library_error:
        return _no_library(check, look)
    if look.session_error:
        return failed(
            check,
            look.session_error,
            why="gpud sees no GPU, so workers that need one wait.",
            todo="Compare with `nvidia-smi` and `dmesg`.",
        )
    count = len(look.gpus)
    if not count:
        return failed(
            check,
            f"driver {look.driver or 'unknown'}, and no GPU",
            why="Workers that need one wait for ever.",
            todo="Compare with `nvidia-smi -L` and `lspci | grep -i nvidia`.",
        )
    if look.hardware is not None and look.hardware > count:
        return warning(
            check,
            f"driver {look.driver}, {count} GPUs, but {look.hardware} are on the PCI bus",
            why="The others are not used: they fell off, or another driver holds them.",
            todo="Look for Xid messages in `dmesg`, and at `lspci -k -d 10de:`.",
        )
    return ok(check, f"driver {look.driver}, {count} {'GPU' if count == 1 else 'GPUs'}")


def _no_library(check: str, look: NvmlLook) -> Finding:
    if look.source == "auto" and not look.hardware:
        if look.static:
            return ok(check, f"no NVIDIA driver here; {look.static} GPUs are declared in gpud.toml")
        return warning(
            check,
            "no NVIDIA driver and no NVIDIA GPU here",
            why="Only endpoints without GPUs can run.",
            todo='Nothing, if that is meant; gpus.source = "none" says so.',
        )
    return failed(
        check,
        f"NVML cannot be loaded: {look.library_error}",
        why="gpud sees no GPU, so workers that need one wait.",
        todo="Install the NVIDIA driver.",
    )


def check_gpus(look: NvmlLook) -> tuple[Finding, ...]:
    """Judge each GPU."""
    return tuple(_gpu(gpu) for gpu in look.gpus)


def _gpu(gpu: GpuLook) -> Finding:
    check, named = f"gpu-{gpu.index}", " ".join(part for part in (gpu.name, gpu.uuid) if part) or "it"
    if gpu.error:
        return failed(
            check,
            f"{named} does not answer: {gpu.error}",
            why="It takes no workers.",
            todo="Look for Xid messages in `dmesg`; reset it with `nvidia-smi --gpu-reset`, or reboot.",
        )
    if gpu.repair_failed:
        return failed(
            check,
            f"{named}: broken memory could not be replaced",
            why="Results on it may be wrong, or processes end.",
            todo=f"`gpud gpu cordon {gpu.uuid}`, and have the card replaced.",
        )
    if gpu.daemon_health in ("unhealthy", "quarantined"):
        say = failed if gpu.daemon_health == "unhealthy" else warning
        return say(
            check,
            f"{named} is {gpu.daemon_health}: {gpu.daemon_reason}",
            why="It takes no workers.",
            todo=f"When mended: `gpud gpu uncordon {gpu.uuid}`."
            if gpu.daemon_health == "unhealthy"
            else "It returns by itself once nobody else uses it; `nvidia-smi` shows who does.",
        )
    return _doubts(check, named, gpu) or ok(check, named + (", cordoned" * (gpu.daemon_health == "cordoned")))


def _doubts(check: str, named: str, gpu: GpuLook) -> Finding | None:
    if gpu.repair_pending or gpu.memory_errors:
        return warning(
            check,
            f"{named}: {gpu.memory_errors or 'some'} uncorrectable memory errors",
            why="Processes that touched that memory were ended; the memory is replaced at the next reset.",
            todo=f"`gpud gpu cordon {gpu.uuid}`; when its worker has ended, `nvidia-smi --gpu-reset`.",
        )
    if gpu.temperature_c is not None and gpu.temperature_c >= _HOT_C:
        return warning(
            check,
            f"{named} is {gpu.temperature_c} °C hot",
            why="It slows itself down, and requests with it.",
            todo="Look at fans and airflow; lower its power limit with `nvidia-smi -pl`.",
        )
    if gpu.persistent is False:
        return warning(
            check,
            f"{named}: persistence mode is off",
            why="The driver sets the GPU up again for the first process that uses it, which takes seconds of "
            "each cold start.",
            todo="`systemctl enable --now nvidia-persistenced`, or `nvidia-smi -pm 1`.",
        )
    return None

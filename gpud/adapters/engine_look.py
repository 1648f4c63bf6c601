"""Looks at the Docker Engine and at what brings GPUs into its containers, for the doctor."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpud.adapters.docker_client import DockerClients
from gpud.adapters.docker_errors import engine_errors
from gpud.adapters.docker_launch import attach_for
from gpud.adapters.docker_seen import engine_info
from gpud.core.doctor.engine import EngineLook, ToolkitLook
from gpud.core.gpu import GpuAttach
from gpud.errors import GpudError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.doctor.gpus import NvmlLook
    from gpud.ports.containers import EngineInfo
    from gpud.settings import Settings

_TIMEOUT_S = 5.0
_TOOLS = ("nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-ctk", "nvidia-container-cli")
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_SPEC_BYTES_MAX = 4 << 20
_LIBRARY_OF_DRIVER = re.compile(r"libcuda\.so\.(\d+(?:\.\d+)+)")


def look_at_engine(settings: Settings) -> tuple[EngineLook, EngineInfo | None]:
    """Ask the engine who it is."""
    docker = settings.docker
    clients = DockerClients(docker.host, call_timeout_s=min(docker.call_timeout_s, _TIMEOUT_S))
    try:
        with engine_errors(clients):
            version, info = clients.get().version(api_version=False), clients.get().info()
    except GpudError as error:
        return EngineLook(host=docker.host, error=error.detail), None
    seen = engine_info(version, info)
    return (
        EngineLook(
            host=docker.host,
            version=seen.version,
            api_version=seen.api_version,
            storage_driver=seen.storage_driver,
            cgroup_driver=seen.cgroup_driver,
            cgroup_version=seen.cgroup_version,
            runtimes=seen.runtimes,
            default_runtime=seen.default_runtime,
            live_restore=seen.live_restore,
            rootless=any("name=rootless" in option for option in info.get("SecurityOptions") or ()),
            cdi=seen.cdi,
            gpu_device_requests=seen.gpu_device_requests,
            root=str(info.get("DockerRootDir") or ""),
            wanted_runtime=docker.runtime,
        ),
        seen,
    )


def look_at_toolkit(
    settings: Settings,
    engine: EngineInfo | None,
    nvml: NvmlLook,
    *,
    folders: Sequence[Path] = CDI_FOLDERS,
    devices: Path = Path("/dev"),
) -> ToolkitLook:
    """Look for NVIDIA's programs, CDI descriptions and device links."""
    wanted = settings.gpus.attach
    attach = attach_for(wanted, engine) if engine else None if wanted is GpuAttach.AUTO else wanted
    specs, drivers = _specs(folders)
    return ToolkitLook(
        attach=attach,
        gpus=bool(nvml.gpus),
        tools=tuple(tool for tool in _TOOLS if shutil.which(tool)),
        specs=specs,
        spec_drivers=drivers,
        driver=nvml.driver,
        char_links=_char_links(devices),
    )


def _specs(folders: Sequence[Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """CDI descriptions of NVIDIA's GPUs, and the versions of the driver whose libraries they name."""
    found, drivers = list[str](), set[str]()
    for folder in folders:
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix not in (".yaml", ".yml", ".json"):
                continue
            with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_SPEC_BYTES_MAX)
                if "nvidia.com/gpu" in text:
                    found.append(str(path))
                    drivers |= set(_LIBRARY_OF_DRIVER.findall(text))
    return tuple(found), tuple(sorted(drivers))


def _char_links(devices: Path) -> bool | None:
    """Whether systemd can find NVIDIA's devices by number; None when there are none."""
    try:
        present = [path for path in devices.glob("nvidia*") if path.is_char_device()]
        if not present:
            return None
        linked = {path.readlink().name for path in (devices / "char").iterdir() if path.is_symlink()}
    except OSError:
        return False if (devices / "nvidiactl").exists() else None
    return all(path.name in linked for path in present)

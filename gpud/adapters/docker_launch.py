"""Turns a worker's launch into what the engine is asked to create."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpud.adapters.docker_seen import (
    LABEL_ENDPOINT,
    LABEL_GENERATION,
    LABEL_GPUS,
    LABEL_INSTALL,
    LABEL_REVISION,
    LABEL_WORKER,
)
from gpud.core.gpu import GpuAttach
from gpud.errors import LaunchFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.endpoint import Volume
    from gpud.ports.containers import EngineInfo, WorkerLaunch

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

KEPT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
"""What a worker keeps when everything else is dropped.

Images that start as root prepare files of another user and then become that user (CHOWN,
DAC_OVERRIDE, FOWNER, SETGID, SETUID). KILL lets the init process, which stays root, hand SIGTERM on
to such a worker: without it every stop would last until SIGKILL. A program file marked with
NET_BIND_SERVICE cannot even be executed where that is not allowed. Of the engine's own default
AUDIT_WRITE, FSETID, MKNOD, NET_RAW, SETFCAP, SETPCAP and SYS_CHROOT are gone.
"""


HOLD_PROGRAM, HOLD_DIRECTORY = "/.gpud/hold", "/.gpud/standby"
"""Where a held container has the program that holds it, and what that listens to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCommand:
    """What an image runs by itself."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()


def create_body(
    launch: WorkerLaunch,
    *,
    install_id: str,
    network: str,
    attach: GpuAttach,
    mounts: Sequence[dict[str, Any]],
    log_max_mib: int,
    own: ImageCommand | None = None,
    runtime: str = "",
) -> dict[str, Any]:
    """Compose the engine's create request for a worker; `attach` is never AUTO here.

    Args:
        launch: What is wanted.
        install_id: For the label.
        network: Of the workers.
        attach: How GPUs are attached.
        mounts: Of the launch's volumes.
        log_max_mib: Size of one log file.
        own: What the image runs by itself; needed for a launch that is held.
        runtime: Of the engine's, the one to use; empty for its default.

    Raises:
        LaunchFailed: A held launch has no command to hold.
    """
    body: dict[str, Any] = {
        "Image": launch.image.pin,
        "Env": environment(launch),
        "Labels": {
            LABEL_INSTALL: install_id,
            LABEL_WORKER: launch.worker_id,
            LABEL_ENDPOINT: launch.endpoint,
            LABEL_REVISION: launch.revision,
            LABEL_GENERATION: str(launch.generation),
            LABEL_GPUS: ",".join(launch.gpu_uuids),
        },
        "HostConfig": {
            "NetworkMode": network,
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "Init": True,
            "Privileged": False,
            "PublishAllPorts": False,
            "IpcMode": "private",
            "SecurityOpt": ["no-new-privileges:true"],
            "CapDrop": ["ALL"],
            "CapAdd": list(KEPT_CAPABILITIES),
            "LogConfig": {"Type": "json-file", "Config": {"max-size": f"{log_max_mib}m", "max-file": "2"}},
            "Mounts": list(mounts),
            "DeviceRequests": _device_requests(launch, attach),
            **_resources(launch),
        },
    }
    if runtime:
        body["HostConfig"]["Runtime"] = runtime
    if launch.command:
        body["Cmd"] = list(launch.command)
    if launch.hold is not None:
        body["Entrypoint"], body["Cmd"] = _held_command(launch, own or ImageCommand())
        body["HostConfig"]["Mounts"] += [
            _read_only_bind(launch.hold.program, HOLD_PROGRAM),
            _read_only_bind(launch.hold.directory, HOLD_DIRECTORY),
        ]
    return body


def _held_command(launch: WorkerLaunch, own: ImageCommand) -> tuple[list[str], list[str]]:
    """The command as the engine would compose it, behind the program that holds it."""
    cmd = launch.command or own.cmd
    if not (*own.entrypoint, *cmd):
        raise LaunchFailed(
            f"The image {launch.image.reference} names no command, so there is none to hold back. Give one "
            "in `command`.",
            permanent=True,
        )
    return [HOLD_PROGRAM, HOLD_DIRECTORY, *own.entrypoint], list(cmd)


def _read_only_bind(source: str, target: str) -> dict[str, Any]:
    propagation = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True, "BindOptions": propagation}


def attach_for(wanted: GpuAttach, engine: EngineInfo) -> GpuAttach:
    """Settle `auto`: device requests, or CDI where only that is known to work."""
    if wanted is not GpuAttach.AUTO:
        return wanted
    return GpuAttach.DEVICE_REQUEST if engine.gpu_device_requests or not engine.cdi else GpuAttach.CDI


def mounts_for(
    volumes: Sequence[Volume], *, roots: Sequence[Path], forbidden: Path | None
) -> list[dict[str, Any]]:
    """Compose the mounts of a worker, looking up every host path where it really leads.

    Args:
        volumes: A source with a slash is a host path, another one a named volume.
        roots: Host paths below which a source must be, after links are followed.
        forbidden: The engine's socket, which no mount may hold.

    Raises:
        LaunchFailed: Permanent; names the volume and what would be right.
    """
    return [_mount(volume, roots, forbidden) for volume in volumes]


def _mount(volume: Volume, roots: Sequence[Path], forbidden: Path | None) -> dict[str, Any]:
    if "/" not in volume.source:
        if not _VOLUME_NAME.match(volume.source):
            raise _refused(volume, "is no volume name; use letters, digits, '_', '.' and '-'")
        return {
            "Type": "volume",
            "Source": volume.source,
            "Target": volume.target,
            "ReadOnly": volume.read_only,
        }
    source = Path(volume.source)
    if not source.is_absolute():
        raise _refused(volume, "is a relative path; write it from '/', or name a volume")
    try:
        real = source.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle.
        raise _refused(volume, f"cannot be reached on this box ({error}); create it first") from error
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(str(root) for root in roots) or "none are set"
        raise _refused(
            volume, f"is outside the allowed paths ({allowed}); add one to paths.volume_roots in gpud.toml"
        )
    if forbidden is not None and forbidden.resolve().is_relative_to(real):
        raise _refused(volume, "holds the engine's socket, which is never given to a worker")
    return {
        "Type": "bind",
        "Source": str(real),
        "Target": volume.target,
        "ReadOnly": volume.read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _refused(volume: Volume, why: str) -> LaunchFailed:
    return LaunchFailed(f"The volume {volume.source} cannot be mounted: it {why}.", permanent=True)


def environment(launch: WorkerLaunch) -> list[str]:
    """A worker's environment, one `NAME=VALUE` an entry."""
    # Said last and in every case, for a container runtime that obeys this variable would obey the
    # image's own `NVIDIA_VISIBLE_DEVICES=all` just as well.
    visible = ",".join(launch.gpu_uuids) or "void"
    entries = {**dict(launch.env), "NVIDIA_VISIBLE_DEVICES": visible}
    return [f"{name}={value}" for name, value in entries.items()]


def _device_requests(launch: WorkerLaunch, attach: GpuAttach) -> list[dict[str, Any]]:
    if not launch.gpu_uuids or attach is GpuAttach.NONE:
        return []
    if attach is GpuAttach.CDI:
        return [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={uuid}" for uuid in launch.gpu_uuids]}]
    return [{"Driver": "nvidia", "DeviceIDs": list(launch.gpu_uuids), "Capabilities": [["gpu"]]}]


def _resources(launch: WorkerLaunch) -> dict[str, Any]:
    resources: dict[str, Any] = {"PidsLimit": launch.pids, "ShmSize": launch.shm_mib << 20}
    if launch.memory_mib:
        # The same limit for memory and memory plus swap leaves no swap.
        resources |= {"Memory": launch.memory_mib << 20, "MemorySwap": launch.memory_mib << 20}
    if launch.cpus:
        resources["NanoCpus"] = math.ceil(launch.cpus * 1e9)
    if launch.cpuset:
        resources["CpusetCpus"] = launch.cpuset
    if launch.memory_nodes:
        resources["CpusetMems"] = launch.memory_nodes
    return resources

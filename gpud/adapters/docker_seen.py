"""Reads what the engine says about containers and about itself into gpud's own words."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpud.core.ids import ENDPOINT_NAME, WORKER_ID, EndpointName, GpuUuid, Revision, WorkerId
from gpud.errors import DependencyDown
from gpud.ports.containers import ContainerStatus, EngineInfo, SeenContainer

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL_INSTALL = "gpud.install"
LABEL_WORKER = "gpud.worker"
LABEL_ENDPOINT = "gpud.endpoint"
LABEL_REVISION = "gpud.revision"
LABEL_GENERATION = "gpud.generation"
LABEL_GPUS = "gpud.gpus"

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)\Z")
_EXIT_HINTS = {
    126: "its command could not be executed: it is not a program, or not one this user may run",
    127: "its command was not found in the image",
}


def unix_ns(timestamp: str) -> int:
    """Read an RFC 3339 timestamp exactly, in Unix nanoseconds; the engine's year 1 ("never") is 0.

    Raises:
        ValueError: It is not such a timestamp.
    """
    match = _TIMESTAMP.match(timestamp)
    if match is None:
        raise ValueError(f"not an RFC 3339 timestamp: {timestamp!r}")
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = since_epoch.days * 86_400 + since_epoch.seconds
    return max(seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0")), 0)


def seen_container(inspected: Mapping[str, Any], *, install_id: str, network: str) -> SeenContainer | None:
    """Read an inspected container; None when it is not a worker of this install.

    Both the install id and every label of a worker must be there, so that a container somebody
    else labelled by hand is never taken for ours.

    Raises:
        DependencyDown: The engine describes it in a way that nobody can read.
    """
    try:
        return _seen_container(inspected, install_id=install_id, network=network)
    except (KeyError, TypeError, ValueError) as error:
        name = inspected.get("Name") or inspected.get("Id")
        raise DependencyDown(
            f"The engine's description of the container {name} cannot be read ({error!r}). If it stays so, "
            "remove that container with `docker rm -f`, or restart the engine."
        ) from error


def _seen_container(inspected: Mapping[str, Any], *, install_id: str, network: str) -> SeenContainer | None:
    labels = inspected["Config"].get("Labels") or {}
    worker_id, endpoint = labels.get(LABEL_WORKER, ""), labels.get(LABEL_ENDPOINT, "")
    revision, generation = labels.get(LABEL_REVISION, ""), labels.get(LABEL_GENERATION, "")
    if labels.get(LABEL_INSTALL) != install_id or not revision or not generation.isdecimal():
        return None
    if not WORKER_ID.match(worker_id) or not ENDPOINT_NAME.match(endpoint):
        return None
    state = inspected["State"]
    status = _status(state["Status"])
    started_ns = unix_ns(state["StartedAt"])
    running, exited = status is ContainerStatus.RUNNING, status is ContainerStatus.EXITED
    out_of_memory = bool(state.get("OOMKilled")) and exited
    networks = inspected["NetworkSettings"].get("Networks") or {}
    return SeenContainer(
        worker_id=WorkerId(worker_id),
        endpoint=EndpointName(endpoint),
        revision=Revision(revision),
        generation=int(generation),
        status=status,
        gpu_uuids=tuple(GpuUuid(uuid) for uuid in labels.get(LABEL_GPUS, "").split(",") if uuid),
        address=(networks.get(network) or {}).get("IPAddress", "") if running else "",
        created_ns=unix_ns(inspected["Created"]),
        started_ns=started_ns,
        # For a container that lived less than a millisecond the engine may note the end first.
        finished_ns=max(unix_ns(state["FinishedAt"]), started_ns) if exited else 0,
        exit_code=int(state["ExitCode"]) if exited else None,
        out_of_memory=out_of_memory,
        pid=int(state.get("Pid") or 0) if running else 0,
        paused=bool(state.get("Paused")) and running,
        error=_error(state, exited=exited, out_of_memory=out_of_memory),
    )


def engine_info(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineInfo:
    """Read the engine's `/version` and `/info`.

    The engine does not tell whether device requests work: it finds NVIDIA's hook at its own start.
    They are ruled out only where it knows NVIDIA's CDI devices and not NVIDIA's runtime.
    """
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    devices = info.get("DiscoveredDevices") or ()
    cdi = any(str(device.get("ID", "")).startswith("nvidia.com/gpu=") for device in devices)
    return EngineInfo(
        version=version["Version"],
        api_version=version["ApiVersion"],
        storage_driver=info.get("Driver", ""),
        cgroup_driver=info.get("CgroupDriver", ""),
        cgroup_version=info.get("CgroupVersion", ""),
        runtimes=runtimes,
        default_runtime=info.get("DefaultRuntime", ""),
        gpu_device_requests="nvidia" in runtimes or not cdi,
        cdi=cdi,
        live_restore=bool(info.get("LiveRestoreEnabled")),
    )


def _status(word: str) -> ContainerStatus:
    if word == "created":
        return ContainerStatus.CREATED
    if word in ("running", "paused", "restarting"):
        return ContainerStatus.RUNNING
    return ContainerStatus.EXITED  # exited, dead, removing


def _error(state: Mapping[str, Any], *, exited: bool, out_of_memory: bool) -> str:
    if error := str(state.get("Error") or ""):
        return error
    if out_of_memory:
        return "it used more memory than its limit"
    return _EXIT_HINTS.get(int(state["ExitCode"]), "") if exited else ""

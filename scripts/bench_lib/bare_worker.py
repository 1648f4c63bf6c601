"""What gpud would ask the engine for, for a container that the bare engine is to start beside it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from gpud.adapters.docker_launch import create_body
from gpud.core.gpu import GpuAttach
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.ports.containers import WorkerLaunch

if TYPE_CHECKING:
    from gpud.adapters.docker_launch import ImageCommand
    from gpud.core.endpoint import PinnedImage
    from gpud.ports.containers import EntrypointHold
    from tests.e2e.daemon import DaemonProcess


def bare_name() -> str:
    """A container name that nobody has."""
    return f"bare-wk_{secrets.token_hex(8)}"


def bare_body(
    name: str,
    image: PinnedImage,
    *,
    network: str,
    port: int,
    env: tuple[tuple[str, str], ...] = (),
    runtime: str = "",
    hold: EntrypointHold | None = None,
    own: ImageCommand | None = None,
) -> dict[str, Any]:
    """The create request of a worker with one declared GPU; `own` is what the image runs, if it is held."""
    worker_id = WorkerId(name.removeprefix("bare-"))
    launch = WorkerLaunch(
        worker_id=worker_id,
        endpoint=EndpointName("bare"),
        revision=Revision("0" * 12),
        generation=1,
        image=image,
        port=port,
        env=(*env, ("GPUD_ENDPOINT", "bare"), ("GPUD_WORKER", worker_id)),
        gpu_uuids=(GpuUuid("GPU-static-0"),),
        hold=hold,
    )
    return create_body(
        launch,
        install_id="bench",
        network=network,
        attach=GpuAttach.NONE,
        mounts=(),
        log_max_mib=16,
        own=own,
        runtime=runtime,
    )


def runtime_of(daemon: DaemonProcess) -> str:
    """The OCI runtime that the daemon has its workers started with."""
    return str(daemon.get("/v1/system")["engine"]["runtime"])

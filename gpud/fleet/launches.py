"""A worker's launch: all that its container is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.endpoint import EndpointType
from gpud.core.pull_protocol import DEFAULTS
from gpud.ports.containers import WorkerLaunch

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint
    from gpud.core.gpu import GpuSlice
    from gpud.core.ids import GpuUuid, Revision, WorkerId
    from gpud.fleet.hands import Hands


def launch_for(
    hands: Hands,
    endpoint: Endpoint,
    *,
    worker_id: WorkerId,
    revision: Revision,
    port: int,
    gpu_uuids: tuple[GpuUuid, ...],
    gpu_slice: GpuSlice | None = None,
) -> WorkerLaunch:
    """Compose what the engine is asked for.

    Args:
        hands: The fleet.
        endpoint: As it was when the worker was made.
        worker_id: Names the container.
        revision: For the label.
        port: Where the container listens.
        gpu_uuids: The GPUs it can reach.
        gpu_slice: The part of its one GPU that is its own; None when its GPUs are.

    Raises:
        Unavailable: It would fetch its jobs, and there is no listener for it yet.
    """
    spec, limits = endpoint.spec, endpoint.spec.limits
    gpus = [hands.state.gpus[u].gpu for u in gpu_uuids if u in hands.state.gpus]
    nodes = sorted({gpu.numa_node for gpu in gpus if gpu.numa_node >= 0})
    return WorkerLaunch(
        worker_id=worker_id,
        endpoint=endpoint.name,
        revision=revision,
        # The container outlives many changes of state: its label carries the first
        # generation, which with the worker's id tells it from any other.
        generation=1,
        image=endpoint.image,
        port=port,
        command=spec.command,
        env=(
            *(DEFAULTS if spec.type is EndpointType.QUEUE else ()),
            *spec.env,
            ("GPUD_ENDPOINT", endpoint.name),
            ("GPUD_WORKER", worker_id),
            *_slice_env(gpu_slice),
            *_line_env(hands, endpoint, worker_id, gpu_uuids),
        ),
        gpu_uuids=gpu_uuids,
        gpu_attach=hands.settings.gpu_attach,
        cpuset=",".join(dict.fromkeys(gpu.cpus for gpu in gpus if gpu.cpus)),
        memory_nodes=",".join(map(str, nodes)) if gpus and all(g.numa_node >= 0 for g in gpus) else "",
        memory_mib=limits.memory_mib,
        cpus=limits.cpus,
        shm_mib=limits.shm_mib,
        pids=limits.pids,
        volumes=spec.volumes,
    )


def _line_env(
    hands: Hands, endpoint: Endpoint, worker_id: WorkerId, gpu_uuids: tuple[GpuUuid, ...]
) -> tuple[tuple[str, str], ...]:
    """Tell a worker that fetches its jobs where they are."""
    if endpoint.spec.type is not EndpointType.QUEUE:
        return ()
    names = [hands.state.gpus[uuid].gpu.name for uuid in gpu_uuids if uuid in hands.state.gpus]
    return hands.line.environment(
        endpoint.name, worker_id, gpu_name=names[0] if names else "", gpu_count=len(gpu_uuids)
    )


def _slice_env(gpu_slice: GpuSlice | None) -> tuple[tuple[str, str], ...]:
    """Tell a worker how much of its GPU is its own: nothing holds it to that but itself."""
    if gpu_slice is None:
        return ()
    return (
        ("GPUD_GPU_MEMORY_MIB", str(gpu_slice.memory_mib)),
        ("GPUD_GPU_TOTAL_MIB", str(gpu_slice.of_mib)),
    )

"""On which GPUs should a worker run, or why nowhere?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.waiting import WaitReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.endpoint import EndpointSpec, GpuNeeds
    from gpud.core.gpu import Gpu, GpuStatus
    from gpud.core.ids import EndpointName, GpuUuid


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The GPUs a worker gets; none for a CPU worker."""

    gpu_uuids: tuple[GpuUuid, ...]


def fits(needs: GpuNeeds, gpu: Gpu) -> bool:
    """Whether a GPU, were it free, is one the worker can use."""
    return gpu.memory_mib >= needs.memory_mib and needs.model.lower() in gpu.name.lower()


def place(
    needs: GpuNeeds, gpus: Sequence[GpuStatus], held_by: Mapping[GpuUuid, EndpointName]
) -> Placement | WaitReason:
    """Choose GPUs for one worker.

    Best fit: the GPUs with the least memory that will do, so that the large ones stay free for
    those who need them; several GPUs come from one NUMA node where one has enough.

    Args:
        needs: Of the worker.
        gpus: All of the box.
        held_by: Leased GPUs and their endpoints.

    Returns:
        The GPUs, or why there are none and what would change it.
    """
    if needs.count == 0:
        return Placement(gpu_uuids=())
    suitable = [status for status in gpus if fits(needs, status.gpu)]
    healthy = [status.gpu for status in suitable if status.health is GpuHealth.HEALTHY]
    free = [gpu for gpu in healthy if gpu.uuid not in held_by]
    if len(free) >= needs.count:
        return Placement(gpu_uuids=tuple(gpu.uuid for gpu in nearest(free, needs.count)))
    if len(healthy) < needs.count and len(suitable) >= needs.count:
        sick = [status for status in suitable if status.health is not GpuHealth.HEALTHY]
        listed = ", ".join(f"{s.gpu.uuid} is {s.health} ({s.reason})" for s in sick)
        return WaitReason(
            reason="gpu_unhealthy",
            detail=f"{needs.count} suitable GPUs are needed, {len(healthy)} are healthy: {listed}.",
            facts={"gpus": [s.gpu.uuid for s in sick]},
        )
    holders = sorted({held_by[gpu.uuid] for gpu in healthy if gpu.uuid in held_by})
    return WaitReason(
        reason="waiting_for_gpu",
        detail=(
            f"{needs.count} GPUs are needed and {len(free)} are free; "
            f"the others are held by {', '.join(holders) or 'nobody that fits'}."
        ),
        facts={"held_by": list(holders), "free": len(free), "needed": needs.count},
    )


def impossible(needs: GpuNeeds, gpus: Sequence[GpuStatus]) -> str:
    """Say why the box can never run such a worker; empty when it can."""
    suitable = [status for status in gpus if fits(needs, status.gpu)]
    if len(suitable) >= needs.count:
        return ""
    wanted = f"{needs.count} GPU{'s' if needs.count > 1 else ''}"
    if needs.model:
        wanted += f" whose name contains {needs.model!r}"
    if needs.memory_mib:
        wanted += f" with at least {needs.memory_mib} MiB"
    has = f"this box has {len(suitable)} such of {len(gpus)} in all (see `gpud gpu ls`)"
    return f"a worker needs {wanted}; {has}"


def overbooked(specs: Sequence[EndpointSpec], gpus: Sequence[GpuStatus]) -> str:
    """Say why the guarantees of some endpoints cannot hold together; empty when they can.

    Each kind of need is weighed with all that can be met by no other GPUs than its own.

    Args:
        specs: Of all endpoints.
        gpus: All of the box, sick ones too: a guarantee outlives a repair.
    """
    guaranteed = [(spec, _suitable(spec.gpus, gpus)) for spec in specs if spec.gpus.count]
    guaranteed = [(spec, uuids) for spec, uuids in guaranteed if spec.scale.guaranteed]
    for uuids in {uuids for _spec, uuids in guaranteed}:
        rivals = [spec for spec, theirs in guaranteed if theirs <= uuids]
        wanted = sum(spec.scale.guaranteed * spec.gpus.count for spec in rivals)
        if wanted > len(uuids):
            names = ", ".join(
                f"{spec.name} {spec.scale.guaranteed * spec.gpus.count}"
                for spec in sorted(rivals, key=lambda spec: spec.name)
            )
            return f"{wanted} GPUs would be promised for good ({names}) and {len(uuids)} suit"
    return ""


def _suitable(needs: GpuNeeds, gpus: Sequence[GpuStatus]) -> frozenset[GpuUuid]:
    return frozenset(status.gpu.uuid for status in gpus if fits(needs, status.gpu))


def nearest(free: Sequence[Gpu], count: int) -> Sequence[Gpu]:
    """Choose among free GPUs that fit: the smallest that do, several from one NUMA node if possible."""
    best_fit = sorted(free, key=lambda gpu: (gpu.memory_mib, gpu.index, gpu.uuid))
    if count == 1:
        return best_fit[:1]
    by_node = sorted(best_fit, key=lambda gpu: gpu.numa_node)
    for node, group in groupby(by_node, key=lambda gpu: gpu.numa_node):
        together = list(group)
        if node >= 0 and len(together) >= count:
            return together[:count]
    return best_fit[:count]

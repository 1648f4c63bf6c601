"""On which GPUs should a worker run, or why nowhere?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth, GpuSlice
from gpud.core.topology import together
from gpud.core.waiting import WaitReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.endpoint import EndpointSpec, GpuNeeds
    from gpud.core.gpu import Gpu, GpuStatus
    from gpud.core.ids import EndpointName, GpuUuid


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The GPUs a worker gets; none for a CPU worker.

    Args:
        gpu_slice: The part of its one GPU that is its own; None when its GPUs are whole.
    """

    gpu_uuids: tuple[GpuUuid, ...]
    gpu_slice: GpuSlice | None = None


def fits(needs: GpuNeeds, gpu: Gpu) -> bool:
    """Whether a GPU, were it free, is one the worker can use."""
    enough = gpu.memory_mib >= max(needs.memory_mib, needs.least_memory_mib)
    return enough and needs.model.lower() in gpu.name.lower()


def placed(needs: GpuNeeds, gpus: Sequence[GpuStatus], uuids: tuple[GpuUuid, ...]) -> Placement:
    """Say what a worker gets of GPUs that were chosen for it."""
    if not needs.memory_mib:
        return Placement(gpu_uuids=uuids)
    of_mib = next(status.gpu.memory_mib for status in gpus if status.gpu.uuid in uuids)
    return Placement(gpu_uuids=uuids, gpu_slice=GpuSlice(memory_mib=needs.memory_mib, of_mib=of_mib))


def place(
    needs: GpuNeeds,
    gpus: Sequence[GpuStatus],
    held_by: Mapping[GpuUuid, EndpointName],
    left_mib: Mapping[GpuUuid, int] | None = None,
) -> Placement | WaitReason:
    """Choose GPUs for one worker.

    Several GPUs are neighbours as far as there are such, by NVLink, PCIe and NUMA node. Then best
    fit: the GPUs with the least memory that will do, so that the large ones stay free for those
    who need them.

    Args:
        needs: Of the worker.
        gpus: All of the box.
        held_by: Leased GPUs and their endpoints.
        left_mib: What a slice may have of each GPU; without it, slices come from free GPUs.

    Returns:
        The GPUs, or why there are none and what would change it.
    """
    if needs.count == 0:
        return Placement(gpu_uuids=())
    suitable = [status for status in gpus if fits(needs, status.gpu)]
    healthy = [status.gpu for status in suitable if status.health is GpuHealth.HEALTHY]
    free = [gpu for gpu in healthy if gpu.uuid not in held_by]
    if needs.memory_mib and left_mib is not None:
        free = [gpu for gpu in healthy if left_mib.get(gpu.uuid, 0) >= needs.memory_mib]
        free.sort(key=lambda gpu: (left_mib[gpu.uuid], gpu.index, gpu.uuid))
        if free:
            return placed(needs, gpus, (free[0].uuid,))
    if len(free) >= needs.count:
        return placed(needs, gpus, tuple(gpu.uuid for gpu in nearest(free, needs.count)))
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


def impossible(needs: GpuNeeds, gpus: Sequence[GpuStatus], *, headroom_mib: int = 0) -> str:
    """Say why the box can never run such a worker; empty when it can.

    Args:
        needs: Of the worker.
        gpus: All of the box.
        headroom_mib: Of every shared GPU, reserved for nobody.
    """
    suitable = _suitable(needs, gpus, headroom_mib)
    if len(suitable) >= needs.count:
        return ""
    wanted = f"{needs.count} GPU{'s' if needs.count > 1 else ''}"
    if needs.model:
        wanted += f" whose name contains {needs.model!r}"
    if needs.memory_mib:
        wanted += f" with {needs.memory_mib} MiB to reserve beside a headroom of {headroom_mib} MiB"
    if needs.least_memory_mib:
        wanted += f" with at least {needs.least_memory_mib} MiB"
    has = f"this box has {len(suitable)} such of {len(gpus)} in all (see `gpud gpu ls`)"
    return f"a worker needs {wanted}; {has}"


def overbooked(specs: Sequence[EndpointSpec], gpus: Sequence[GpuStatus], *, headroom_mib: int = 0) -> str:
    """Say why the guarantees of some endpoints cannot hold together; empty when they can.

    Each kind of need is weighed with all that can be met by no other GPUs than its own. Slices are
    packed, the largest first, into what whole workers leave; a packing that only another order
    would find is refused too.

    Args:
        specs: Of all endpoints.
        gpus: All of the box, sick ones too: a guarantee outlives a repair.
        headroom_mib: Of every shared GPU, reserved for nobody.
    """
    guaranteed = [(spec, _suitable(spec.gpus, gpus, headroom_mib)) for spec in specs if spec.gpus.count]
    guaranteed = [(spec, uuids) for spec, uuids in guaranteed if spec.scale.guaranteed]
    whole = [(spec, uuids) for spec, uuids in guaranteed if not spec.gpus.memory_mib]
    for uuids in {uuids for _spec, uuids in whole}:
        rivals = [spec for spec, theirs in whole if theirs <= uuids]
        wanted = sum(spec.scale.guaranteed * spec.gpus.count for spec in rivals)
        if wanted > len(uuids):
            names = ", ".join(
                f"{spec.name} {spec.scale.guaranteed * spec.gpus.count}"
                for spec in sorted(rivals, key=lambda spec: spec.name)
            )
            return f"{wanted} GPUs would be promised for good ({names}) and {len(uuids)} suit"
    slices = [(spec, uuids) for spec, uuids in guaranteed if spec.gpus.memory_mib]
    return _unpacked(whole, slices, gpus, headroom_mib) if slices else ""


def _unpacked(
    whole: Sequence[tuple[EndpointSpec, frozenset[GpuUuid]]],
    slices: Sequence[tuple[EndpointSpec, frozenset[GpuUuid]]],
    gpus: Sequence[GpuStatus],
    headroom_mib: int,
) -> str:
    """Say which guaranteed slice has no place beside the other guarantees; empty when all have."""
    left_mib = {status.gpu.uuid: status.gpu.memory_mib - headroom_mib for status in gpus}
    for spec, uuids in sorted(whole, key=lambda one: (len(one[1]), one[0].name)):
        mine = sorted((uuid for uuid in uuids if uuid in left_mib), key=lambda uuid: (left_mib[uuid], uuid))
        for uuid in mine[: spec.scale.guaranteed * spec.gpus.count]:
            del left_mib[uuid]
    for spec, uuids in sorted(slices, key=lambda one: (-one[0].gpus.memory_mib, one[0].name)):
        wanted_mib = spec.gpus.memory_mib
        for number in range(spec.scale.guaranteed):
            roomy = [u for u in uuids if left_mib.get(u, 0) >= wanted_mib]
            if not roomy:
                return (
                    f"{spec.name} would be promised {spec.scale.guaranteed} times {wanted_mib} MiB of a GPU "
                    f"for good, and beside all other promises there is room for {number}"
                )
            left_mib[min(roomy, key=lambda uuid: (left_mib[uuid], uuid))] -= wanted_mib
    return ""


def _suitable(needs: GpuNeeds, gpus: Sequence[GpuStatus], headroom_mib: int = 0) -> frozenset[GpuUuid]:
    beside_mib = headroom_mib if needs.memory_mib else 0
    return frozenset(
        status.gpu.uuid
        for status in gpus
        if fits(needs, status.gpu) and status.gpu.memory_mib - beside_mib >= needs.memory_mib
    )


def nearest(free: Sequence[Gpu], count: int) -> Sequence[Gpu]:
    """Choose among free GPUs that fit: neighbours where several are needed, then the smallest that do."""
    best_fit = sorted(free, key=lambda gpu: (gpu.memory_mib, gpu.index, gpu.uuid))
    return together(best_fit, count, lambda gpu: gpu)

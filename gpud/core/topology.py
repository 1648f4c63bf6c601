"""Which GPUs belong together when a worker takes several?"""

from __future__ import annotations

from enum import IntEnum
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from gpud.core.gpu import Gpu

    T = TypeVar("T")


class Distance(IntEnum):
    """How far apart two GPUs are; the values from `BOARD` to `SYSTEM` are NVML's own."""

    NVLINK = -1
    BOARD = 0
    SWITCH = 10
    SWITCHES = 20
    HOST_BRIDGE = 30
    NODE = 40
    SYSTEM = 50


def distance(one: Gpu, other: Gpu) -> int:
    """How far apart two GPUs are; what the driver does not tell, their NUMA nodes do."""
    if one.mig_parent is not None and one.mig_parent == other.mig_parent:
        return Distance.BOARD
    for near, far in ((one, other), (other, one)):
        for uuid, told in near.near:
            if uuid == far.uuid:
                return told
    known = one.numa_node >= 0 and one.numa_node == other.numa_node
    return Distance.NODE if known else Distance.SYSTEM


def together(
    candidates: Sequence[T], count: int, gpu_of: Callable[[T], Gpu], beside: Sequence[T] = ()
) -> list[T]:
    """Choose neighbours: the least distances between them, then the least memory, then the order.

    Grown from each candidate in turn by the one that is nearest to what is chosen. Where nearness
    comes in groups (links, switches, nodes), the best of these is the best there is.

    Args:
        candidates: In order of preference among equals.
        count: How many to choose.
        gpu_of: The GPU of a candidate.
        beside: Chosen already; counted for nearness and not in the answer.
    """
    if count <= 0:
        return []
    if count == 1 and not beside:
        return [min(candidates, key=lambda each: gpu_of(each).memory_mib)]
    numbered = list(range(len(candidates)))
    fixed = [gpu_of(each) for each in beside]
    gpus = [gpu_of(each) for each in candidates]
    best: tuple[tuple[int, int, tuple[int, ...]], list[int]] | None = None
    for seed in numbered:
        chosen = _grown(gpus, seed, count, fixed)
        cost = (_spread(gpus, chosen, fixed), sum(gpus[i].memory_mib for i in chosen), tuple(chosen))
        if best is None or cost < best[0]:
            best = (cost, chosen)
    return [candidates[i] for i in best[1]] if best is not None else []


def _grown(gpus: Sequence[Gpu], seed: int, count: int, fixed: Sequence[Gpu]) -> list[int]:
    chosen = [seed]
    away = [sum(distance(gpu, other) for other in (*fixed, gpus[seed])) for gpu in gpus]
    left = set(range(len(gpus))) - {seed}
    while len(chosen) < count and left:
        following = min(left, key=lambda i: (away[i], gpus[i].memory_mib, i))
        chosen.append(following)
        left.discard(following)
        for i in left:
            away[i] += distance(gpus[i], gpus[following])
    return sorted(chosen)


def _spread(gpus: Sequence[Gpu], chosen: Sequence[int], fixed: Sequence[Gpu]) -> int:
    inside = sum(distance(gpus[a], gpus[b]) for a, b in combinations(chosen, 2))
    return inside + sum(distance(gpus[i], other) for i in chosen for other in fixed)

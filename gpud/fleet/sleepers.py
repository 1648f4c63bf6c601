"""What is in use on a GPU besides what sleeping workers keep there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from gpud.core.gpu import GpuUse
    from gpud.core.ids import GpuUuid, WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.hands import Hands

_KEEPS = frozenset({WorkerState.SLEEPING, WorkerState.DISCARDING})


async def beyond_sleepers(
    hands: Hands, uses: tuple[GpuUse, ...], *, but: WorkerId | None = None
) -> tuple[GpuUse, ...]:
    """Take the processes of sleeping workers, and the memory that they may keep, out of a reading.

    A worker that sleeps has given its GPUs back and its process still has them open: what it keeps
    (`sleep.vram_mib`) is no reason to take the GPU for one that somebody else uses.

    Args:
        hands: The fleet.
        uses: As read.
        but: A worker whose own use counts; None for nobody's.
    """
    read = []
    for use in uses:
        sleepers = _sleepers_on(hands, use.uuid, but)
        pids, kept_mib = set[int](), 0
        for worker in sleepers:
            pids.update(await hands.runtime.pids(worker.id))
            endpoint = hands.endpoint_of(worker)
            kept_mib += endpoint.spec.sleep.vram_mib if endpoint else 0
        others = tuple(pid for pid in use.pids if pid not in pids)
        read.append(replace(use, pids=others, used_mib=max(0, use.used_mib - kept_mib)) if sleepers else use)
    return tuple(read)


def _sleepers_on(hands: Hands, uuid: GpuUuid, but: WorkerId | None) -> list[Worker]:
    return [
        worker
        for worker in hands.state.workers.values()
        if worker.state in _KEEPS and uuid in worker.gpu_uuids and worker.id != but
    ]

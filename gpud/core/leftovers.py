"""Is what is in use on a GPU its workers', or left behind by somebody who is gone?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpud.core.gpu import GpuUse
    from gpud.core.worker import Worker

_ENDED = frozenset({WorkerState.RELEASING})
_NOT_BEGUN = frozenset({WorkerState.RESERVED})


def users_of(holders: Iterable[Worker]) -> tuple[Worker, ...]:
    """Say whose memory there may be on a GPU.

    A worker for which it is only reserved has no container, so it uses nothing. The memory of one that has
    just ended may take a while to come back.

    Args:
        holders: Workers that have the GPU, or parts of it.
    """
    return tuple(worker for worker in holders if worker.state not in _NOT_BEGUN)


def runs_on(holders: Iterable[Worker]) -> bool:
    """Whether a container of somebody who holds a GPU may run there, or be about to."""
    return any(worker.state not in _ENDED for worker in users_of(holders))


def is_clean(use: GpuUse, holders: Sequence[Worker], *, limit_mib: int) -> bool:
    """Whether nothing is left on a GPU of those who are gone.

    Beside workers that share it, their processes cannot be told from a leftover, and their memory
    is taken to be what they reserve.

    Args:
        use: Of the GPU.
        holders: Workers that have it, or parts of it, but for the one that is leaving.
        limit_mib: What an idle GPU may have in use.
    """
    sharers = [worker.gpu_slice for worker in users_of(holders) if worker.gpu_slice]
    reserved_mib = sum(each.memory_mib for each in sharers)
    return use.used_mib <= reserved_mib + limit_mib and (bool(sharers) or not use.pids)

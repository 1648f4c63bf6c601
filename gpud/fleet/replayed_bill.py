"""Counts the GPU time of a replay as the meter bills it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.core.worker import Worker

_BILLED = frozenset(
    {
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.NOT_READY,
        WorkerState.DRAINING,
        WorkerState.PAUSED,
        WorkerState.DOZING,
        WorkerState.WAKING,
    }
)


class ReplayedBill:
    """Of one endpoint; `gpu_s` is what was billed so far.

    Args:
        gpus: Of each worker.
    """

    def __init__(self, gpus: int) -> None:
        self.gpu_s = 0.0
        self._gpus = gpus
        self._since_s: dict[WorkerId, float] = {}

    def follow(self, worker: Worker, *, now_s: float) -> None:
        """A worker changed its state."""
        if worker.state in _BILLED:
            self._since_s.setdefault(worker.id, now_s)
        elif (since_s := self._since_s.pop(worker.id, None)) is not None:
            self.gpu_s += (now_s - since_s) * self._gpus

    def close(self, *, now_s: float) -> None:
        """Bill everybody up to now."""
        self.gpu_s += sum(now_s - since_s for since_s in self._since_s.values()) * self._gpus
        self._since_s.clear()

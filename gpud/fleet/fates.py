"""What the fleet tells and does about the worker of a job (port `WorkerFates`)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from gpud.core.worker import Cause, WorkerEvent, WorkerState
from gpud.errors import StorageFull

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.reconciler import Reconciler

_ENDING = frozenset({WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.RELEASING, WorkerState.LOST})


class Fates:
    """See the module's text.

    Args:
        reconciler: Owns the workers.
    """

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def worker(self, worker_id: WorkerId) -> Worker | None:
        """The worker as it is now; None when it is gone."""
        return self._reconciler.state.workers.get(worker_id)

    def asked_to_stop(self, worker_id: WorkerId) -> bool:
        """Whether gpud itself is ending the worker."""
        worker = self._reconciler.state.workers.get(worker_id)
        return worker is not None and worker.state in _ENDING and not worker.failed

    def exit_code(self, worker_id: WorkerId) -> int | None:
        """Of its container, as far as known."""
        worker = self._reconciler.state.workers.get(worker_id)
        return None if worker is None else worker.exit_code

    async def recycle(self, worker_id: WorkerId) -> None:
        """Have a worker replaced: what it still computes is of no use. Does nothing when it is gone."""
        if worker_id in self._reconciler.state.workers:
            self._reconciler.post(WorkerEvent(worker_id=worker_id, cause=Cause.OPERATOR))
            with suppress(StorageFull):  # the event stays in line until there is room
                await self._reconciler.change(lambda: None)

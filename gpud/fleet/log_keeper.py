"""Has the output of every container kept, from the start of its worker to the worker's end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.events import event_text
from gpud.core.worker import WorkerState
from gpud.errors import GpudError

if TYPE_CHECKING:
    import asyncio

    from gpud.core.ids import WorkerId
    from gpud.core.records import EventRecorded
    from gpud.fleet.hands import Hands
    from gpud.ports.logs import LogCapture

_HAS_CONTAINER = frozenset(
    {
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.NOT_READY,
        WorkerState.DRAINING,
        WorkerState.STOPPING,
        WorkerState.FAILED,
        WorkerState.LOST,
    }
)
_SAID_ELSEWHERE = frozenset({"worker.log_kept"})
"""Events that repeat what the log holds already."""


class LogKeeper:
    """Level-triggered: in each round it compares whose output is kept with whose should be.

    Args:
        hands: Of the fleet.
        capture: Keeps it.
        tasks: Owns the questions for secrets.
    """

    def __init__(self, hands: Hands, capture: LogCapture, tasks: asyncio.TaskGroup) -> None:
        self._hands = hands
        self._capture = capture
        self._tasks = tasks
        self._begun: set[str] = set()
        self._named: set[str] = set()

    def observe(self, _now_s: float) -> None:
        """Begin with workers that have a container, and end with those that are gone."""
        workers = self._hands.state.workers
        for worker in workers.values():
            if worker.id not in self._begun and worker.state in _HAS_CONTAINER:
                self._begun.add(worker.id)
                self._named.add(worker.id)
                self._tasks.create_task(self._begin(worker.id), name=f"log_secrets:{worker.id}")
        for worker_id in [known for known in self._named if known not in workers]:
            self._named.discard(worker_id)
            self._begun.discard(worker_id)
            self._capture.end(worker_id)

    def note(self, event: EventRecorded) -> None:
        """Put what happened to a worker among its output."""
        if event.worker_id and event.endpoint and event.kind not in _SAID_ELSEWHERE:
            self._named.add(event.worker_id)
            text = event_text(event.kind, event.facts)
            self._capture.note(event.worker_id, event.endpoint, at_ms=event.at_ms, text=text)

    async def _begin(self, worker_id: WorkerId) -> None:
        try:
            secrets = await self._hands.secrets_of(worker_id)
        except GpudError:
            self._begun.discard(worker_id)  # the next round tries again
            return
        worker = self._hands.state.workers.get(worker_id)
        if worker is not None:
            self._capture.begin(worker.id, worker.endpoint, secrets)

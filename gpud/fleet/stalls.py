"""Looks now and then at what a starting worker does, so that a start that hangs is told from a slow one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.stalls import look_every_s, progressed
from gpud.errors import DependencyDown

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.core.stalls import Activity
    from gpud.fleet.hands import Hands


class StallWatch:
    """The looks at one starting worker.

    Args:
        hands: Of the fleet.
        worker_id: Whom to look at.
        timeout_s: Its `health.stall_timeout_s`; 0 for no looks.
    """

    def __init__(self, hands: Hands, worker_id: WorkerId, timeout_s: float) -> None:
        self._hands = hands
        self._worker_id = worker_id
        self._every_s = look_every_s(timeout_s) if timeout_s else float("inf")
        self._due_s = hands.clock.now_s() + self._every_s / 2

    async def look(self, phase: str) -> None:
        """Look if it is time to, and tell the reconciler what was seen.

        Args:
            phase: What the worker's probe came to, in words.
        """
        if self._hands.clock.now_s() < self._due_s:
            return
        try:
            activity = await self._hands.runtime.activity(self._worker_id)
        except DependencyDown:
            activity = None
        self._due_s = self._hands.clock.now_s() + self._every_s
        if activity is not None:
            self._tell(replace(activity, phase=phase))

    def _tell(self, activity: Activity) -> None:
        state, worker_id, now_s = self._hands.state, self._worker_id, self._hands.clock.now_s()

        def apply() -> None:
            if worker_id in state.workers:
                before = state.progress.get(worker_id)
                state.progress[worker_id] = progressed(before, activity, now_s=now_s)

        self._hands.reconciler.tell(apply)

"""An event loop in virtual time: it jumps to its next timer, and runs what is ready in a seeded order."""

from __future__ import annotations

import asyncio
import heapq
import random
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_STEPS_AT_ONCE_MAX = 200_000
"""Steps without any time passing after which a simulation is taken to be stuck."""
_NUDGE_AFTER = 1_000
_NUDGE_S = 1e-6
"""Time passes on a real machine even while it is busy; so it does here, but not in short runs,
whose durations tests know to the millisecond."""


class SimulationStuckError(AssertionError):
    """Something goes round without ever waiting, or waits for what never comes."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: nothing but timers happens in a simulation."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise SimulationStuckError("Nothing is ready and no timer is set: what is awaited never comes.")
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """Virtual time, seeded order of callbacks.

    Args:
        seed: Of the order.
        shuffle: False keeps asyncio's own order, first come first served.

    Attributes:
        on_step: Called after every turn of the loop.
        steps: Turns so far.
    """

    _ready: Any
    _scheduled: Any
    _timer_cancelled_count: int

    def __init__(self, seed: int = 0, *, shuffle: bool = True) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector())
        self._random = random.Random(f"{seed}:loop")
        self._shuffle = shuffle
        self._steps_at_once = 0
        self.steps = 0
        self.on_step: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        ready = self._ready
        if self._shuffle and len(ready) > 1:
            handles = list(ready)
            self._random.shuffle(handles)
            ready.clear()
            ready.extend(handles)
        if not ready:
            self._jump()
        self._count()
        super()._run_once()  # type: ignore[misc] # private, and guarded by the loop's own tests
        self.on_step()

    def _jump(self) -> None:
        """Go to the next timer that somebody still waits for."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if scheduled and scheduled[0]._when > self._now_s:
            self._now_s = scheduled[0]._when
            self._steps_at_once = 0

    def _count(self) -> None:
        self.steps += 1
        self._steps_at_once += 1
        if self._steps_at_once > _NUDGE_AFTER:
            self._now_s += _NUDGE_S
        if self._steps_at_once > _STEPS_AT_ONCE_MAX:
            self._steps_at_once = 0
            raise SimulationStuckError(f"{_STEPS_AT_ONCE_MAX} turns at {self._now_s} s and no end.")

"""How late does the event loop run what is due? Whoever holds it longer than that delays every request."""

from __future__ import annotations

import asyncio
from collections import deque

BEAT_S = 0.1
"""How often the loop is asked. uvloop's timers count whole milliseconds, so less than one shows as none."""
BEATS_KEPT = 600
"""The worst is told of the last minute."""


class LoopLag:
    """Asks to be called after a while, again and again, and sees how much later it is called."""

    def __init__(self) -> None:
        self.last_s = 0.0
        """How late the last call was."""
        self._lags_s: deque[float] = deque(maxlen=BEATS_KEPT)
        self._beat: asyncio.TimerHandle | None = None

    @property
    def worst_s(self) -> float:
        """How late the latest call of the last minute was."""
        return max(self._lags_s, default=0.0)

    def start(self) -> None:
        """Begin to measure."""
        loop = asyncio.get_running_loop()
        self._beat = loop.call_later(BEAT_S, self._note, loop, loop.time() + BEAT_S)

    def stop(self) -> None:
        """Measure no more."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def _note(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        self.last_s = max(0.0, loop.time() - due_s)
        self._lags_s.append(self.last_s)
        self._beat = loop.call_later(BEAT_S, self._note, loop, loop.time() + BEAT_S)

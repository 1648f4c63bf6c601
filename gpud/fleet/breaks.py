"""Breaks in long work, so that nobody on the event loop waits for the whole of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from gpud.core.pieces import Pieces

T = TypeVar("T")

_EVERY_S = 0.0005
"""With the longest piece after it, that is well below the 2 ms for which anything may hold the loop."""


class Breaks:
    """When one task's work is interrupted.

    Args:
        every_s: Work this long is followed by a break, as soon as the piece at hand is done.
    """

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self._since_s = 0.0

    def begin(self) -> None:
        """Work begins, or goes on after something was awaited."""
        self._since_s = time.perf_counter()

    def due(self) -> bool:
        """Whether it has lasted long enough."""
        return time.perf_counter() - self._since_s >= self._every_s

    async def rest(self) -> None:
        """Let everybody else who is ready have a turn, if a break is due."""
        if self.due():
            await self._break()

    async def through(self, pieces: Pieces[T]) -> T:
        """Do all pieces, with breaks between them."""
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                answer: T = end.value
                await self.rest()
                return answer
            if self.due():
                await self._break()

    async def _break(self) -> None:
        await asyncio.sleep(0)
        self.begin()

"""Trying other settings on what was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.whatif import Outcome, WhatIf


class Simulator(Protocol):
    """Replays records; a second of work or some, which nobody else may feel."""

    async def replay(self, question: WhatIf) -> tuple[Outcome, ...]:
        """Say what each of the question's endpoints would have come to.

        Raises:
            Unavailable: It takes too long; a shorter period does not.
        """
        ...

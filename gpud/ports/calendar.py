"""When cron expressions come due, by the wall clock of a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.windows import WarmWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpan:
    """Where a moment lies in a window's comings and goings.

    Args:
        is_open: The moment is within the window.
        edge_ms: Unix wall time of its next opening or closing; None when it never opens again.
    """

    is_open: bool
    edge_ms: int | None


class Calendar(Protocol):
    """Cron expressions and time zones; pure, and fast enough for the event loop."""

    def faults(self, window: WarmWindow) -> dict[str, str]:
        """Say what is wrong with a window's expressions and zone, by field; empty when it is usable."""
        ...

    def span(self, window: WarmWindow, at_ms: int) -> WindowSpan:
        """Look at a usable window at a moment of Unix wall time."""
        ...

"""Warm windows: hours in which an endpoint keeps workers though nobody calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WINDOWS_MAX = 50
_TEXT_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmWindow:
    """One window that comes again and again.

    Args:
        start: Cron expression of its beginning.
        duration_s: How long it lasts, in time that passes; 0 where `end` says when it ends.
        end: Cron expression of its end; empty where it has a duration.
        time_zone: Of both expressions, by its IANA name.
        workers: Kept while it lasts.
    """

    start: str
    duration_s: float = 0.0
    end: str = ""
    time_zone: str = "UTC"
    workers: int = 1

    def __str__(self) -> str:
        """The window in a few words."""
        until = f"to {self.end}" if self.end else f"for {self.duration_s:g} s"
        return f"{self.start} {until} ({self.time_zone})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWindow:
    """What an endpoint's windows ask for at one moment.

    Args:
        window: The one that asks for most; None while none is open.
        edge_s: Loop time at which a window opens or closes next; None when none ever does.
    """

    window: WarmWindow | None = None
    edge_s: float | None = None

    @property
    def workers(self) -> int:
        """Kept now."""
        return self.window.workers if self.window else 0


NO_WINDOW = OpenWindow()


def require_windows(
    windows: Iterable[WarmWindow], require: Callable[[bool, str, str], None], *, max_workers: int
) -> None:
    """Say what makes windows unusable, apart from their expressions and zones, which need a calendar.

    Args:
        windows: Of one endpoint.
        require: Told of each rule: whether it holds, the field, and what would be right.
        max_workers: Of the endpoint; 0 pauses it, and asks nothing of its windows.
    """
    windows = tuple(windows)
    require(len(windows) <= WINDOWS_MAX, "scale.warm_windows", f"must be at most {WINDOWS_MAX}")
    for number, window in enumerate(windows):
        path = f"scale.warm_windows.{number}"
        require(0 < len(window.start) <= _TEXT_MAX, f"{path}.start", "must be a cron expression")
        require(len(window.end) <= _TEXT_MAX, f"{path}.end", "must be a cron expression, or empty")
        require(0 <= window.duration_s <= 604_800, f"{path}.duration_s", "must be 0 to 604800 (7 days)")
        both = bool(window.end) == bool(window.duration_s)
        require(not both, f"{path}.duration_s", "must be above 0, or `end` given: one of the two")
        most = max_workers or 1000
        require(1 <= window.workers <= most, f"{path}.workers", "must be 1 to max_workers")

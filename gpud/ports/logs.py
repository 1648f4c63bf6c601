"""What the fleet and the API need from whoever keeps the workers' output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gpud.core.log_cursor import LogCursor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.log_lines import LogLine, LogStream


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCounts:
    """What was kept of a worker's output, and what was not, since the daemon's start.

    Args:
        dropped_lines: Left out because they came faster than allowed.
        gaps: How often the engine rotated its file away before it was read.
    """

    lines: int = 0
    bytes: int = 0
    dropped_lines: int = 0
    dropped_bytes: int = 0
    gaps: int = 0

    @property
    def all_lines(self) -> int:
        """Lines that were read, whatever became of them."""
        return self.lines + self.dropped_lines


class LogCapture(Protocol):
    """Keeps what workers write. Everything but `finish` returns at once and never fails."""

    def begin(self, worker_id: str, endpoint: str, secrets: Sequence[str]) -> None:
        """Keep the output of a worker's container, from its first byte; safe to repeat."""
        ...

    def note(self, worker_id: str, endpoint: str, *, at_ms: int, text: str) -> None:
        """Put gpud's own words about a worker among its output."""
        ...

    async def finish(self, worker_id: str) -> bool:
        """Wait until all that an ended container wrote is kept; False when that took too long."""
        ...

    def end(self, worker_id: str) -> None:
        """Nothing more will come of a worker."""
        ...

    def counts(self) -> Mapping[str, LogCounts]:
        """By worker, those that have ended lately included."""
        ...


class NoLogCapture:
    """Keeps nothing: logs are turned off, or a simulation runs."""

    def begin(self, worker_id: str, endpoint: str, secrets: Sequence[str]) -> None:
        """Nothing."""

    def note(self, worker_id: str, endpoint: str, *, at_ms: int, text: str) -> None:
        """Nothing."""

    async def finish(self, worker_id: str) -> bool:  # noqa: ARG002 - the port's
        """There is nothing to wait for."""
        return True

    def end(self, worker_id: str) -> None:
        """Nothing."""

    def counts(self) -> Mapping[str, LogCounts]:
        """None."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWindow:
    """A worker, and a part of its time.

    Args:
        since_ns: Unix nanoseconds; 0 for its beginning.
        until_ns: Unix nanoseconds; 0 for its end.
    """

    worker_id: str
    since_ns: int = 0
    until_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which lines are asked for.

    Args:
        endpoint: Those of its workers; empty for all.
        windows: Only of these workers; empty for all.
        streams: Only these; empty for all.
        since_ns: Unix nanoseconds; 0 for the beginning.
        until_ns: Unix nanoseconds; 0 for the end.
        grep: Text a line must hold; empty for any.
        ignore_case: For `grep` and `regex`.
        regex: Expression of RE2 that must be found in a line; empty for any.
        cursor: Lines after it, oldest first; None for the last ones.
        limit: Most lines.
        live: Workers of which more may come.
        previous: Only workers that are not live.
        current: Only workers that are live.
    """

    endpoint: str = ""
    windows: tuple[LogWindow, ...] = ()
    streams: frozenset[LogStream] = frozenset()
    since_ns: int = 0
    until_ns: int = 0
    grep: str = ""
    ignore_case: bool = False
    regex: str = ""
    cursor: LogCursor | None = None
    limit: int = 200
    live: frozenset[str] = frozenset()
    previous: bool = False
    current: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLine:
    """A line, and whose it is.

    Args:
        cursor: To go on right after it.
    """

    endpoint: str
    worker_id: str
    line: LogLine
    cursor: LogCursor


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """An answer.

    Args:
        lines: In order of time.
        cursor: To go on where this ended, when more has come.
        complete: Nothing more is there now; otherwise the cursor leads to the rest.
        lost_bytes: Deleted between the cursor given and the first line here.
    """

    lines: tuple[FoundLine, ...]
    cursor: LogCursor = field(default_factory=LogCursor)
    complete: bool = True
    lost_bytes: int = 0


class LogArchive(Protocol):
    """Answers questions about what was kept."""

    async def read(self, query: LogQuery) -> LogPage:
        """Find lines.

        Raises:
            InvalidRequest: The regular expression cannot be used.
        """
        ...

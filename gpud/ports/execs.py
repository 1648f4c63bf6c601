"""Running commands inside workers, for somebody who is connected."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId


class OutputStream(IntEnum):
    """Where a piece of output was written; with a terminal all of it is STDOUT."""

    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """What is to be run.

    Args:
        command: A program and its arguments; no shell reads them.
        tty: Give it a terminal of its own.
        rows: Height of that terminal.
        cols: Width of that terminal.
    """

    command: tuple[str, ...]
    tty: bool
    rows: int = 24
    cols: int = 80


class Exec(Protocol):
    """A command that was started; whoever opened it ends it."""

    async def read(self) -> tuple[OutputStream, bytes] | None:
        """The next piece of its output; None after the last."""
        ...

    async def write(self, data: bytes) -> None:
        """Type something; waits until there is room for it. A command that ended takes anything."""
        ...

    async def write_eof(self) -> None:
        """Say that no more will be typed."""
        ...

    async def resize(self, rows: int, cols: int) -> None:
        """Change the size of its terminal; one that ended has none."""
        ...

    async def exit_code(self) -> int | None:
        """How the command ended, once its output has; None when that is not known, as its worker ended."""
        ...

    async def close(self) -> bool:
        """End what still runs of it: hang up, then kill. Safe to repeat.

        Returns:
            Whether it has ended; a process that left the session on purpose is not counted.
        """
        ...


class ExecRunner(Protocol):
    """Starts commands inside the containers of live workers."""

    async def open(self, worker_id: WorkerId, request: ExecRequest) -> Exec:
        """Start a command.

        Raises:
            Conflict: The worker's container does not run, or is frozen.
            CommandNotStarted: The container has no such program, or may not run it.
            DependencyDown: The engine does not answer.
        """
        ...

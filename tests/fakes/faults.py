"""What may go wrong with one call of a fake, decided by a test or by a seeded source."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.errors import DependencyDown, GpudError

if TYPE_CHECKING:
    from collections.abc import Callable


class FaultKind(StrEnum):
    """Where in a call it goes wrong.

    HALFWAY is for calls of two steps (create, then start): the first is done, the second is not.
    A hanging call fails when its time limit is over; HANG_AFTER has done its work by then.
    """

    ERROR_BEFORE = "error_before"
    ERROR_AFTER = "error_after"
    HALFWAY = "halfway"
    DELAY = "delay"
    HANG_BEFORE = "hang_before"
    HANG_AFTER = "hang_after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault; `delay_s` comes on top of the call's own time."""

    kind: FaultKind
    delay_s: float = 0.0
    error: GpudError | None = None

    def raised(self) -> GpudError:
        """The error that the caller sees."""
        return self.error or DependencyDown("The engine's answer was lost.")


class Faults:
    """Faults of one fake: those a test has put in line for a call, else what `source` says.

    Attributes:
        source: Asked for each call by name; None for a world without chance.
    """

    def __init__(self) -> None:
        self.source: Callable[[str], Fault | None] | None = None
        self._in_line: defaultdict[str, deque[Fault]] = defaultdict(deque)

    def inject(self, call: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next calls of that name go wrong."""
        self._in_line[call].extend([fault] * times)

    def next_for(self, call: str) -> Fault | None:
        """Take the fault of a call that begins now."""
        if self._in_line[call]:
            return self._in_line[call].popleft()
        return self.source(call) if self.source else None

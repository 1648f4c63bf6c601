"""How far a reader has come in the logs of several workers: a cursor that survives restarts of both."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LOGS_MAX = 1000
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_NUMBER = re.compile(r"[0-9a-z]{1,12}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogExtent:
    """One worker's log as it is now.

    Args:
        number: Orders logs by when they began; a later one has a larger number.
        start: Of the first byte still kept, counted from the log's very first.
        end: Behind its last byte.
        live: More may come.
    """

    number: int
    start: int
    end: int
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCursor:
    """Where to go on.

    Args:
        floor: Every log with a smaller number has been read to its end, or was not asked for.
        positions: Of logs from the floor on: the first byte not yet read. Others begin at their start.
    """

    floor: int = 0
    positions: Mapping[int, int] = field(default_factory=dict)

    def position(self, log: LogExtent) -> int:
        """The next byte to read of a log; its end when there is none."""
        if log.number < self.floor:
            return log.end
        return min(max(self.positions.get(log.number, 0), log.start), log.end)

    def lost(self, log: LogExtent) -> int:
        """Bytes of a log that were deleted before they were read."""
        if log.number < self.floor or log.number not in self.positions:
            return 0
        return max(log.start - self.positions[log.number], 0)

    def advanced(self, number: int, position: int) -> Self:
        """The cursor after reading a log up to a position; never goes back."""
        if number < self.floor:
            return self
        further = max(position, self.positions.get(number, 0))
        return type(self)(floor=self.floor, positions={**self.positions, number: further})

    def settled(self, logs: Iterable[LogExtent]) -> Self:
        """The same cursor in fewer words: logs that are over and read need no position.

        Args:
            logs: Every log the reader asked for, that there is.
        """
        floor = self.floor
        known = sorted(logs, key=lambda log: log.number)
        for log in known:
            if log.number < floor:
                continue
            if log.live or self.position(log) < log.end:
                break
            floor = log.number + 1
        there = {log.number for log in known}
        kept = {n: p for n, p in self.positions.items() if n >= floor and n in there}
        return type(self)(floor=floor, positions=kept)

    def spelled(self) -> str:
        """The cursor as text, to hand out."""
        at = sorted(self.positions.items())
        return ".".join([_short(self.floor), *(f"{_short(n - self.floor)}-{_short(p)}" for n, p in at)])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a cursor; an empty text is the very beginning.

        Raises:
            ValueError: It is none of ours.
        """
        if not text:
            return cls()
        first, *parts = text.split(".")
        if len(parts) > _LOGS_MAX:
            raise ValueError("too many logs in one cursor")
        pairs = [part.partition("-") for part in parts]
        floor = _whole(first)
        return cls(floor=floor, positions={floor + _whole(n): _whole(p) for n, _, p in pairs})


def _short(number: int) -> str:
    """Spell a whole number in few characters, all of which may stand in a URL."""
    digits = ""
    while number >= len(_DIGITS):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return _DIGITS[number] + digits


def _whole(text: str) -> int:
    if not _NUMBER.match(text):
        raise ValueError(f"not a whole number: {text[:20]!r}")
    return int(text, len(_DIGITS))

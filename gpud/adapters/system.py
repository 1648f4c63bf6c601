"""The real clocks, and ids from the system's random source."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FRACTION_BITS = 53
_ID_LETTERS = 16
_IDS_A_DRAW = 64
_LETTER_OF = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""Five bits of each random byte, as a letter."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self.boot_id = _BOOT_ID.read_text(encoding="ascii").strip()

    def now_s(self) -> float:
        """Read the running loop's own time, so that timeouts and our arithmetic agree.

        uvloop counts whole milliseconds and keeps one value for a turn of the loop.
        """
        return asyncio.get_running_loop().time()

    def at_ms(self) -> int:
        """Read the wall clock in milliseconds."""
        return time.time_ns() // 1_000_000

    def wall_ns(self) -> int:
        """Read the wall clock in nanoseconds."""
        return time.time_ns()

    def boot_ns(self) -> int:
        """Read the time since boot, suspended time included, in nanoseconds."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SystemIds:
    """Ids nobody can guess, so that one may appear where a key must not."""

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def new_id(self, prefix: str) -> str:
        """Make `<prefix>_` and 16 base32 characters: 80 random bits."""
        if not self._drawn:  # many at a time: a request's id costs a tenth then
            letters = secrets.token_bytes(_ID_LETTERS * _IDS_A_DRAW).translate(_LETTER_OF).decode("ascii")
            self._drawn = [letters[at : at + _ID_LETTERS] for at in range(0, len(letters), _ID_LETTERS)]
        return f"{prefix}_{self._drawn.pop()}"

    def fraction(self) -> float:
        """Draw a number in [0, 1)."""
        return secrets.randbits(_FRACTION_BITS) / (1 << _FRACTION_BITS)

"""Clocks and ids that a test or a simulation steers, over the time of the running loop."""

from __future__ import annotations

import asyncio
import random

_NS = 1_000_000_000
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class FakeClock:
    """The three clocks, all driven by the running loop's time.

    Args:
        boot_id: Of the first boot.
        wall_start_ns: Wall time when the loop's time is 0; the default is in November 2023.
    """

    def __init__(self, *, boot_id: str = "boot-1", wall_start_ns: int = 1_700_000_000 * _NS) -> None:
        self.boot_id = boot_id
        self._wall_offset_ns = wall_start_ns
        self._booted_ns = 0

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def at_ms(self) -> int:
        return self.wall_ns() // 1_000_000

    def wall_ns(self) -> int:
        return self._wall_offset_ns + _loop_ns()

    def boot_ns(self) -> int:
        return _loop_ns() - self._booted_ns

    def step_wall(self, by_s: float) -> None:
        """The wall clock jumps, as when an operator or a first NTP answer sets it."""
        self._wall_offset_ns += round(by_s * _NS)

    def reboot(self, boot_id: str) -> None:
        """The machine starts anew: another boot id, and boot time from 0."""
        self.boot_id = boot_id
        self._booted_ns = _loop_ns()


def _loop_ns() -> int:
    return round(asyncio.get_running_loop().time() * _NS)


class SeededIds:
    """Ids and jitter that repeat with their seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{''.join(self._random.choices(_ALPHABET, k=16))}"

    def fraction(self) -> float:
        return self._random.random()

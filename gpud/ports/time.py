"""The clocks, and where ids come from."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The three clocks: decisions, labels, and the meter."""

    boot_id: str

    def now_s(self) -> float:
        """Monotonic seconds; the event loop's own time."""
        ...

    def at_ms(self) -> int:
        """Unix wall time in milliseconds, for rows, logs and the API only."""
        ...

    def wall_ns(self) -> int:
        """Unix wall time in nanoseconds, to convert the engine's timestamps only."""
        ...

    def boot_ns(self) -> int:
        """CLOCK_BOOTTIME in nanoseconds; with `boot_id` it survives this process."""
        ...


class IdSource(Protocol):
    """Where new ids and jitter come from, so that a simulation repeats."""

    def new_id(self, prefix: str) -> str:
        """Make `<prefix>_` and 16 base32 characters."""
        ...

    def fraction(self) -> float:
        """A number in [0, 1), for jitter."""
        ...

"""How far is the wall clock ahead of CLOCK_BOOTTIME?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.ports.time import Clock

_READING_TRUSTED_NS = 20_000
_READINGS_MAX = 8


def wall_ahead_ns(clock: Clock) -> int:
    """How far the wall clock is ahead of CLOCK_BOOTTIME.

    The two are read one after the other, and on a busy machine this process may sleep for
    milliseconds between them: the wall clock is read between two reads of the other, and the
    closest of several such readings counts.
    """
    best_ns, width_ns = 0, _READING_TRUSTED_NS + 1
    for attempt in range(_READINGS_MAX):
        before_ns, wall_ns, after_ns = clock.boot_ns(), clock.wall_ns(), clock.boot_ns()
        if attempt == 0 or after_ns - before_ns < width_ns:
            width_ns = after_ns - before_ns
            best_ns = wall_ns - before_ns - width_ns // 2
        if width_ns <= _READING_TRUSTED_NS:
            break
    return best_ns

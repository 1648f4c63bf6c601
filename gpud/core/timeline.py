"""What time is it for jobs? A count of milliseconds that no step of the wall clock moves.

Within a boot it follows CLOCK_BOOTTIME from one written anchor, over restarts of the daemon too. After a
reboot it goes on from the wall clock, and never backwards. It starts as Unix time, and is shown as such.
"""

from __future__ import annotations

from dataclasses import dataclass

_MS_NS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One moment on the boot clock and on the job timeline; written once a boot."""

    boot_id: str
    boot_ns: int
    at_ms: int

    def now_ms(self, boot_ns: int) -> int:
        """The job timeline at a moment of the same boot's clock."""
        return self.at_ms + (boot_ns - self.boot_ns) // _MS_NS


def anchored(known: Anchor | None, *, boot_id: str, boot_ns: int, wall_ms: int, newest_ms: int = 0) -> Anchor:
    """The anchor of this boot.

    Args:
        known: The one that is written, of this boot or an earlier one.
        boot_id: This boot's.
        boot_ns: Now.
        wall_ms: Now.
        newest_ms: Latest moment any row tells of; time does not fall behind it.
    """
    if known is not None and known.boot_id == boot_id:
        return known
    before_ms = max(newest_ms, known.at_ms if known else 0)
    return Anchor(boot_id=boot_id, boot_ns=boot_ns, at_ms=max(wall_ms, before_ms))

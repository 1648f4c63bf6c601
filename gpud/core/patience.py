"""How long does load that has ended keep workers?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.endpoint import ScalePolicy

AUTO_MIN_S = 30.0
AUTO_MAX_S = 600.0


def patience_s(scale: ScalePolicy, cold_start_s: float) -> float:
    """The idle timeout in force.

    An automatic one is as long as a cold start: who waits that long before paying for the next
    start pays at most twice what somebody who knew the next arrival would have paid.
    """
    if not scale.idle_timeout_auto:
        return scale.idle_timeout_s
    return min(max(cold_start_s, AUTO_MIN_S), AUTO_MAX_S)


def last_patience_s(scale: ScalePolicy, cold_start_s: float) -> float:
    """The idle timeout of the last worker."""
    return scale.scale_to_zero_delay_s or patience_s(scale, cold_start_s)

"""How long does coming back from a rung take, by what was measured, or else by the order of its size?"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from gpud.core.standby import Rung

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT_MAX = 20
"""Times that are remembered of each rung."""

_MEASURED_LEAST = 3
_ORDER_S: Mapping[Rung, float] = {
    Rung.PAUSED: 0.001,
    Rung.PARKED: 0.002,
    Rung.CREATED: 0.16,
    Rung.SLEEPING: 2.0,
}
"""Measured with the engine and told by makers of inference engines; before an application's own start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeTimes:
    """Of one endpoint's revision, by rung, in seconds, oldest first.

    Args:
        revision: Whose they are: another one's say nothing about this.
    """

    revision: str = ""
    seconds: Mapping[Rung, tuple[float, ...]] = field(default_factory=dict)

    def noted(self, revision: str, rung: Rung, took_s: float) -> WakeTimes:
        """With one more."""
        before = self.seconds if revision == self.revision else {}
        times = (*before.get(rung, ()), took_s)[-KEPT_MAX:]
        return WakeTimes(revision=revision, seconds={**before, rung: times})

    def usual_s(self, rung: Rung) -> float:
        """The median of what was measured, once that says something; until then the order of size."""
        times = self.seconds.get(rung, ())
        return median(times) if len(times) >= _MEASURED_LEAST else _ORDER_S[rung]


UNMEASURED = WakeTimes()

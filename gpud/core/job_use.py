"""A job's part of a worker's time as GPU time and money."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.gpu import WHOLE_PPM
from gpud.core.metering import half_even
from gpud.core.usage import HOUR_NS

if TYPE_CHECKING:
    from collections.abc import Sequence


def gpu_ns(ns: int, *, gpus: int, share_ppm: int) -> int:
    """Time on so many GPUs, a slice as the part of one that it is; rounded down."""
    return ns * gpus * share_ppm // WHOLE_PPM


def cost_micros(ns: int, *, prices_micros: Sequence[int], share_ppm: int) -> int:
    """What the time costs at these prices of an hour of each GPU, rounded half to even once."""
    return half_even(ns * share_ppm * sum(prices_micros), HOUR_NS * WHOLE_PPM)

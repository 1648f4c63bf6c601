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


def cold_start_ms(created_ms: int, started_ms: int, *, asked_ms: int | None, ready_ms: int | None) -> int:
    """How much of a job's wait its worker was being started; all in Unix milliseconds.

    Args:
        created_ms: When the job was made.
        started_ms: When it was handed to the worker.
        asked_ms: When the worker was wanted; None where that is not known.
        ready_ms: When it first served; None where that is not known, as of one that never did.
    """
    if asked_ms is None:
        return 0
    until_ms = started_ms if ready_ms is None else min(started_ms, ready_ms)
    return max(0, until_ms - max(created_ms, asked_ms))


def cost_micros(ns: int, *, prices_micros: Sequence[int], share_ppm: int) -> int:
    """What the time costs at these prices of an hour of each GPU, rounded half to even once."""
    return half_even(ns * share_ppm * sum(prices_micros), HOUR_NS * WHOLE_PPM)

"""When will somebody call again? A histogram of idle gaps, and what acting on it would have cost and saved.

The rule is the hybrid histogram policy of "Serverless in the Wild" (USENIX ATC 2020): let go of an idle
worker at once, have one ready when the fifth percentile of past gaps has passed, keep it until the 99th.
It acts on nothing here. It runs in the shadow of what really happens and keeps the books of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BIN_S = 60.0
BINS = 240
"""Four hours; longer gaps are counted and not told apart."""
SAMPLES_MIN = 20

_EARLY, _LATE, _NEARLY_ALL = 0.05, 0.99, 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class GapHistogram:
    """How long nobody called, between two stretches of load.

    Args:
        counts: Gaps by whole minutes, trailing zeros left out.
        longer: Gaps beyond the last bin.
    """

    counts: tuple[int, ...] = ()
    longer: int = 0

    @property
    def samples(self) -> int:
        """All gaps."""
        return sum(self.counts) + self.longer

    def observed(self, gap_s: float) -> GapHistogram:
        """Add one gap."""
        number = int(gap_s // BIN_S)
        if number >= BINS:
            return replace(self, longer=self.longer + 1)
        counts = [*self.counts, *[0] * (number + 1 - len(self.counts))]
        counts[number] += 1
        return replace(self, counts=tuple(counts))

    def percentile_bin(self, share: float) -> int:
        """The bin within which `share` of all gaps have ended; `BINS` when that lies beyond."""
        wanted, seen = max(1, math.ceil(share * self.samples)), 0
        for number, count in enumerate(self.counts):
            seen += count
            if seen >= wanted:
                return number
        return BINS


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the histogram says of the gap that begins.

    Args:
        from_s: A worker should be ready this long after the last request; 0 keeps the present one.
        until_s: After this long it may go.
    """

    from_s: float
    until_s: float


def forecast(gaps: GapHistogram) -> Forecast | None:
    """Predict the next gap; None while the past says too little.

    It says enough with 20 gaps, of which 99 in a hundred are within the histogram, and which lie close
    together: from the 5th to the 95th percentile no further than the median itself (and a bin each way).
    """
    if gaps.samples < SAMPLES_MIN:
        return None
    early, late = gaps.percentile_bin(_EARLY), gaps.percentile_bin(_LATE)
    if late >= BINS or gaps.percentile_bin(_NEARLY_ALL) - early > gaps.percentile_bin(0.5) + 1:
        return None
    return Forecast(from_s=early * BIN_S, until_s=(late + 1) * BIN_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What acting on forecasts would have come to, beside what came to pass.

    Args:
        forecasts: Gaps for which there was a forecast.
        hits: Of these, gaps that ended while a worker would have been warm.
        cold_starts_saved: Gaps that ended in a cold start and would not have.
        cold_starts_added: The other way round.
        gpu_s_cost: GPU-seconds it would have held where really none were held.
        gpu_s_saved: GPU-seconds really held that it would not have.
    """

    forecasts: int = 0
    hits: int = 0
    cold_starts_saved: int = 0
    cold_starts_added: int = 0
    gpu_s_cost: float = 0.0
    gpu_s_saved: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is known of an endpoint's gaps, and the books of acting on it."""

    gaps: GapHistogram = GapHistogram()
    shadow: Shadow = Shadow()


def gap_ended(
    prediction: Prediction, gap_s: float, *, kept_s: float, gpus: int, cold_start_s: float
) -> Prediction:
    """Somebody called again: book what the forecast made at the gap's beginning would have done.

    Args:
        prediction: From before the gap.
        gap_s: How long nobody called.
        kept_s: For how long of it a worker really was kept; the whole gap when one was there at its end.
        gpus: Of one worker.
        cold_start_s: Usual time of a start.
    """
    told = forecast(prediction.gaps)
    gaps = prediction.gaps.observed(gap_s)
    if told is None:
        return replace(prediction, gaps=gaps)
    was_warm, shadow = kept_s >= gap_s, prediction.shadow
    stays = told.from_s <= cold_start_s  # it would have to start again before it had ended
    starts_s = 0.0 if stays else told.from_s - cold_start_s
    warm = (stays or gap_s >= told.from_s) and gap_s <= told.until_s
    held_s = max(0.0, min(gap_s, told.until_s) - starts_s)
    overlap_s = max(0.0, min(kept_s, gap_s, told.until_s) - starts_s)
    shadow = replace(
        shadow,
        forecasts=shadow.forecasts + 1,
        hits=shadow.hits + warm,
        cold_starts_saved=shadow.cold_starts_saved + (warm and not was_warm),
        cold_starts_added=shadow.cold_starts_added + (was_warm and not warm),
        gpu_s_cost=shadow.gpu_s_cost + gpus * (held_s - overlap_s),
        gpu_s_saved=shadow.gpu_s_saved + gpus * (min(kept_s, gap_s) - overlap_s),
    )
    return Prediction(gaps=gaps, shadow=shadow)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.prediction import (
    BINS,
    SAMPLES_MIN,
    Forecast,
    GapHistogram,
    Prediction,
    Shadow,
    forecast,
    gap_ended,
)


def _gaps(*gaps_s: float) -> GapHistogram:
    histogram = GapHistogram()
    for gap_s in gaps_s:
        histogram = histogram.observed(gap_s)
    return histogram


def _hourly(samples: int = 30) -> GapHistogram:
    """A call each hour, give or take a minute or two."""
    return _gaps(*(3600.0 + 60.0 * (number % 5 - 2) for number in range(samples)))


@given(st.lists(st.floats(0, 40_000), max_size=60), st.floats(0.01, 1.0))
def test_a_percentile_is_the_bin_in_which_that_share_has_ended(gaps_s: list[float], share: float) -> None:
    histogram = _gaps(*gaps_s)
    assert histogram.samples == len(gaps_s)
    if gaps_s:
        found = histogram.percentile_bin(share)
        ended = sum(min(int(gap_s // 60), BINS) <= found for gap_s in gaps_s)
        assert ended >= share * len(gaps_s) - 1e-9
        before = sum(min(int(gap_s // 60), BINS) < found for gap_s in gaps_s)
        assert before < max(1, share * len(gaps_s))


def test_regular_calls_are_foreseen() -> None:
    assert forecast(_hourly()) == Forecast(from_s=58 * 60.0, until_s=63 * 60.0)


@pytest.mark.parametrize(
    "gaps",
    [
        _hourly(SAMPLES_MIN - 1),
        _gaps(*(number * 300.0 for number in range(40))),
        _gaps(*([3600.0] * 38), *([50_000.0] * 2)),
    ],
    ids=["too few", "too far apart", "too many beyond four hours"],
)
def test_a_past_that_says_too_little_foresees_nothing(gaps: GapHistogram) -> None:
    assert forecast(gaps) is None


def test_a_call_as_foreseen_saves_a_cold_start_and_costs_the_wait_for_it() -> None:
    """Kept for a minute really; started at 58 min less a cold start of one, held until the call."""
    before = Prediction(gaps=_hourly())
    after = gap_ended(before, 3600.0, kept_s=60.0, gpus=2, cold_start_s=60.0)
    assert after.shadow == Shadow(
        forecasts=1, hits=1, cold_starts_saved=1, gpu_s_cost=2 * (3600.0 - 57 * 60.0), gpu_s_saved=2 * 60.0
    )


def test_a_call_before_it_was_foreseen_costs_a_cold_start_that_really_was_none() -> None:
    after = gap_ended(Prediction(gaps=_hourly()), 600.0, kept_s=600.0, gpus=1, cold_start_s=60.0)
    assert after.shadow == Shadow(forecasts=1, cold_starts_added=1, gpu_s_saved=600.0)


def test_a_call_long_after_it_was_foreseen_costs_the_vain_wait() -> None:
    after = gap_ended(Prediction(gaps=_hourly()), 9000.0, kept_s=60.0, gpus=1, cold_start_s=60.0)
    assert after.shadow == Shadow(forecasts=1, gpu_s_cost=63 * 60.0 - 57 * 60.0, gpu_s_saved=60.0)


def test_short_gaps_keep_the_worker_that_is_there() -> None:
    busy = Prediction(gaps=_gaps(*([20.0] * 40)))
    after = gap_ended(busy, 20.0, kept_s=20.0, gpus=1, cold_start_s=60.0)
    assert after.shadow == Shadow(forecasts=1, hits=1)


@given(
    st.floats(0, 20_000),
    st.floats(0, 20_000),
    st.integers(0, 8),
    st.floats(0.1, 600),
    st.sampled_from([_hourly(), _gaps(*([20.0] * 40)), GapHistogram()]),
)
def test_cost_less_saving_is_what_would_be_held_less_what_was(
    gap_s: float, kept_s: float, gpus: int, cold_start_s: float, gaps: GapHistogram
) -> None:
    kept_s = min(kept_s, gap_s)
    shadow = gap_ended(
        Prediction(gaps=gaps), gap_s, kept_s=kept_s, gpus=gpus, cold_start_s=cold_start_s
    ).shadow
    assert shadow.gpu_s_cost >= 0
    assert shadow.gpu_s_saved >= 0
    assert shadow.gpu_s_saved <= gpus * kept_s + 1e-6
    assert shadow.gpu_s_cost <= gpus * gap_s + 1e-6
    assert not (shadow.cold_starts_saved and shadow.cold_starts_added)

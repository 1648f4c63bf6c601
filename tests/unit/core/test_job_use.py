from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.job_use import cold_start_ms

_MOMENTS = st.integers(min_value=0, max_value=1000)


@pytest.mark.parametrize(
    ("asked_ms", "ready_ms", "cold_ms"),
    [
        (120, 180, 60),  # its worker was wanted for it
        (50, 180, 80),  # it came while its worker was being started
        (20, 90, 0),  # its worker was there
        (120, 250, 80),  # handed out as the worker came up, before the meter says so
        (120, None, 80),
        (None, None, 0),
        (None, 150, 0),
    ],
)
def test_a_jobs_cold_start_is_that_part_of_its_wait_in_which_its_worker_was_started(
    asked_ms: int | None, ready_ms: int | None, cold_ms: int
) -> None:
    assert cold_start_ms(100, 200, asked_ms=asked_ms, ready_ms=ready_ms) == cold_ms


@given(_MOMENTS, _MOMENTS, st.none() | _MOMENTS, st.none() | _MOMENTS)
def test_it_is_never_more_than_the_wait(
    created_ms: int, waited_ms: int, asked_ms: int | None, ready_ms: int | None
) -> None:
    found_ms = cold_start_ms(created_ms, created_ms + waited_ms, asked_ms=asked_ms, ready_ms=ready_ms)
    assert 0 <= found_ms <= waited_ms

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.history import EXACT_MAX, Arrival, Stretch, arrivals_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_requests = st.tuples(
    st.integers(1_700_000_000_000, 1_700_000_060_000),
    st.integers(0, 1 << 40),
    st.none() | st.integers(0, 1 << 40),
)


def _stretch(requests: Sequence[tuple[int, int, int | None]]) -> Stretch:
    stretch = Stretch()
    for request in requests:
        stretch.add(*request)
    return stretch


@given(st.lists(_requests, min_size=1, max_size=50))
def test_what_was_recorded_is_read_back_as_it_was(requests: list[tuple[int, int, int | None]]) -> None:
    batch = _stretch(requests).batch()
    expected = [
        Arrival(at_ms=at_ms, waited_ms=waited_ms, service_ms=service_ms)
        for at_ms, waited_ms, service_ms in sorted(requests, key=lambda request: request[0])
    ]
    assert arrivals_of([batch]) == expected
    assert (batch.first_ms, batch.last_ms) == (expected[0].at_ms, expected[-1].at_ms)
    assert batch.requests == len(requests)


def test_several_batches_are_one_record_in_order() -> None:
    later, earlier = _stretch([(2_000, 1, 1), (4_000, 1, None)]), _stretch([(1_000, 1, 1), (3_000, 1, 1)])
    found = arrivals_of([later.batch(), earlier.batch()])
    assert [arrival.at_ms for arrival in found] == [1_000, 2_000, 3_000, 4_000]


def test_of_a_crowded_minute_tenths_of_seconds_are_kept_with_numbers_and_means() -> None:
    dice = random.Random(1)
    requests = [
        (dice.randrange(60_000), dice.randrange(5_000), dice.choice([None, dice.randrange(9_000)]))
        for _ in range(20_000)
    ]
    found = arrivals_of([_stretch(requests).batch()])
    assert len(found) <= 1_200
    assert sum(arrival.requests for arrival in found) == len(requests)
    served = [request for request in requests if request[2] is not None]
    assert sum(arrival.requests for arrival in found if arrival.service_ms is not None) == len(served)
    whole_ms = sum(arrival.requests * (arrival.service_ms or 0) for arrival in found)
    assert abs(whole_ms - sum(request[2] or 0 for request in served)) <= len(served)
    assert {arrival.at_ms // 100 for arrival in found} == {at_ms // 100 for at_ms, _, _ in requests}


def test_a_crowded_minute_takes_little_room() -> None:
    requests = [
        (1_700_000_000_000 + number * 60, number % 900, 1_000 + number % 77) for number in range(EXACT_MAX)
    ]
    assert len(_stretch(requests).batch().packed) < 6 * len(requests)


def test_a_stretch_is_true_once_something_came() -> None:
    assert not Stretch()
    assert _stretch([(1, 2, 3)])

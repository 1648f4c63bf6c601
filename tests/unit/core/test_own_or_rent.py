from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from gpud.core.own_or_rent import HOUR_NS, YEAR_NS, Offer, compare

OFFER = Offer(
    gpu="H100",
    purchase_micros=8_760_000_000,
    life_years=1,
    watts_busy=600,
    watts_idle=100,
    rent_used_micros=4_000_000,
    rent_always_micros=2_000_000,
    kwh_micros=500_000,
    overhead_percent=20,
)


def test_owning_is_the_purchase_written_off_and_the_power_drawn_in_use_and_not() -> None:
    found = compare(OFFER, gpus=2, period_ns=10 * HOUR_NS, used_ns=5 * HOUR_NS)
    assert found.depreciation_micros == 20_000_000
    assert found.electricity_micros == (5 * 600 + 15 * 100) * 120 * 500_000 // 100_000
    assert found.own_micros == 22_700_000
    assert (found.rent_used_micros, found.rent_always_micros) == (20_000_000, 40_000_000)
    assert found.cheapest == "rent used"


def test_a_year_writes_a_purchase_off_whole() -> None:
    assert compare(OFFER, gpus=1, period_ns=YEAR_NS, used_ns=0).depreciation_micros == 8_760_000_000


def test_what_never_pays_says_so() -> None:
    assert (
        compare(replace(OFFER, rent_used_micros=0), gpus=1, period_ns=1, used_ns=0).break_even_percent is None
    )
    dear = replace(OFFER, purchase_micros=10**12)
    assert compare(dear, gpus=1, period_ns=1, used_ns=0).break_even_percent is None


offers = st.builds(
    Offer,
    gpu=st.just(""),
    purchase_micros=st.integers(10**8, 10**11),
    life_years=st.integers(1, 8),
    watts_busy=st.integers(0, 1000),
    watts_idle=st.integers(0, 100),
    rent_used_micros=st.integers(10**5, 10**7),
    rent_always_micros=st.integers(10**5, 10**7),
    kwh_micros=st.integers(0, 10**6),
    overhead_percent=st.integers(0, 100),
)


@given(offers, st.integers(0, 100))
def test_owning_costs_less_than_renting_by_use_from_the_break_even_on_and_not_before(
    offer: Offer, percent: int
) -> None:
    period_ns = 10_000 * HOUR_NS
    found = compare(offer, gpus=1, period_ns=period_ns, used_ns=period_ns * percent // 100)
    even = found.break_even_percent
    assume(even != percent)  # there the rounding decides
    assert (found.own_micros < found.rent_used_micros) == (even is not None and percent > even)

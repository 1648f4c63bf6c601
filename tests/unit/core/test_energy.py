from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.energy import (
    NOBODY,
    PLAUSIBLE_W,
    Drawn,
    EnergyLook,
    EnergyTariff,
    Holder,
    active_ns,
    drawn,
    holders,
    parts_of,
    shared_out,
)
from gpud.core.metering import Phase
from gpud.core.usage import HOUR_NS, MINUTE_NS
from tests.unit.core.test_usage import S, segment

WHOLE = {"GPU-a": 1_000_000}


def look(at_s: float, counter: int | None = None, power: int | None = None) -> EnergyLook:
    return EnergyLook(at_ns=round(at_s * S), counter_mj=counter, power_mw=power)


def test_what_the_counter_rose_by_was_drawn() -> None:
    assert drawn(look(0, 5_000), look(10, 7_500)) == Drawn(mj=2_500)


def test_a_counter_that_began_anew_shows_what_was_drawn_since_and_never_less_than_nothing() -> None:
    assert drawn(look(0, 900_000_000), look(10, 40)) == Drawn(mj=40)


def test_more_than_any_gpu_draws_is_not_believed() -> None:
    most = PLAUSIBLE_W * 1000 * 11
    assert drawn(look(0, 0), look(10, most)) == Drawn(mj=most)
    assert drawn(look(0, 0), look(10, most + 1)) == Drawn(refused=True)


def test_without_a_counter_power_counts_for_the_time_between_two_looks() -> None:
    assert drawn(look(0, power=100_000), look(10, power=300_000)) == Drawn(mj=2_000_000, sampled=True)
    assert drawn(look(0, power=100_000), look(61, power=300_000)) == Drawn()
    assert drawn(look(0, power=100_000), look(10)) == Drawn()


def test_a_counter_that_comes_or_goes_in_between_says_nothing() -> None:
    assert drawn(look(0, 5), look(10, None)) == Drawn()
    assert drawn(look(0, None), look(10, 5)) == Drawn()


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=20))
def test_no_sequence_of_counters_gives_energy_below_zero_or_more_than_they_show(counters: list[int]) -> None:
    looks = [look(1000.0 * n, counter) for n, counter in enumerate(counters)]
    total = sum(drawn(before, after).mj for before, after in pairwise(looks))
    rises = sum(max(b - a, b if b < a else 0) for a, b in pairwise(counters))
    assert total == rises
    assert all(drawn(before, after).mj >= 0 for before, after in pairwise(looks))


def test_energy_goes_to_who_had_the_gpu_by_time_and_share_and_the_rest_to_nobody() -> None:
    one = replace(segment(worker="wk_1", start=0, end=4 * S), share_ppm=250_000)
    two = replace(segment(worker="wk_2", phase=Phase.IDLE, start=2 * S, end=None), share_ppm=500_000)
    weights = holders([one, two], start_ns=0, end_ns=10 * S, parts_ppm=WHOLE)
    assert weights == {
        Holder("wk_1", "llm", Phase.ACTIVE): 4 * S * 250_000,
        Holder("wk_2", "llm", Phase.IDLE): 8 * S * 500_000,
        NOBODY: 10 * S * 1_000_000 - S * 1_000_000 - 4 * S * 1_000_000,
    }
    assert active_ns([one, two], start_ns=S, end_ns=10 * S) == 3 * S


def test_of_a_gpu_in_mig_mode_each_device_has_its_part() -> None:
    mine = segment(gpus=("MIG-1",), start=0, end=None)
    weights = holders([mine], start_ns=0, end_ns=S, parts_ppm={"MIG-1": 100_000, "MIG-2": 900_000})
    assert weights == {Holder("wk_a", "llm", Phase.ACTIVE): S * 100_000, NOBODY: S * 900_000}


@given(
    st.integers(0, 10**12),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 10**15)), min_size=1, max_size=6),
)
def test_parts_of_what_is_shared_out_sum_to_it(whole: int, weights: list[tuple[str, int]]) -> None:
    parts = list(shared_out(whole, weights))
    assert sum(part for _key, part in parts) == whole
    assert all(part > 0 for _key, part in parts)


@pytest.mark.parametrize(
    ("mj", "micros", "mg"), [(3_600_000_000, 300_000, 350_000), (18_000, 2, 2), (0, 0, 0)]
)
def test_a_tariff_prices_energy_rounded_half_to_even(mj: int, micros: int, mg: int) -> None:
    tariff = EnergyTariff(kwh_micros=300_000, co2_g_per_kwh=350)
    assert (tariff.cost_micros(mj), tariff.co2_mg(mj)) == (micros, mg)


@given(
    st.integers(0, 10**15),
    st.integers(1, 3 * MINUTE_NS),
    st.integers(-(10**12), 10**18),
)
def test_the_time_between_two_looks_is_cut_at_full_minutes_and_nowhere_else(
    start_ns: int, ns: int, ahead_ns: int
) -> None:
    parts = parts_of(start_ns, start_ns + ns, ahead_ns=ahead_ns)
    assert parts[0].start_ns == start_ns
    assert parts[-1].end_ns == start_ns + ns
    assert all(one.end_ns == other.start_ns for one, other in pairwise(parts))
    for part in parts:
        last_ns = part.end_ns - 1 + ahead_ns
        assert part.hour == last_ns // HOUR_NS
        if part.minute is None:
            assert ns > MINUTE_NS
        else:
            assert part.minute == (part.start_ns + ahead_ns) // MINUTE_NS == last_ns // MINUTE_NS

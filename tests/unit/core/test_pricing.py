from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.metering import Phase
from gpud.core.pricing import GpuPrice, Tariff
from gpud.core.usage import HOUR_NS, Period, Stretch, UsageBy, usage_rows

A, B = GpuUuid("GPU-a"), GpuUuid("GPU-b")
MODELS = {A: "NVIDIA H100 80GB HBM3", B: "NVIDIA L4"}

moments = st.one_of(st.none(), st.integers(0, 1000))
prices = st.builds(
    GpuPrice,
    gpu=st.sampled_from(["h100", "L4", "GPU-a", "A100"]),
    gpu_hour_micros=st.integers(0, 9_000_000),
    since_ns=moments,
    until_ns=moments,
)
tariffs = st.builds(
    Tariff,
    gpu_hour_micros=st.integers(0, 9_000_000),
    prices=st.lists(prices, max_size=4).map(tuple),
    models=st.just(MODELS),
)


@given(tariffs, moments, moments)
def test_the_pieces_of_a_period_make_it_up_and_prices_hold_in_all_of_each(
    tariff: Tariff, since_ns: int | None, until_ns: int | None
) -> None:
    if since_ns is not None and until_ns is not None and until_ns < since_ns:
        since_ns, until_ns = until_ns, since_ns
    period = Period(since_ns=since_ns, until_ns=until_ns)
    pieces = list(tariff.pieces(period))
    assert (pieces[0][0].since_ns, pieces[-1][0].until_ns) == (since_ns, until_ns)
    for (before, _), (after, _) in pairwise(pieces):
        assert before.until_ns == after.since_ns
    for at_ns in range(-2, 1003):
        holders = [priced_ns for piece, priced_ns in pieces if piece.holds(at_ns)]
        assert len(holders) == int(period.holds(at_ns))
        for priced_ns in holders:
            assert tariff.micros(A, priced_ns) == tariff.micros(A, at_ns)
            assert tariff.micros(B, priced_ns) == tariff.micros(B, at_ns)


def test_the_first_price_that_fits_applies_by_model_or_uuid_and_only_in_its_time() -> None:
    tariff = Tariff(
        gpu_hour_micros=1,
        prices=(
            GpuPrice(gpu="GPU-b", gpu_hour_micros=5, since_ns=10, until_ns=20),
            GpuPrice(gpu="l4", gpu_hour_micros=2),
            GpuPrice(gpu="NVIDIA", gpu_hour_micros=3),
        ),
        models=MODELS,
    )
    assert [tariff.micros(B, at_ns) for at_ns in (9, 10, 19, 20)] == [2, 5, 5, 2]
    assert tariff.micros(A, 0) == 3
    assert tariff.micros(GpuUuid("GPU-of-yore"), 0) == 1


stretches = st.lists(
    st.builds(
        Stretch,
        worker_id=st.just(WorkerId("wk_a")),
        endpoint=st.sampled_from([EndpointName("llm"), EndpointName("embed")]),
        gpu_uuids=st.sampled_from([(), (A,), (B,), (A, B)]),
        phase=st.sampled_from(list(Phase)),
        at_ns=st.integers(0, 50).map(lambda hour: hour * HOUR_NS),
        ns=st.integers(0, HOUR_NS),
        share_ppm=st.integers(1, 1_000_000),
        priced_ns=st.integers(0, 1000),
    ),
    max_size=12,
)


@given(stretches, tariffs)
def test_every_grouping_costs_the_same_but_for_one_rounding_a_line(
    found: list[Stretch], tariff: Tariff
) -> None:
    billable = {"start", "active", "idle", "drain", "unready", "unsupervised"}
    exact = sum(
        (
            Fraction(one.ns * one.share_ppm * tariff.micros(gpu, one.priced_ns), HOUR_NS * 1_000_000)
            for one in found
            if one.phase.value in billable
            for gpu in one.gpu_uuids
        ),
        Fraction(0),
    )
    for by in UsageBy:
        rows = usage_rows(found, (), by=by, price=tariff.micros)
        assert abs(sum(row.cost_micros for row in rows) - exact) <= Fraction(len(rows), 2)

"""What the store promises of the record of requests and of what is known of gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.core.history import ArrivalBatch, Stretch, arrivals_of
from gpud.core.ids import EndpointName
from gpud.core.prediction import GapHistogram, Prediction, Shadow
from gpud.core.records import (
    ArrivalsForgotten,
    ArrivalsRecorded,
    EndpointDeleted,
    EndpointSaved,
    EventRecorded,
    PredictionSaved,
)
from tests.contract.store_rig import KINDS, HandClock, an_endpoint, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store

LLM = EndpointName("llm")


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, HandClock()) as store:
        yield store


def _recorded(*at_ms: int, endpoint: str = LLM) -> ArrivalsRecorded:
    stretch = Stretch()
    for moment_ms in at_ms:
        stretch.add(moment_ms, 5, 7)
    return ArrivalsRecorded(endpoint=EndpointName(endpoint), batch=stretch.batch())


async def _moments(store: Store, *, since_ms: int = 0, until_ms: int = 1 << 60) -> list[int]:
    batches = await store.reads.arrivals(LLM, since_ms=since_ms, until_ms=until_ms)
    return [arrival.at_ms for arrival in arrivals_of(batches)]


async def test_a_record_is_read_back_by_the_stretches_that_reach_into_a_period(store: Store) -> None:
    await store.fleet.record(
        [_recorded(10, 20), _recorded(30, 40), _recorded(50), _recorded(35, endpoint="other")]
    )
    assert await _moments(store) == [10, 20, 30, 40, 50]
    assert await _moments(store, since_ms=20, until_ms=50) == [10, 20, 30, 40]
    assert await _moments(store, since_ms=41) == [50]
    whole = _recorded(10, 20).batch
    first = (await store.reads.arrivals(LLM, since_ms=0, until_ms=1000))[0]
    assert first == ArrivalBatch(first_ms=10, last_ms=20, requests=2, packed=whole.packed)


async def test_what_is_old_is_given_up_by_whole_stretches(store: Store) -> None:
    await store.fleet.record([_recorded(10, 20), _recorded(30, 40), _recorded(50)])
    await store.fleet.record([ArrivalsForgotten(before_ms=40)])
    assert await _moments(store) == [30, 40, 50]


async def test_an_endpoints_record_goes_with_it(store: Store) -> None:
    prediction = PredictionSaved(endpoint=LLM, prediction=Prediction())
    await store.fleet.record([EndpointSaved(endpoint=an_endpoint()), _recorded(10), prediction])
    await store.fleet.record([EndpointDeleted(name=LLM)])
    assert await _moments(store) == []
    assert (await store.fleet.load_fleet()).predictions == {}


async def test_what_is_known_of_gaps_is_read_back_at_the_start_as_it_was_last_written(store: Store) -> None:
    early = Prediction(gaps=GapHistogram(counts=(1,)))
    late = Prediction(
        gaps=GapHistogram(counts=(1, 0, 7), longer=2),
        shadow=Shadow(forecasts=3, hits=2, cold_starts_saved=1, gpu_s_cost=12.5, gpu_s_saved=0.25),
    )
    for prediction in (early, late):
        await store.fleet.record([PredictionSaved(endpoint=LLM, prediction=prediction)])
    assert (await store.fleet.load_fleet()).predictions == {LLM: late}


async def test_starts_are_told_with_their_phases(store: Store) -> None:
    def ready(at_ms: int, endpoint: str, **facts: object) -> EventRecorded:
        return EventRecorded(kind="worker.ready", at_ms=at_ms, endpoint=endpoint, worker_id="wk", facts=facts)

    other = EventRecorded(kind="worker.gone", at_ms=15, endpoint=LLM)
    await store.fleet.record(
        [
            ready(10, LLM, ready_ms=1.5),
            ready(11, "x", ready_ms=9.0),
            other,
            ready(20, LLM, ready_ms=2.5),
            ready(30, LLM),
        ]
    )
    assert await store.reads.starts(LLM, since_ms=10, until_ms=30) == ({"ready_ms": 1.5}, {"ready_ms": 2.5})

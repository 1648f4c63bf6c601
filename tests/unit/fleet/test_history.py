from __future__ import annotations

import asyncio

from gpud.core.history import Arrival, arrivals_of
from gpud.core.ids import EndpointName
from gpud.core.prediction import GapHistogram, Prediction
from gpud.core.records import ArrivalsForgotten, ArrivalsRecorded, FleetChange, PredictionSaved
from gpud.core.worker import WorkerState
from gpud.fleet.history import WRITE_EVERY_S, History
from gpud.fleet.state import FleetState
from gpud.ports.traffic import EndpointLoad
from tests.fakes.clock import FakeClock
from tests.unit.core.making import endpoint, worker
from tests.unit.fleet.virtual import virtual

ECHO = EndpointName("echo")
START_MS = 1_700_000_000_000


class Kept:
    """Stands in for the journal: what was added."""

    def __init__(self) -> None:
        self.changes: list[FleetChange] = []

    def add(self, change: FleetChange) -> None:
        self.changes.append(change)

    def of(self, kind: type[FleetChange]) -> list[FleetChange]:
        return [change for change in self.changes if isinstance(change, kind)]


class Book:
    """A history with a fleet of one endpoint, in virtual time."""

    def __init__(self, *, keep_days: float = 8.0) -> None:
        self.state, self.kept = FleetState(), Kept()
        self.state.endpoints[ECHO] = endpoint()
        self.history = History(self.state, self.kept, FakeClock(), keep_days=keep_days)  # type: ignore[arg-type]

    async def look(self, *, at_s: float, **facts: object) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(at_s - loop.time())
        self.state.loads[ECHO] = EndpointLoad(**{"last_busy_s": loop.time(), **facts})  # type: ignore[arg-type]
        self.history.observe(loop.time())

    def arrivals(self) -> list[Arrival]:
        recorded = self.kept.of(ArrivalsRecorded)
        return arrivals_of([change.batch for change in recorded if isinstance(change, ArrivalsRecorded)])


def test_requests_are_dated_by_the_wall_clock_and_written_once_a_minute() -> None:
    async def story() -> None:
        book = Book()
        await book.look(at_s=10.0, peak=1, exchanges=((4.0, 6.0, 9.5), (5.0, -1.0, 8.0)))
        assert not book.kept.of(ArrivalsRecorded)
        await book.look(at_s=30.0, exchanges=((20.0, 20.0, 21.0),), peak=1)
        await book.look(at_s=WRITE_EVERY_S)
        assert len(book.kept.of(ArrivalsRecorded)) == 1
        assert book.arrivals() == [
            Arrival(at_ms=START_MS + 4_000, waited_ms=2_000, service_ms=3_500),
            Arrival(at_ms=START_MS + 5_000, waited_ms=3_000, service_ms=None),
            Arrival(at_ms=START_MS + 20_000, waited_ms=0, service_ms=1_000),
        ]
        await book.look(at_s=3 * WRITE_EVERY_S)
        assert len(book.kept.of(ArrivalsRecorded)) == 1, "nothing came"

    virtual(story())


def test_old_records_are_given_up_now_and_then() -> None:
    async def story() -> None:
        book = Book(keep_days=2.0)
        for hour in range(3):
            await book.look(at_s=hour * 3600.0)
            await book.look(at_s=hour * 3600.0 + 60)
        assert book.kept.of(ArrivalsForgotten) == [
            ArrivalsForgotten(before_ms=START_MS - 2 * 86_400_000 + hour * 3_600_000) for hour in range(3)
        ]

    virtual(story())


def test_a_record_can_be_declined() -> None:
    async def story() -> None:
        book = Book(keep_days=0.0)
        await book.look(at_s=10.0, peak=1, exchanges=((4.0, 6.0, 9.5),))
        await book.look(at_s=100.0)
        assert not book.kept.of(ArrivalsRecorded)

    virtual(story())


def test_a_gap_is_from_the_last_request_to_the_next_one_and_is_written() -> None:
    async def story() -> None:
        book = Book()
        await book.look(at_s=10.0, in_flight=1, peak=1)
        await book.look(at_s=20.0, peak=1, last_busy_s=15.0)
        await book.look(at_s=100.0, last_busy_s=15.0)
        await book.look(at_s=200.0, in_flight=1, peak=1)
        assert book.state.recall(ECHO).prediction.gaps == GapHistogram(counts=(0, 0, 0, 1)), "185 s"
        saved = book.kept.of(PredictionSaved)
        assert saved == [PredictionSaved(endpoint=ECHO, prediction=book.state.recall(ECHO).prediction)]

    virtual(story())


def test_a_request_between_two_looks_ends_one_gap_and_begins_another() -> None:
    async def story() -> None:
        book = Book()
        await book.look(at_s=10.0, peak=1, last_busy_s=9.0)
        await book.look(at_s=100.0, peak=1, last_busy_s=99.0)
        await book.look(at_s=300.0, peak=1, last_busy_s=299.0)
        assert book.state.recall(ECHO).prediction.gaps.counts == (0, 1, 0, 1)

    virtual(story())


def test_the_shadow_knows_whether_a_worker_was_kept() -> None:
    async def story() -> None:
        book = Book()
        gaps = GapHistogram(counts=(0,) * 60 + (30,))
        book.state.recall(ECHO).prediction = Prediction(gaps=gaps)
        await book.look(at_s=10.0, peak=1, last_busy_s=10.0)
        book.state.workers[worker().id] = worker(0, WorkerState.READY)
        await book.look(at_s=70.0, last_busy_s=10.0)
        book.state.workers.clear()
        await book.look(at_s=3670.0, in_flight=1, peak=1)
        shadow = book.state.recall(ECHO).prediction.shadow
        assert (shadow.forecasts, shadow.cold_starts_saved, shadow.gpu_s_saved) == (1, 1, 60.0)

    virtual(story())


def test_an_endpoint_that_is_deleted_leaves_nothing_behind() -> None:
    async def story() -> None:
        book = Book()
        await book.look(at_s=10.0, peak=1, exchanges=((4.0, 6.0, 9.5),))
        del book.state.endpoints[ECHO]
        book.history.observe(WRITE_EVERY_S)
        assert not book.kept.of(ArrivalsRecorded)

    virtual(story())

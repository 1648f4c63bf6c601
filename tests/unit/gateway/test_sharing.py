from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.adapters.system import SystemClock
from gpud.core.ids import WorkerId
from gpud.fleet.meter import Meter
from gpud.gateway.inflight import EndpointCount, LoadBook, NobodyWatches

W = WorkerId("wk_a")


def test_a_request_alone_has_all_of_the_time_and_two_have_half_each() -> None:
    book, count = LoadBook(SystemClock()), EndpointCount(0.0)
    first = book.dispatched(count, W, "key_a", 10.0, was_held=False)
    book.dispatched(count, W, "key_b", 12.0, was_held=False)
    assert book.desk(W, 16.0).part_s - first == pytest.approx(4.0)
    book.released(count, W, "key_a", 16.0)
    book.released(count, W, "key_b", 17.0)
    assert book.take_shares(W, 17.0) == pytest.approx({"key_a": 4.0, "key_b": 3.0})
    assert book.take_shares(W, 30.0) == {}


def test_what_was_told_of_a_request_that_runs_is_not_told_again() -> None:
    book, count = LoadBook(SystemClock()), EndpointCount(0.0)
    book.dispatched(count, W, "key_a", 0.0, was_held=False)
    assert book.take_shares(W, 5.0) == pytest.approx({"key_a": 5.0})
    assert book.take_shares(W, 7.0) == pytest.approx({"key_a": 2.0})
    book.released(count, W, "key_a", 8.0)
    assert book.take_shares(W, 8.0) == pytest.approx({"key_a": 1.0})


def test_a_job_is_its_owners_from_its_beginning() -> None:
    book, count = LoadBook(SystemClock()), EndpointCount(0.0)
    began_s = book.job_began(count, W, "", 0.0)
    book.desk(W, 2.0).move("", "key_a", began_s)
    book.released(count, W, "key_a", 3.0)
    assert book.take_shares(W, 3.0) == pytest.approx({"key_a": 3.0})


def test_what_was_told_before_a_jobs_owner_was_known_is_taken_back() -> None:
    book, count = LoadBook(SystemClock()), EndpointCount(0.0)
    began_s = book.job_began(count, W, "", 0.0)
    found = Counter(book.take_shares(W, 1.0))
    book.desk(W, 2.0).move("", "key_a", began_s)
    found.update(book.take_shares(W, 3.0))
    assert found == pytest.approx({"": 0.0, "key_a": 3.0})


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 500), st.sampled_from("abc")), max_size=12),
    st.lists(st.integers(0, 1500), max_size=4),
)
def test_shares_sum_to_the_time_in_which_anything_ran(
    requests: list[tuple[int, int, str]], looks: list[int]
) -> None:
    book, count = LoadBook(SystemClock()), EndpointCount(0.0)
    events: list[tuple[int, int, str]] = []
    for start, length, key in requests:
        events += [(start, 2, key), (start + length, 0, key)]
    events += [(look, 1, "") for look in looks]
    found: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for at, kind, key in sorted(events):
        if kind == 2:
            book.dispatched(count, W, key, float(at), was_held=False)
        elif kind == 0:
            book.released(count, W, key, float(at))
        else:
            found.update(book.take_shares(W, float(at)))
    found.update(book.take_shares(W, 5000.0))
    for moment in range(1500):
        running = [key for start, length, key in requests if start <= moment < start + length]
        for key in running:
            expected[key] += 1 / len(running)  # type: ignore[assignment]
    assert found == pytest.approx(expected)


def test_what_ran_longer_than_its_worker_was_metered_is_forgotten_with_its_end() -> None:
    book, count = LoadBook(SystemClock()), EndpointCount(0.0)
    meter = Meter(SystemClock(), lambda _: None, lambda worker_id: book.take_shares(worker_id, 2.0))
    watcher = NobodyWatches()
    watcher.worker_idle = meter.idle  # type: ignore[method-assign]
    book.watcher = watcher
    book.dispatched(count, W, "key_a", 0.0, was_held=False)
    book.take_shares(W, 1.0)
    book.released(count, W, "key_a", 2.0)
    assert book._desks._desks == {}

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.admission import Admission, admit, giving_way, queue_retry_after_s
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.routing import Refusal, Route, RouteWorker

WORKER = RouteWorker(worker_id=WorkerId("wk_0000000000000001"), address="10.0.0.1", port=80)
REFUSAL = Refusal(slug="start-failed", detail="It exits with code 3.")


def _route(*, workers: int = 0, max_queue: int = 2, **facts: object) -> Route:
    return Route(
        endpoint=EndpointName("llm"),
        concurrency=2,
        max_queue=max_queue,
        hold_timeout_s=30,
        request_timeout_s=30,
        workers=(WORKER,) * workers,
        **facts,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("route", "waiting", "free_slot", "expected"),
    [
        (_route(workers=1), 0, True, Admission.PASS),
        (_route(workers=1), 1, True, Admission.HOLD),
        (_route(workers=1), 0, False, Admission.HOLD),
        (_route(), 0, False, Admission.HOLD),
        (_route(), 2, False, Admission.QUEUE_FULL),
        (_route(max_queue=0), 0, False, Admission.QUEUE_FULL),
        (_route(refusal=REFUSAL), 0, False, Admission.REFUSE),
        (_route(workers=1, refusal=REFUSAL), 0, True, Admission.PASS),
        (_route(workers=1, refusal=REFUSAL), 0, False, Admission.HOLD),
    ],
)
def test_admission_follows_the_table(
    route: Route, waiting: int, free_slot: bool, expected: Admission
) -> None:
    assert admit(route, waiting=waiting, free_slot=free_slot) is expected


def test_retry_after_is_the_work_ahead_over_the_slots() -> None:
    assert queue_retry_after_s(_route(workers=2), waiting=8, service_s=3.0) == 6.0


def test_retry_after_adds_the_start_when_no_worker_is_there() -> None:
    assert queue_retry_after_s(_route(expected_start_s=40.0), waiting=2, service_s=1.0) == 41.0


def test_retry_after_stays_within_its_bounds() -> None:
    assert queue_retry_after_s(_route(workers=1), waiting=0, service_s=0.0) == 1.0
    assert queue_retry_after_s(_route(workers=1), waiting=10_000, service_s=100.0) == 600.0


@pytest.mark.parametrize(
    ("held", "newcomer", "gives_way"),
    [
        ({"a": 10}, "a", None),
        ({"a": 10}, "b", "a"),
        ({"a": 5, "b": 5}, "b", None),
        ({"a": 6, "b": 4}, "b", "a"),
        ({"a": 9, "b": 1}, "c", "a"),
        ({"a": 4, "b": 3, "c": 3}, "a", None),
        ({}, "a", None),
    ],
)
def test_places_of_a_full_queue_are_shared(
    held: dict[str, int], newcomer: str, gives_way: str | None
) -> None:
    assert giving_way(held, newcomer, sum(held.values())) == gives_way


@given(
    arrivals=st.lists(st.sampled_from("abcd"), max_size=200),
    max_queue=st.integers(min_value=1, max_value=20),
)
def test_nobody_with_less_than_a_share_is_refused_and_nobody_loses_it(arrivals: str, max_queue: int) -> None:
    held: dict[str, int] = {}
    for party in arrivals:
        if sum(held.values()) == max_queue:
            share = max_queue / len({*held, party})
            greedy = giving_way(held, party, max_queue)
            assert (greedy is None) == (held.get(party, 0) + 1 > share)
            if greedy is None:
                continue
            assert greedy != party
            assert held[greedy] > share
            held[greedy] -= 1
            held = {name: count for name, count in held.items() if count}
        held[party] = held.get(party, 0) + 1
        assert sum(held.values()) <= max_queue

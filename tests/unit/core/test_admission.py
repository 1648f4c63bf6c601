from __future__ import annotations

import pytest

from gpud.core.admission import Admission, admit, queue_retry_after_s
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
    assert queue_retry_after_s(_route(expected_start_s=40.0), waiting=2, service_s=1.0) == 42.0


def test_retry_after_stays_within_its_bounds() -> None:
    assert queue_retry_after_s(_route(workers=1), waiting=0, service_s=0.0) == 1.0
    assert queue_retry_after_s(_route(workers=1), waiting=10_000, service_s=100.0) == 600.0

from __future__ import annotations

from gpud.core.history import Arrival
from gpud.core.whatif import Outcome, outcome_of, what_happened, within


def test_what_happened_counts_each_request_of_a_line() -> None:
    record = [
        Arrival(at_ms=1, waited_ms=0, service_ms=10, requests=18),
        Arrival(at_ms=2, waited_ms=4_000, service_ms=10),
        Arrival(at_ms=3, waited_ms=9_000),
    ]
    assert what_happened(record, cold_starts=2, gpu_s=7.5) == Outcome(
        requests=20, unserved=1, wait_s_p50=0.0, wait_s_p95=4.0, wait_s_max=9.0, cold_starts=2, gpu_s=7.5
    )


def test_without_requests_nobody_waited() -> None:
    assert outcome_of([], unserved=0, cold_starts=0, gpu_s=0.0).wait_s_max == 0.0


def test_a_period_takes_its_first_moment_and_leaves_its_last() -> None:
    record = [Arrival(at_ms=at_ms) for at_ms in (9, 10, 19, 20)]
    assert [arrival.at_ms for arrival in within(record, since_ms=10, until_ms=20)] == [10, 19]

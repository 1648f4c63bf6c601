from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.starts import BackoffPolicy, StartRecord, after_failure, after_ready, is_start_failure

_POLICY = BackoffPolicy(base_s=1.0, max_s=300.0, circuit_failures=3)
_jitters = st.floats(0.0, 1.0, exclude_max=True)


def _failed(times: int, *, jitter: float = 0.5, permanent: bool = False) -> list[StartRecord]:
    records, record = [], StartRecord()
    for _ in range(times):
        record = after_failure(
            record, _POLICY, error="It exited.", permanent=permanent, now_s=0.0, jitter=jitter
        )
        records.append(record)
    return records


def test_the_wait_doubles_with_each_failure_up_to_the_longest() -> None:
    waits = [record.next_try_s for record in _failed(12)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


@given(_jitters, st.integers(1, 200))
def test_no_wait_is_longer_than_the_longest_and_a_fifth(jitter: float, times: int) -> None:
    records = _failed(times, jitter=jitter)
    waits = [record.next_try_s for record in records]
    assert waits == sorted(waits)
    assert max(waits) <= _POLICY.max_s * 1.2


@given(st.integers(1, 20), _jitters, _jitters)
def test_jitter_spreads_by_a_fifth_either_way(times: int, one: float, other: float) -> None:
    base_s = _failed(times)[-1].next_try_s
    for jitter in (one, other):
        assert 0.8 * base_s <= _failed(times, jitter=jitter)[-1].next_try_s <= 1.2 * base_s


def test_callers_are_refused_from_the_third_failure_on_until_the_next_try() -> None:
    first, second, third = _failed(3)
    assert [record.open for record in (first, second, third)] == [False, False, True]
    assert third.refuses(now_s=third.next_try_s - 0.001)
    assert not third.refuses(now_s=third.next_try_s)
    assert third.may_start(now_s=third.next_try_s)
    assert not third.may_start(now_s=third.next_try_s - 0.001)


def test_what_cannot_be_helped_by_trying_again_refuses_callers_at_once() -> None:
    assert _failed(1, permanent=True)[0].open


def test_a_ready_worker_clears_the_record() -> None:
    assert after_ready() == StartRecord()
    assert StartRecord().may_start(now_s=0.0)


def test_an_end_long_after_readiness_is_no_failed_start() -> None:
    assert is_start_failure(ready_s=None, now_s=5000.0)
    assert is_start_failure(ready_s=0.0, now_s=599.0)
    assert not is_start_failure(ready_s=0.0, now_s=600.0)

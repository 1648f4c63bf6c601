from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.stats_history import FINE_S, ROLLED_S, ROLLED_STEP_S, StatsHistory, UseSample

STEP_S = 60.0


def _sample(index: int, value: float) -> UseSample:
    return UseSample(
        at_ms=int((index + 1) * STEP_S * 1000),
        step_s=STEP_S,
        cpu_cores=value,
        memory_bytes=value,
        memory_bytes_max=value,
        gpu_memory_mib=value,
        gpu_percent=value,
    )


@given(st.integers(1, 200), st.integers(0, 5))
def test_the_last_hour_is_kept_as_it_was(count: int, seed: int) -> None:
    history = StatsHistory(STEP_S)
    samples = [_sample(i, float((i * 7 + seed) % 11)) for i in range(count)]
    for sample in samples:
        history.add("wk", sample)
    assert list(history.fine("wk")) == samples[-int(FINE_S / STEP_S) :]
    assert history.newest("wk") == samples[-1]


def test_a_day_is_kept_in_means_and_maxima() -> None:
    history = StatsHistory(STEP_S)
    count = int(2 * ROLLED_S / STEP_S)
    for i in range(count):
        history.add("wk", _sample(i, float(i % 5)))
    rolled = history.rolled("wk")
    assert len(rolled) == ROLLED_S // ROLLED_STEP_S + 1
    assert {round(one.cpu_cores, 6) for one in rolled[1:-1]} == {2.0}
    assert {one.memory_bytes_max for one in rolled[1:-1]} == {4.0}
    assert all(one.step_s == ROLLED_STEP_S for one in rolled)


def test_nothing_is_known_of_others_and_the_longest_silent_go_first() -> None:
    history = StatsHistory(STEP_S)
    assert history.fine("nobody") == history.rolled("nobody") == ()
    for i in range(2001):
        history.add(f"wk_{i}", _sample(i, 1.0))
    assert history.newest("wk_0") is None
    assert history.newest("wk_2000") is not None

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.log_caps import LogCaps, RateLimit, Segment, surplus

CAPS = LogCaps(
    keep_s=100,
    worker_bytes=50,
    total_bytes=120,
    segment_bytes=10,
    line_bytes=10,
    rate_bytes_per_s=10,
    burst_bytes=50,
)
NOW_S = 1000.0


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    found = []
    for log in range(draw(st.integers(0, 5))):
        count = draw(st.integers(1, 6))
        is_open = draw(st.booleans())
        found += [
            Segment(
                log=log,
                start=index * 10,
                disk_bytes=draw(st.integers(0, 30)),
                written_s=draw(st.floats(800, 1000)),
                open=is_open and index == count - 1,
            )
            for index in range(count)
        ]
    return draw(st.permutations(found))


@given(segments())
def test_what_is_left_is_the_end_of_each_log_within_the_caps(all_of_them: list[Segment]) -> None:
    doomed = surplus(all_of_them, CAPS, now_s=NOW_S)
    assert not any(one.open for one in doomed)
    left = [one for one in all_of_them if one not in doomed]
    for log in {one.log for one in all_of_them}:
        mine = sorted((one for one in all_of_them if one.log == log), key=lambda one: one.start)
        kept = [one for one in mine if one in left]
        assert mine[len(mine) - len(kept) :] == kept
        closed = [one for one in kept if not one.open]
        assert not closed or sum(one.disk_bytes for one in kept) <= CAPS.worker_bytes
    closed = [one for one in left if not one.open]
    assert not closed or sum(one.disk_bytes for one in left) <= CAPS.total_bytes


@given(segments())
def test_nothing_more_is_deleted_than_must_be(all_of_them: list[Segment]) -> None:
    if sum(one.disk_bytes for one in all_of_them) <= CAPS.worker_bytes:
        doomed = surplus(all_of_them, CAPS, now_s=NOW_S)
        assert all(NOW_S - one.written_s > CAPS.keep_s for one in doomed)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 40)), max_size=50))
def test_no_more_passes_than_the_rate_allows(steps: list[tuple[float, int]]) -> None:
    limit, now_s, passed = RateLimit(10, 50), 0.0, 0
    for wait_s, count in steps:
        now_s += wait_s
        if limit.take(count, now_s):
            passed += count
    assert passed <= 50 + 10 * now_s + 40


def test_a_quiet_log_may_burst_again() -> None:
    limit = RateLimit(10, 50)
    assert limit.take(60, 0.0)
    assert not limit.take(1, 0.5)
    assert limit.take(60, 20.0)

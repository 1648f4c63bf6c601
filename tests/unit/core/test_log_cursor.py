from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.log_cursor import LogCursor, LogExtent

numbers = st.integers(0, 8)


@st.composite
def _cursors(draw: st.DrawFn) -> LogCursor:
    floor = draw(numbers)
    ahead = draw(st.dictionaries(numbers, st.integers(0, 100), max_size=6))
    return LogCursor(floor=floor, positions={floor + n: at for n, at in ahead.items()})


cursors = _cursors()


@st.composite
def extents(draw: st.DrawFn) -> list[LogExtent]:
    found = []
    for number in sorted(draw(st.sets(numbers, max_size=6))):
        start = draw(st.integers(0, 50))
        end = start + draw(st.integers(0, 50))
        found.append(LogExtent(number=number, start=start, end=end, live=draw(st.booleans())))
    return found


@given(cursors)
def test_a_cursor_is_read_as_it_was_spelled(cursor: LogCursor) -> None:
    assert LogCursor.parse(cursor.spelled()) == cursor


@pytest.mark.parametrize(
    "text", ["X", "-1", "1.2", "1.2-é", "1.-", "1..2-3", "1.2-3-4", "9" * 30, "1" + ".1-1" * 2000]
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"whole number|too many"):
        LogCursor.parse(text)


@given(cursors, extents())
def test_a_position_is_within_the_log(cursor: LogCursor, logs: list[LogExtent]) -> None:
    for log in logs:
        assert log.start <= cursor.position(log) <= log.end


@given(cursors, extents())
def test_settling_changes_no_position(cursor: LogCursor, logs: list[LogExtent]) -> None:
    settled = cursor.settled(logs)
    assert settled.floor >= cursor.floor
    for log in logs:
        assert settled.position(log) == cursor.position(log)
    assert settled.settled(logs) == settled


@given(extents(), st.data())
def test_reading_in_steps_of_any_size_reads_each_byte_once(
    logs: list[LogExtent], data: st.DataObject
) -> None:
    cursor, read = LogCursor(), dict.fromkeys((log.number for log in logs), 0)
    while left := [log for log in logs if cursor.position(log) < log.end]:
        log = data.draw(st.sampled_from(left))
        at = cursor.position(log)
        step = data.draw(st.integers(1, log.end - at))
        read[log.number] += step
        cursor = LogCursor.parse(cursor.advanced(log.number, at + step).settled(logs).spelled())
    assert read == {log.number: log.end - log.start for log in logs}


def test_logs_that_are_over_and_read_leave_the_cursor() -> None:
    over = LogExtent(number=1, start=0, end=10, live=False)
    live = LogExtent(number=2, start=0, end=20, live=True)
    cursor = LogCursor().advanced(1, 10).advanced(2, 20).settled([over, live])
    assert cursor.spelled() == "2.0-k"


def test_a_log_that_begins_later_is_read_from_its_start() -> None:
    cursor = LogCursor(floor=2, positions={2: 20})
    assert cursor.position(LogExtent(number=3, start=0, end=5, live=True)) == 0


def test_what_was_deleted_before_it_was_read_is_told() -> None:
    cursor = LogCursor(positions={1: 10})
    log = LogExtent(number=1, start=30, end=50, live=True)
    assert (cursor.position(log), cursor.lost(log)) == (30, 20)
    assert LogCursor().lost(log) == 0
    assert cursor.advanced(1, 5).positions[1] == 10

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.adapters.cron_calendar import CronCalendar
from gpud.core.windows import WarmWindow

BERLIN = "Europe/Berlin"
OFFICE = WarmWindow(start="0 8 * * MON-FRI", end="0 18 * * MON-FRI", time_zone=BERLIN)
NIGHT = WarmWindow(start="30 2 * * *", duration_s=3600, time_zone=BERLIN)

calendar = CronCalendar()


def utc_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def berlin_ms(text: str, *, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN), fold=fold).timestamp() * 1000)


@pytest.mark.parametrize(
    ("at", "is_open", "edge"),
    [
        ("2026-11-23T07:59:59", False, "2026-11-23T08:00"),
        ("2026-11-23T08:00", True, "2026-11-23T18:00"),
        ("2026-11-23T17:59:59.999", True, "2026-11-23T18:00"),
        ("2026-11-23T18:00", False, "2026-11-24T08:00"),
        ("2026-11-27T18:00", False, "2026-11-30T08:00"),
    ],
)
def test_a_window_opens_and_closes_by_the_clocks_of_its_place(at: str, is_open: bool, edge: str) -> None:
    span = calendar.span(OFFICE, berlin_ms(at))
    assert (span.is_open, span.edge_ms) == (is_open, berlin_ms(edge))


def test_an_end_by_the_clock_makes_a_window_longer_or_shorter_when_the_clocks_change() -> None:
    night = WarmWindow(start="0 22 * * *", end="0 6 * * *", time_zone=BERLIN)
    lengths_h = []
    for evening in ("2026-03-27T22:00", "2026-03-28T22:00", "2026-10-24T22:00"):
        span = calendar.span(night, berlin_ms(evening))
        assert span.is_open
        assert span.edge_ms is not None
        lengths_h.append((span.edge_ms - berlin_ms(evening)) / 3_600_000)
    assert lengths_h == [8.0, 7.0, 9.0]


def test_a_start_that_the_clocks_jump_over_comes_right_after_the_jump_and_lasts_its_time() -> None:
    before = calendar.span(NIGHT, utc_ms("2026-03-29T00:59"))
    assert (before.is_open, before.edge_ms) == (False, utc_ms("2026-03-29T01:00"))
    within = calendar.span(NIGHT, utc_ms("2026-03-29T01:00"))
    assert (within.is_open, within.edge_ms) == (True, utc_ms("2026-03-29T02:00"))


def test_a_start_that_the_clocks_show_twice_comes_once_and_lasts_its_time() -> None:
    """Clocks show 02:20 for the second time: the window of 02:30 has been open for 50 minutes."""
    first, second = berlin_ms("2026-10-25T02:30"), berlin_ms("2026-10-25T02:30", fold=1)
    assert second - first == 3_600_000
    within = calendar.span(NIGHT, berlin_ms("2026-10-25T02:20", fold=1))
    assert (within.is_open, within.edge_ms) == (True, first + 3_600_000)
    after = calendar.span(NIGHT, second)
    assert (after.is_open, after.edge_ms) == (False, berlin_ms("2026-10-26T02:30"))


def test_a_window_may_reach_over_days_and_into_the_next_one() -> None:
    daily = WarmWindow(start="0 12 * * *", duration_s=172_800)
    span = calendar.span(daily, utc_ms("2026-11-23T11:00"))
    assert (span.is_open, span.edge_ms) == (True, utc_ms("2026-11-24T12:00"))


@given(
    st.sampled_from([OFFICE, NIGHT, WarmWindow(start="*/30 * * * *", duration_s=600, time_zone=BERLIN)]),
    st.integers(utc_ms("2026-01-01"), utc_ms("2027-01-01")),
)
def test_the_next_edge_always_lies_ahead_and_changes_what_is_open(window: WarmWindow, at_ms: int) -> None:
    span = calendar.span(window, at_ms)
    assert span.edge_ms is not None
    assert span.edge_ms > at_ms
    assert calendar.span(window, span.edge_ms - 1).is_open is span.is_open
    assert calendar.span(window, span.edge_ms).is_open is not span.is_open


@given(
    st.integers(utc_ms("2026-03-28"), utc_ms("2026-03-30"))
    | st.integers(utc_ms("2026-10-24"), utc_ms("2026-10-26"))
)
def test_around_a_change_of_the_clocks_every_edge_still_lies_ahead(at_ms: int) -> None:
    for window in (NIGHT, OFFICE, WarmWindow(start="0 * * * *", duration_s=900, time_zone=BERLIN)):
        edge_ms = calendar.span(window, at_ms).edge_ms
        assert edge_ms is not None
        assert edge_ms > at_ms


@pytest.mark.parametrize(
    ("window", "field"),
    [
        (WarmWindow(start="noon", duration_s=1), "start"),
        (WarmWindow(start="61 * * * *", duration_s=1), "start"),
        (WarmWindow(start="0 0 0 * * *", duration_s=1), "start"),
        (WarmWindow(start="0 8 * * *", end="0 8 31 2 *"), "end"),
        (WarmWindow(start="0 8 * * *", duration_s=1, time_zone="Mars/Olympus"), "time_zone"),
        (WarmWindow(start="0 8 * * *", duration_s=1, time_zone="../etc/passwd"), "time_zone"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_field(window: WarmWindow, field: str) -> None:
    assert list(calendar.faults(window)) == [field]


def test_what_can_be_used_has_no_fault() -> None:
    assert calendar.faults(OFFICE) == {}
    assert calendar.faults(WarmWindow(start="0 0 29 2 *", duration_s=60)) == {}

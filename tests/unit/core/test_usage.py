from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.metering import BILLABLE, Phase, Segment
from gpud.core.usage import (
    FINER_NS,
    HOUR_NS,
    Moment,
    Period,
    Session,
    Stretch,
    UsageBy,
    UsageRow,
    cut_hour,
    ended_at,
    ended_by,
    hours_cut,
    hours_of,
    split,
    stretches_of,
    usage_rows,
    whole_hours,
)

S = 1_000_000_000
MS = 1_000_000
NOON_MS = 1_763_726_400_000  # 2025-11-21T12:00:00Z
FOREVER = Period()
DAY_NS = 24 * HOUR_NS
COARSE = [by for by in UsageBy if by not in FINER_NS]
"""Reports that are made from hours; days of seconds would be many lines."""


def segment(
    seq: int = 0,
    *,
    worker: str = "wk_a",
    endpoint: str = "llm",
    phase: Phase = Phase.ACTIVE,
    gpus: tuple[str, ...] = ("GPU-a",),
    start: int = 0,
    end: int | None = S,
    wall_ms: int = NOON_MS,
    boot: str = "b",
) -> Segment:
    return Segment(
        worker_id=WorkerId(worker),
        seq=seq,
        phase=phase,
        endpoint=EndpointName(endpoint),
        revision=Revision("r"),
        gpu_uuids=tuple(GpuUuid(gpu) for gpu in gpus),
        boot_id=boot,
        start_boot_ns=start,
        end_boot_ns=end,
        start_wall_ms=wall_ms,
    )


@st.composite
def sessions(draw: st.DrawFn) -> list[Segment]:
    """Whole lives of a few workers, contiguous, over hour and day borders."""
    found: list[Segment] = []
    for number in range(draw(st.integers(1, 4))):
        gpus = draw(st.lists(st.sampled_from(["GPU-a", "GPU-b", "GPU-c"]), max_size=3, unique=True))
        at_ns = draw(st.integers(0, 10 * DAY_NS))
        wall_ms = NOON_MS + draw(st.integers(-2 * 86_400_000, 2 * 86_400_000))
        endpoint = draw(st.sampled_from(["llm", "embed"]))
        for seq in range(draw(st.integers(1, 6))):
            length_ns = draw(st.one_of(st.integers(0, 5 * S), st.integers(0, 3 * DAY_NS)))
            found.append(
                segment(
                    seq,
                    worker=f"wk_{number}",
                    endpoint=endpoint,
                    phase=draw(st.sampled_from(list(Phase))),
                    gpus=tuple(gpus),
                    start=at_ns,
                    end=at_ns + length_ns,
                    wall_ms=wall_ms,
                )
            )
            at_ns += length_ns
            wall_ms += length_ns // MS
    return found


def sessions_of(segments: list[Segment], period: Period) -> list[Session]:
    lives: dict[str, list[Segment]] = {}
    for each in segments:
        lives.setdefault(each.worker_id, []).append(each)
    return [
        Session(
            worker_id=life[-1].worker_id,
            endpoint=life[-1].endpoint,
            gpu_uuids=life[-1].gpu_uuids,
            billable_ns=sum(each.duration_ns for each in life if each.phase in BILLABLE),
            ended_ns=ended_at(life[-1]),
        )
        for life in lives.values()
        if period.holds(ended_at(life[-1]))
    ]


def report(segments: list[Segment], by: UsageBy, period: Period = FOREVER) -> tuple[UsageRow, ...]:
    """A report straight from the segments."""
    every_ns = FINER_NS.get(by, HOUR_NS)
    stretches = [one for each in segments for one in stretches_of(each, period, every_ns=every_ns)]
    return usage_rows(stretches, sessions_of(segments, period), by=by)


def report_by_hours(segments: list[Segment], by: UsageBy, period: Period) -> tuple[UsageRow, ...]:
    """The same report the way the store makes it: from hours, and segments only where a border cuts."""
    hours: Counter[tuple[int, str, Phase]] = Counter()
    template: dict[str, Segment] = {}
    for each in segments:
        template[each.worker_id] = each
        for hour, ns in hours_of(each):
            hours[hour, each.worker_id, each.phase] += ns

    def summed(wanted: set[int]) -> list[Stretch]:
        return [
            Stretch(
                worker_id=template[worker_id].worker_id,
                endpoint=template[worker_id].endpoint,
                gpu_uuids=template[worker_id].gpu_uuids,
                phase=phase,
                at_ns=hour * HOUR_NS,
                ns=ns,
            )
            for (hour, worker_id, phase), ns in hours.items()
            if hour in wanted
        ]

    first, last = whole_hours(period)
    everything = {hour for hour, _worker, _phase in hours}
    stretches = summed(
        {hour for hour in everything if (first is None or hour >= first) and (last is None or hour < last)}
    )
    for hour in hours_cut(period):
        start_ns, end_ns = hour * HOUR_NS, (hour + 1) * HOUR_NS
        touching = []
        for each in segments:
            begins_ns = each.start_wall_ms * MS
            if start_ns <= begins_ns < end_ns or start_ns <= begins_ns + each.duration_ns < end_ns:
                touching.append(each)
        stretches += cut_hour(hour, summed({hour}), touching, period)
    return usage_rows(stretches, sessions_of(segments, period), by=by)


def phase_totals(rows: tuple[UsageRow, ...]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.phases_ns)
    return +total


@given(st.integers(0, 2**62), st.integers(0, 40 * DAY_NS), st.sampled_from([HOUR_NS, DAY_NS]))
def test_the_pieces_of_a_stretch_sum_to_it_and_lie_in_their_buckets(
    start_ns: int, length_ns: int, every_ns: int
) -> None:
    pieces = list(split(start_ns, start_ns + length_ns, every_ns))
    assert sum(ns for _bucket, ns in pieces) == length_ns
    at_ns = start_ns
    for bucket_ns, ns in pieces:
        assert ns > 0
        assert bucket_ns % every_ns == 0
        assert bucket_ns <= at_ns
        assert at_ns + ns <= bucket_ns + every_ns
        at_ns += ns


@given(sessions())
def test_every_grouping_of_the_same_segments_has_the_same_time(found: list[Segment]) -> None:
    expected: Counter[str] = Counter()
    for each in found:
        expected[each.phase.value] += each.duration_ns * len(each.gpu_uuids)
    for by in COARSE:
        rows = report(found, by)
        assert phase_totals(rows) == +expected
        billable_ns = sum(ns for phase, ns in expected.items() if Phase(phase) in BILLABLE)
        assert sum(row.gpu_ns for row in rows) == billable_ns


@given(sessions())
def test_sessions_and_billed_seconds_agree_between_endpoints_workers_days_and_hours(
    found: list[Segment],
) -> None:
    def totals(by: UsageBy) -> tuple[int, int, int]:
        rows = report(found, by)
        return (
            sum(row.sessions for row in rows),
            sum(row.billed_seconds for row in rows),
            sum(row.wall_ns for row in rows),
        )

    by_worker = totals(UsageBy.WORKER)
    assert by_worker[0] == len({each.worker_id for each in found})
    assert totals(UsageBy.ENDPOINT) == totals(UsageBy.DAY) == totals(UsageBy.HOUR) == by_worker


@given(sessions())
def test_a_session_is_billed_its_time_and_less_than_a_second_more(found: list[Segment]) -> None:
    for row in report(found, UsageBy.WORKER):
        billable_ns = row.gpu_ns or row.wall_ns
        assert 0 <= row.billed_seconds * S - billable_ns < S


@given(sessions(), st.lists(st.integers(-3 * 86_400, 6 * 86_400), min_size=1, max_size=5, unique=True))
def test_consecutive_periods_share_out_time_and_sessions_without_rest(
    found: list[Segment], cuts_s: list[int]
) -> None:
    cuts = [NOON_MS * MS + cut * S for cut in sorted(cuts_s)]
    borders = [None, *cuts, None]
    for by in COARSE:
        whole = report(found, by)
        parts = [
            row
            for since_ns, until_ns in pairwise(borders)
            for row in report(found, by, Period(since_ns=since_ns, until_ns=until_ns))
        ]
        assert phase_totals(tuple(parts)) == phase_totals(whole)
        assert sum(row.sessions for row in parts) == sum(row.sessions for row in whole)
        assert sum(row.billed_seconds for row in parts) == sum(row.billed_seconds for row in whole)


borders_ns = st.one_of(
    st.none(),
    st.integers(-3 * 86_400_000, 9 * 86_400_000).map(lambda ms: (NOON_MS + ms) * MS),
    st.integers(-3 * 24, 9 * 24).map(lambda hours: NOON_MS * MS + hours * HOUR_NS),
)


@given(sessions(), borders_ns, borders_ns)
def test_a_report_from_hours_is_the_report_from_segments(
    found: list[Segment], since_ns: int | None, until_ns: int | None
) -> None:
    period = Period(since_ns=since_ns, until_ns=until_ns)
    for by in COARSE:
        assert report_by_hours(found, by, period) == report(found, by, period)


@given(sessions())
def test_the_hours_of_a_segment_sum_to_it(found: list[Segment]) -> None:
    for each in found:
        shares = list(hours_of(each))
        assert sum(ns for _hour, ns in shares) == each.duration_ns
        assert len({hour for hour, _ns in shares}) == len(shares)


@given(borders_ns, borders_ns)
def test_whole_and_cut_hours_make_up_a_period(since_ns: int | None, until_ns: int | None) -> None:
    period = Period(since_ns=since_ns, until_ns=until_ns)
    first, last = whole_hours(period)
    cut = hours_cut(period)
    for at_ns in (since_ns, until_ns):
        if at_ns is None:
            continue
        for hour in range(at_ns // HOUR_NS - 2, at_ns // HOUR_NS + 3):
            start_ns, end_ns = period.clip(hour * HOUR_NS, (hour + 1) * HOUR_NS)
            whole = (first is None or hour >= first) and (last is None or hour < last)
            assert whole == (end_ns - start_ns == HOUR_NS)
            if 0 < end_ns - start_ns < HOUR_NS:
                assert hour in cut


def test_a_segment_over_midnight_is_split_to_the_nanosecond() -> None:
    last_ms = NOON_MS + 12 * 3_600_000 - 1  # 23:59:59.999
    across = segment(end=2 * MS + 7, wall_ms=last_ms)
    days = report([across], UsageBy.DAY)
    assert [(row.key, row.gpu_ns) for row in days] == [("2025-11-21", MS), ("2025-11-22", MS + 7)]
    assert [(row.sessions, row.billed_seconds) for row in days] == [(0, 0), (1, 1)]
    hours = report([across], UsageBy.HOUR)
    assert [row.key for row in hours] == ["2025-11-21T23", "2025-11-22T00"]


def test_a_session_that_ends_on_the_hour_belongs_to_the_hour_before() -> None:
    rows = report([segment(end=3600 * S)], UsageBy.HOUR)
    assert [(row.key, row.sessions, row.billed_seconds) for row in rows] == [("2025-11-21T12", 1, 3600)]


def test_a_session_is_rounded_up_once_however_many_segments_it_has() -> None:
    flips = [segment(seq, start=seq * 100, end=(seq + 1) * 100) for seq in range(50)]
    (row,) = report(flips, UsageBy.ENDPOINT)
    assert (row.sessions, row.billed_seconds, row.gpu_ns) == (1, 1, 5000)


def test_what_is_not_billable_is_shown_and_not_billed() -> None:
    life = [
        segment(0, phase=Phase.SETUP, start=0, end=S),
        segment(1, phase=Phase.IDLE, start=S, end=3 * S),
        segment(2, phase=Phase.RELEASE, start=3 * S, end=10 * S),
    ]
    (row,) = report(life, UsageBy.WORKER)
    assert (row.gpu_ns, row.wall_ns, row.billed_seconds) == (2 * S, 2 * S, 2)
    assert row.phases_ns == {"idle": 2 * S, "release": 7 * S, "setup": S}


def test_two_gpus_count_twice_and_each_has_a_line_of_its_own() -> None:
    both = [segment(gpus=("GPU-a", "GPU-b"), end=1_600_000_000)]
    (row,) = report(both, UsageBy.ENDPOINT)
    assert (row.gpu_ns, row.wall_ns, row.billed_seconds) == (3_200_000_000, 1_600_000_000, 4)
    lines = report(both, UsageBy.GPU)
    assert [(line.key, line.gpu_ns, line.billed_seconds) for line in lines] == [
        ("GPU-a", 1_600_000_000, 2),
        ("GPU-b", 1_600_000_000, 2),
    ]


def test_a_cpu_worker_has_plain_time_and_no_gpu_time() -> None:
    (row,) = report([segment(gpus=(), end=1_500_000_000)], UsageBy.ENDPOINT)
    assert (row.gpu_ns, row.wall_ns, row.billed_seconds) == (0, 1_500_000_000, 2)


def test_time_outside_the_period_is_left_out() -> None:
    period = Period(since_ns=NOON_MS * MS + 200, until_ns=NOON_MS * MS + 500)
    (row,) = report([segment(end=S)], UsageBy.ENDPOINT, period)
    assert (row.gpu_ns, row.sessions, row.billed_seconds) == (300, 0, 0)
    assert report([segment(end=100)], UsageBy.ENDPOINT, period) == ()


@pytest.mark.parametrize(
    ("moment", "expected_ns"),
    [
        (Moment(boot_id="b", boot_ns=500), 400),
        (Moment(boot_id="b", boot_ns=50), 0),
        (Moment(boot_id="c", boot_ns=9999, last_seen=("b", 350)), 250),
        (Moment(boot_id="c", boot_ns=9999, last_seen=("a", 350)), 0),
        (Moment(boot_id="c", boot_ns=9999), 0),
    ],
    ids=["now", "never negative", "last heartbeat of its boot", "nothing known of its boot", "nothing known"],
)
def test_an_open_segment_counts_up_to_what_is_known(moment: Moment, expected_ns: int) -> None:
    assert ended_by(segment(start=100, end=None), moment).duration_ns == expected_ns


def test_a_closed_segment_is_left_as_it_is() -> None:
    closed = segment(start=100, end=200)
    assert ended_by(closed, Moment(boot_id="b", boot_ns=9999)) is closed


@given(sessions(), st.integers(-3_600, 3_600), st.integers(0, 600))
def test_minutes_and_seconds_of_a_period_sum_to_it_phase_by_phase(
    found: list[Segment], since_s: int, length_s: int
) -> None:
    since_ns = NOON_MS * MS + since_s * S + 7
    period = Period(since_ns=since_ns, until_ns=since_ns + length_s * S)
    whole = report(found, UsageBy.ENDPOINT, period)
    for by, every_ns in FINER_NS.items():
        rows = report(found, by, period)
        assert phase_totals(rows) == phase_totals(whole)
        for row in rows:
            lived = {each.worker_id for each in found}
            # Labels of the wall clock are whole milliseconds: neighbours may overlap by less than one.
            assert sum(row.phases_ns.values()) <= every_ns * 3 * len(lived) + 3 * MS * len(found)
        assert sum(row.billed_seconds for row in rows) == sum(row.billed_seconds for row in whole)


def test_minutes_and_seconds_have_the_time_in_them_as_their_name() -> None:
    period = Period(since_ns=NOON_MS * MS, until_ns=NOON_MS * MS + 60 * S)
    long = segment(start=0, end=2 * S + 5, wall_ms=NOON_MS)
    assert [(row.key, row.gpu_ns) for row in report([long], UsageBy.SECOND, period)] == [
        ("2025-11-21T12:00:00", S),
        ("2025-11-21T12:00:01", S),
        ("2025-11-21T12:00:02", 5),
    ]
    assert [row.key for row in report([long], UsageBy.MINUTE, period)] == ["2025-11-21T12:00"]


def test_idle_time_has_a_line_of_its_own_and_a_session_counts_in_no_phase() -> None:
    life = [
        segment(0, phase=Phase.ACTIVE, start=0, end=S),
        segment(1, phase=Phase.IDLE, start=S, end=3 * S),
        segment(2, phase=Phase.RELEASE, start=3 * S, end=4 * S),
    ]
    rows = {row.key: row for row in report(life, UsageBy.PHASE)}
    assert {key: row.gpu_ns for key, row in rows.items()} == {"active": S, "idle": 2 * S, "release": 0}
    assert rows["release"].phases_ns == {"release": S}
    assert {row.sessions for row in rows.values()} == {0}

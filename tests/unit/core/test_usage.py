from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.metering import BILLABLE, Phase, Segment
from gpud.core.usage import DAY_NS, HOUR_NS, Moment, Period, UsageBy, UsageRow, ended_by, split, usage_rows

S = 1_000_000_000
MS = 1_000_000
NOON_MS = 1_763_726_400_000  # 2025-11-21T12:00:00Z
FOREVER = Period()


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
    for by in UsageBy:
        rows = usage_rows(found, by=by, period=FOREVER)
        assert phase_totals(rows) == +expected
        billable_ns = sum(ns for phase, ns in expected.items() if Phase(phase) in BILLABLE)
        assert sum(row.gpu_ns for row in rows) == billable_ns


@given(sessions())
def test_sessions_and_billed_seconds_agree_between_endpoints_workers_days_and_hours(
    found: list[Segment],
) -> None:
    def totals(by: UsageBy) -> tuple[int, int, int]:
        rows = usage_rows(found, by=by, period=FOREVER)
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
    for row in usage_rows(found, by=UsageBy.WORKER, period=FOREVER):
        billable_ns = row.gpu_ns or row.wall_ns
        assert 0 <= row.billed_seconds * S - billable_ns < S


@given(sessions(), st.lists(st.integers(-3 * 86_400, 6 * 86_400), min_size=1, max_size=5, unique=True))
def test_consecutive_periods_share_out_time_and_sessions_without_rest(
    found: list[Segment], cuts_s: list[int]
) -> None:
    cuts = [NOON_MS * MS + cut * S for cut in sorted(cuts_s)]
    borders = [None, *cuts, None]
    for by in UsageBy:
        whole = usage_rows(found, by=by, period=FOREVER)
        parts = [
            row
            for since_ns, until_ns in pairwise(borders)
            for row in usage_rows(found, by=by, period=Period(since_ns=since_ns, until_ns=until_ns))
        ]
        assert phase_totals(tuple(parts)) == phase_totals(whole)
        assert sum(row.sessions for row in parts) == sum(row.sessions for row in whole)
        assert sum(row.billed_seconds for row in parts) == sum(row.billed_seconds for row in whole)


def test_a_segment_over_midnight_is_split_to_the_nanosecond() -> None:
    last_ms = NOON_MS + 12 * 3_600_000 - 1  # 23:59:59.999
    across = segment(end=2 * MS + 7, wall_ms=last_ms)
    days = usage_rows([across], by=UsageBy.DAY, period=FOREVER)
    assert [(row.key, row.gpu_ns) for row in days] == [("2025-11-21", MS), ("2025-11-22", MS + 7)]
    assert [(row.sessions, row.billed_seconds) for row in days] == [(0, 0), (1, 1)]
    hours = usage_rows([across], by=UsageBy.HOUR, period=FOREVER)
    assert [row.key for row in hours] == ["2025-11-21T23", "2025-11-22T00"]


def test_a_session_that_ends_on_the_hour_belongs_to_the_hour_before() -> None:
    rows = usage_rows([segment(end=3600 * S)], by=UsageBy.HOUR, period=FOREVER)
    assert [(row.key, row.sessions, row.billed_seconds) for row in rows] == [("2025-11-21T12", 1, 3600)]


def test_a_session_is_rounded_up_once_however_many_segments_it_has() -> None:
    flips = [segment(seq, start=seq * 100, end=(seq + 1) * 100) for seq in range(50)]
    (row,) = usage_rows(flips, by=UsageBy.ENDPOINT, period=FOREVER)
    assert (row.sessions, row.billed_seconds, row.gpu_ns) == (1, 1, 5000)


def test_what_is_not_billable_is_shown_and_not_billed() -> None:
    life = [
        segment(0, phase=Phase.SETUP, start=0, end=S),
        segment(1, phase=Phase.IDLE, start=S, end=3 * S),
        segment(2, phase=Phase.RELEASE, start=3 * S, end=10 * S),
    ]
    (row,) = usage_rows(life, by=UsageBy.WORKER, period=FOREVER)
    assert (row.gpu_ns, row.wall_ns, row.billed_seconds) == (2 * S, 2 * S, 2)
    assert row.phases_ns == {"idle": 2 * S, "release": 7 * S, "setup": S}


def test_two_gpus_count_twice_and_each_has_a_line_of_its_own() -> None:
    both = [segment(gpus=("GPU-a", "GPU-b"), end=1_600_000_000)]
    (row,) = usage_rows(both, by=UsageBy.ENDPOINT, period=FOREVER)
    assert (row.gpu_ns, row.wall_ns, row.billed_seconds) == (3_200_000_000, 1_600_000_000, 4)
    lines = usage_rows(both, by=UsageBy.GPU, period=FOREVER)
    assert [(line.key, line.gpu_ns, line.billed_seconds) for line in lines] == [
        ("GPU-a", 1_600_000_000, 2),
        ("GPU-b", 1_600_000_000, 2),
    ]


def test_a_cpu_worker_has_plain_time_and_no_gpu_time() -> None:
    (row,) = usage_rows([segment(gpus=(), end=1_500_000_000)], by=UsageBy.ENDPOINT, period=FOREVER)
    assert (row.gpu_ns, row.wall_ns, row.billed_seconds) == (0, 1_500_000_000, 2)


def test_time_outside_the_period_is_left_out() -> None:
    period = Period(since_ns=NOON_MS * MS + 200, until_ns=NOON_MS * MS + 500)
    (row,) = usage_rows([segment(end=S)], by=UsageBy.ENDPOINT, period=period)
    assert (row.gpu_ns, row.sessions, row.billed_seconds) == (300, 0, 0)
    assert usage_rows([segment(end=100)], by=UsageBy.ENDPOINT, period=period) == ()


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

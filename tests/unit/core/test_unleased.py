from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.gpu import WHOLE_PPM
from gpud.core.ids import GpuUuid
from gpud.core.metering import Phase
from gpud.core.unleased import Hold, Watch, parts, spans, unleased
from gpud.core.usage import FINER_NS, HOUR_NS, NS_PER_MS, Period, UsageBy, usage_rows

GPU = GpuUuid("GPU-a")
NOON_MS = 1_763_726_400_000
S = 1_000_000_000


def watch(start: int, end: int, boot: str = "b") -> Watch:
    return Watch(gpu_uuid=GPU, boot_id=boot, start_boot_ns=start, end_boot_ns=end, start_wall_ms=NOON_MS)


def hold(start: int, end: int | None, share_ppm: int = WHOLE_PPM, boot: str = "b") -> Hold:
    return Hold(gpu_uuid=GPU, boot_id=boot, start_boot_ns=start, end_boot_ns=end, share_ppm=share_ppm)


def test_a_gpu_is_nobodys_before_between_and_after_its_leases() -> None:
    found = list(parts([watch(0, 100)], [hold(10, 30), hold(60, None)]))
    assert [(part.ns, part.leased_ppm) for part in found] == [
        (10, 0),
        (20, WHOLE_PPM),
        (30, 0),
        (40, WHOLE_PPM),
    ]


def test_what_slices_leave_of_a_gpu_is_nobodys() -> None:
    found = parts([watch(0, 100)], [hold(0, 50, 300_000), hold(25, None, 500_000)])
    stretches = list(unleased(found, Period(), every_ns=HOUR_NS))
    assert [(each.ns, each.share_ppm) for each in stretches] == [(25, 700_000), (25, 200_000), (50, 500_000)]


def test_leases_of_another_boot_or_outside_of_what_was_watched_do_not_count() -> None:
    found = list(parts([watch(100, 200)], [hold(0, 100), hold(120, 180, boot="a"), hold(200, None)]))
    assert [(part.ns, part.leased_ppm) for part in found] == [(100, 0)]


@given(
    st.integers(0, 3 * 3600 * S),
    st.lists(st.tuples(st.integers(0, 9 * 3600 * S), st.integers(1, 3600 * S)), max_size=5),
)
def test_leased_and_unleased_time_of_each_hour_sum_to_the_time_that_was_watched(
    start: int, lengths: list[tuple[int, int]]
) -> None:
    end, at = start + 5 * 3600 * S, 0
    holds = []
    for gap, length in lengths:
        holds.append(hold(at + gap, at + gap + length))
        at += gap + length
    watched: Counter[int] = Counter()
    leased: Counter[int] = Counter()
    free: Counter[int] = Counter()
    found = list(parts([watch(start, end)], holds))
    assert sum(part.ns for part in found) == end - start
    border_ns = NOON_MS * NS_PER_MS
    for hour in range(6):
        period = Period(since_ns=border_ns + hour * HOUR_NS, until_ns=border_ns + (hour + 1) * HOUR_NS)
        for part in found:
            since_ns, until_ns = period.clip(part.start_ns, part.start_ns + part.ns)
            watched[hour] += until_ns - since_ns
            leased[hour] += (until_ns - since_ns) * part.leased_ppm // WHOLE_PPM
        free[hour] += sum(each.ns for each in unleased(found, period, every_ns=HOUR_NS))
    assert all(leased[hour] + free[hour] == watched[hour] for hour in range(6))
    assert sum(watched.values()) == end - start


def test_unleased_time_is_in_every_report_and_on_no_bill() -> None:
    found = list(parts([watch(0, 5 * S)], []))
    for by in UsageBy:
        every_ns = FINER_NS.get(by, HOUR_NS)
        rows = usage_rows(unleased(found, Period(), every_ns=every_ns), (), by=by)
        assert sum(row.phases_ns[Phase.UNLEASED] for row in rows) == 5 * S
        assert sum(row.gpu_ns + row.wall_ns + row.cost_micros for row in rows) == 0


_SPAN = st.tuples(st.integers(0, 40), st.integers(0, 20))


@given(
    st.lists(_SPAN, max_size=4),
    st.lists(st.tuples(_SPAN, st.sampled_from("ab"), st.booleans()), max_size=8),
    st.one_of(st.none(), st.integers(-5, 60)),
    st.one_of(st.none(), st.integers(-5, 60)),
)
def test_leases_beyond_the_spans_of_a_period_change_nothing_in_it(
    watched: list[tuple[int, int]],
    leased: list[tuple[tuple[int, int], str, bool]],
    since: int | None,
    until: int | None,
) -> None:
    noon_ns = NOON_MS * NS_PER_MS
    period = Period(
        since_ns=None if since is None else noon_ns + since,
        until_ns=None if until is None else noon_ns + until,
    )
    watches = [watch(start, start + ns, boot) for boot in "ab" for start, ns in watched]
    holds = [
        hold(start, None if goes_on else start + ns, 300_000, boot) for (start, ns), boot, goes_on in leased
    ]
    reaches = spans(watches, period)
    near = [
        each
        for each in holds
        if each.boot_id in reaches
        and each.start_boot_ns < reaches[each.boot_id][1]
        and (each.end_boot_ns is None or each.end_boot_ns > reaches[each.boot_id][0])
    ]

    def found(of: list[Hold]) -> Counter[tuple[int, int]]:
        sums: Counter[tuple[int, int]] = Counter()
        for each in unleased(parts(watches, of), period, every_ns=HOUR_NS):
            sums[each.at_ns, each.share_ppm] += each.ns
        return sums

    assert found(near) == found(holds)

from __future__ import annotations

from dataclasses import replace

import pytest

from gpud.core.audit import (
    HourRecord,
    LeaseRecord,
    hour_breaches,
    lease_overlaps,
    lease_time_breaches,
    segment_breaches,
    total_breaches,
    worker_breaches,
)
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.metering import Phase, Segment
from gpud.core.usage import UsageRow
from gpud.core.worker import Cause, Worker, WorkerState

A, B = GpuUuid("GPU-a"), GpuUuid("GPU-b")


def lease(gpu: GpuUuid = A, start: int = 0, end: int | None = 30, worker: str = "wk_1") -> LeaseRecord:
    return LeaseRecord(
        gpu_uuid=gpu, worker_id=WorkerId(worker), boot_id="b", leased_boot_ns=start, released_boot_ns=end
    )


def life(*ends: int | None, gpus: tuple[GpuUuid, ...] = (A,), start: int = 0) -> list[Segment]:
    """Contiguous segments from `start`, the first in set-up."""
    found = []
    for seq, end in enumerate(ends):
        found.append(
            Segment(
                worker_id=WorkerId("wk_1"),
                seq=seq,
                phase=Phase.IDLE if seq else Phase.SETUP,
                endpoint=EndpointName("llm"),
                revision=Revision("r"),
                gpu_uuids=gpus,
                boot_id="b",
                start_boot_ns=start,
                end_boot_ns=end,
                start_wall_ms=0,
            )
        )
        start = end or 0
    return found


def worker(state: WorkerState, *gpus: GpuUuid) -> Worker:
    return Worker(
        id=WorkerId("wk_1"),
        endpoint=EndpointName("llm"),
        revision=Revision("r"),
        state=state,
        generation=3,
        since_s=0.0,
        created_at_ms=0,
        port=80,
        gpu_uuids=gpus,
    )


def test_a_whole_life_keeps_every_promise() -> None:
    segments, leases = life(10, 20, 30, gpus=(A, B)), [lease(A), lease(B)]
    assert list(segment_breaches(segments)) == []
    assert list(lease_time_breaches(segments, leases)) == []
    assert list(lease_overlaps(leases)) == []


def test_a_life_under_way_keeps_every_promise() -> None:
    segments, leases = life(10, None), [lease(end=None)]
    assert list(segment_breaches(segments)) == []
    assert list(lease_time_breaches(segments, leases)) == []
    assert list(worker_breaches(worker(WorkerState.READY, A), leases, segments[-1:])) == []


def test_nothing_has_no_breach() -> None:
    assert list(segment_breaches([])) == []
    assert list(lease_time_breaches([], [])) == []


def test_a_missing_segment_is_found() -> None:
    first, _second, third = life(10, 20, 30)
    assert list(segment_breaches([first, third])) == [
        "Worker wk_1: segment 2 stands where segment 1 should be."
    ]


def test_an_open_segment_before_the_last_is_found() -> None:
    first, second = life(10, 20)
    (breach,) = segment_breaches([replace(first, end_boot_ns=None), second])
    assert breach == "Worker wk_1: segment 0 is open, though segment 1 follows it."


def test_overlapping_segments_are_found() -> None:
    first, second = life(10, 20)
    (breach,) = segment_breaches([first, replace(second, start_boot_ns=7)])
    assert breach == "Worker wk_1: segments 0 and 1 overlap by 3 ns."


def test_time_metered_nowhere_is_found_down_to_a_nanosecond() -> None:
    first, second, third = life(10, 20, 30)
    (breach,) = segment_breaches([first, second, replace(third, start_boot_ns=21)])
    assert breach == "Worker wk_1: 1 ns between segments 1 and 2 are metered nowhere."


def test_a_worker_that_gave_its_gpus_back_does_not_come_again() -> None:
    first, second = life(10, None)
    assert list(segment_breaches([first, replace(second, start_boot_ns=50)])) != []


def test_time_of_two_boots_is_not_compared() -> None:
    first, second = life(10, None)
    assert list(segment_breaches([first, replace(second, boot_id="c", start_boot_ns=2)])) == []


@pytest.mark.parametrize(
    "leases",
    [
        [],
        [lease(end=29)],
        [lease(start=1)],
        [lease(end=None)],
        [lease(B)],
        [lease(end=10), lease(start=10)],
    ],
    ids=["no lease", "released early", "leased late", "never released", "another GPU", "two leases"],
)
def test_lease_time_that_is_not_what_was_metered_is_found(leases: list[LeaseRecord]) -> None:
    assert list(lease_time_breaches(life(10, 20, 30), leases)) != []


@pytest.mark.parametrize("woken_ns", [20, 25], ids=["at once", "later"])
def test_a_worker_that_slept_has_a_lease_for_each_time_it_was_awake(woken_ns: int) -> None:
    first, second = life(10, 20)
    slept = replace(second, close_reason=Cause.FELL_ASLEEP)
    (woken,) = life(30, start=woken_ns)
    segments = [first, slept, replace(woken, seq=2)]
    leases = [lease(end=20), lease(start=woken_ns)]
    assert list(segment_breaches(segments)) == []
    assert list(lease_time_breaches(segments, leases)) == []
    assert list(lease_time_breaches(segments, [lease()])) != [], "it was given back in between"


def test_a_lease_that_was_never_metered_is_found() -> None:
    (breach,) = lease_time_breaches([], [lease()])
    assert breach == "Worker wk_1: the lease of GPU GPU-a from 0 to 30 is not what its segments meter."


def test_a_second_gpu_that_was_not_metered_is_found() -> None:
    (breach,) = lease_time_breaches(life(10, 30), [lease(A), lease(B)])
    assert "GPU-b" in breach


def test_overlapping_leases_of_a_gpu_are_found() -> None:
    (breach,) = lease_overlaps([lease(end=30), lease(start=28, end=40, worker="wk_2")])
    assert breach == "GPU GPU-a: the leases of wk_1 and wk_2 overlap by 2 ns."


def test_a_lease_on_top_of_an_open_one_is_found() -> None:
    (breach,) = lease_overlaps([lease(end=None), lease(start=28, end=40, worker="wk_2")])
    assert breach == "GPU GPU-a: leased to wk_2 while wk_1 holds it."


def test_leases_that_follow_each_other_do_not_overlap() -> None:
    assert list(lease_overlaps([lease(end=30), lease(B), lease(start=30, end=None, worker="wk_2")])) == []


@pytest.mark.parametrize(
    ("subject", "leases", "segments", "expected"),
    [
        (worker(WorkerState.READY, A), [], life(None), "Worker wk_1 is ready on GPU GPU-a without a lease."),
        (
            worker(WorkerState.READY),
            [lease(end=None)],
            life(None),
            "Worker wk_1 is ready and leases GPU GPU-a, which it does not say.",
        ),
        (worker(WorkerState.READY), [], [], "Worker wk_1 is ready and is not metered."),
        (
            worker(WorkerState.GONE, A),
            [lease(end=None)],
            [],
            "Worker wk_1 is gone and still leases GPU GPU-a.",
        ),
        (
            worker(WorkerState.GONE, A),
            [],
            life(None),
            "Worker wk_1 is gone and still metered in segment 0.",
        ),
        (
            worker(WorkerState.PENDING),
            [lease(end=None)],
            [],
            "Worker wk_1 is pending and still leases GPU GPU-a.",
        ),
    ],
)
def test_a_worker_that_does_not_hold_what_it_says_is_found(
    subject: Worker, leases: list[LeaseRecord], segments: list[Segment], expected: str
) -> None:
    assert list(worker_breaches(subject, leases, segments)) == [expected]


def test_hours_that_are_the_sums_of_segments_are_fine() -> None:
    hours = [
        HourRecord(worker_id=WorkerId("wk_1"), hour=0, phase="idle", ns=20),
        HourRecord(worker_id=WorkerId("wk_1"), hour=0, phase="setup", ns=10),
    ]
    assert list(hour_breaches(life(10, 20, 30), hours)) == []
    assert list(hour_breaches(life(10, 20, 30, None), hours)) == []
    assert list(hour_breaches([], [])) == []


@pytest.mark.parametrize(
    "hours",
    [
        [],
        [HourRecord(worker_id=WorkerId("wk_1"), hour=0, phase="setup", ns=9)],
        [HourRecord(worker_id=WorkerId("wk_1"), hour=1, phase="setup", ns=10)],
        [HourRecord(worker_id=WorkerId("wk_1"), hour=0, phase="idle", ns=10)],
    ],
    ids=["missing", "short", "another hour", "another phase"],
)
def test_hours_that_are_not_the_sums_of_segments_are_found(hours: list[HourRecord]) -> None:
    assert list(hour_breaches(life(10), hours)) != []


def test_hours_without_segments_are_found() -> None:
    (breach,) = hour_breaches([], [HourRecord(worker_id=WorkerId("wk_1"), hour=7, phase="idle", ns=3)])
    assert breach == (
        "Worker wk_1: its segments have 0 ns in phase idle in hour 7, but usage is summed to 3 ns."
    )


def test_a_gone_worker_without_holds_is_fine() -> None:
    assert list(worker_breaches(worker(WorkerState.GONE, A), [], [])) == []


def test_groupings_that_differ_are_found() -> None:
    def line(idle_ns: int) -> UsageRow:
        return UsageRow(
            key="x",
            gpu_ns=0,
            wall_ns=0,
            billed_seconds=0,
            sessions=0,
            phases_ns={},
            phases_ppm_ns={"idle": idle_ns * 1_000_000},
        )

    assert list(total_breaches({"endpoint": (line(3), line(4)), "day": (line(7),)})) == []
    assert list(total_breaches({"endpoint": (line(3),), "day": (line(4),)})) == [
        "GPU time in phase idle is 3 ns by endpoint but 4 ns by day."
    ]

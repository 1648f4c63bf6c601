from __future__ import annotations

import bisect

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.exposition import Exposition
from gpud.core.fleet_tally import FleetTally, Histogram
from gpud.core.gpu import WHOLE_PPM
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.metering import Phase, Segment
from gpud.core.records import ColdStartSaved, EventRecorded, SegmentClosed, SegmentOpened

WORKER = WorkerId("wk_" + "a" * 16)
LLM = EndpointName("llm")


def _segment(
    seq: int, phase: Phase, start_ns: int, end_ns: int | None = None, share_ppm: int = WHOLE_PPM
) -> Segment:
    return Segment(
        worker_id=WORKER,
        seq=seq,
        phase=phase,
        endpoint=LLM,
        revision=Revision("r"),
        gpu_uuids=(GpuUuid("GPU-0"), GpuUuid("GPU-1")),
        boot_id="b",
        start_boot_ns=start_ns,
        start_wall_ms=0,
        end_boot_ns=end_ns,
        share_ppm=share_ppm,
    )


def test_gpu_time_grows_while_a_segment_is_open_and_stays_when_it_is_closed() -> None:
    tally = FleetTally()
    tally.note(SegmentOpened(segment=_segment(0, Phase.START, 1_000_000_000)))
    assert tally.gpu_seconds(3_000_000_000) == {("llm", "start"): 4.0}
    tally.note(SegmentClosed(segment=_segment(0, Phase.START, 1_000_000_000, 4_000_000_000)))
    tally.note(SegmentOpened(segment=_segment(1, Phase.IDLE, 4_000_000_000, share_ppm=WHOLE_PPM // 2)))
    assert tally.gpu_seconds(5_000_000_000) == {("llm", "start"): 6.0, ("llm", "idle"): 1.0}


def test_a_start_counts_once_though_it_is_saved_again_with_its_first_answer() -> None:
    start = ColdStart(
        worker_id=WORKER,
        endpoint=LLM,
        revision=Revision("r"),
        at_ms=0,
        phases_ns={StartPhase.PULL: 2_000_000_000, StartPhase.READY: 500_000_000},
    )
    tally = FleetTally()
    tally.note(ColdStartSaved(start=start))
    tally.note(ColdStartSaved(start=start))
    assert (tally.starts["llm"].count, tally.starts["llm"].total) == (1, 2.5)
    assert tally.phases["llm", "pull"].count == 1


def test_requests_that_left_without_a_worker_are_in_no_distribution() -> None:
    tally = FleetTally()
    tally.note_exchanges("llm", [(0.0, 1.0, 3.0), (0.0, -1.0, 2.0)])
    assert tally.queue_waits["llm"].count == 1
    assert tally.services["llm"].total == 2.0
    tally.note(EventRecorded(kind="worker.ready", at_ms=0, endpoint="llm", worker_id="", facts={}))
    assert tally.events == {"worker.ready": 1}


@given(
    st.lists(st.floats(0, 100)), st.lists(st.floats(0.1, 50), min_size=1, max_size=6, unique=True).map(sorted)
)
def test_each_bucket_counts_the_values_up_to_its_bound(values: list[float], buckets: list[float]) -> None:
    histogram = Histogram(tuple(buckets))
    for value in values:
        histogram.observe(value)
    counted = dict(histogram.cumulative())
    assert counted["+Inf"] == len(values) == histogram.count
    for bound, (_, count) in zip(buckets, histogram.cumulative(), strict=False):
        assert count == bisect.bisect_right(sorted(values), bound)


@given(st.text(max_size=30), st.floats(allow_nan=False, allow_infinity=False))
def test_a_parser_reads_what_was_written(label: str, value: float) -> None:
    page = Exposition()
    page.gauge("gpud_x", "What it is.", [((("name", label),), value), ((), 3)])
    page.histogram("gpud_h", "Spread.", [((("name", label),), Histogram((1.0, 2.5)))])
    page.summary("gpud_s", "Sum.", 1.5, 2)
    families = {family.name: family for family in text_string_to_metric_families(page.text())}
    first, second = families["gpud_x"].samples
    assert (first.labels, first.value) == ({"name": label}, value)
    assert (second.labels, second.value) == ({}, 3)
    assert {sample.labels["le"] for sample in families["gpud_h"].samples if "le" in sample.labels} == {
        "1",
        "2.5",
        "+Inf",
    }
    assert [sample.value for sample in families["gpud_s"].samples] == [1.5, 2]

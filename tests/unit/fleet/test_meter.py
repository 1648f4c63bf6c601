from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpud.core.metering import BILLABLE, Phase, Segment
from gpud.core.records import FleetChange, LeaseClosed, LeaseOpened, SegmentClosed, SegmentOpened
from gpud.core.worker import Cause, Worker, WorkerEvent, WorkerState, advance
from gpud.fleet.meter import Meter
from tests.unit.core.making import gpu_uuid, worker

_S, _C = WorkerState, Cause
_MS = 1_000_000
_WALL_NS = 1_700_000_000 * 1_000_000_000


class _Clock:
    """Moved by hand."""

    boot_id = "boot-1"

    def __init__(self) -> None:
        self.at_ns = 1_000_000 * _MS
        self.wall_ahead_ns = _WALL_NS

    def now_s(self) -> float:
        return self.at_ns / 1e9

    def boot_ns(self) -> int:
        return self.at_ns

    def wall_ns(self) -> int:
        return self.at_ns + self.wall_ahead_ns

    def at_ms(self) -> int:
        return self.wall_ns() // _MS


class _Books:
    """A worker on its way, its meter, and what has been written of it."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.rows: list[FleetChange] = []
        self.had_s: dict[str, float] = {}
        """What the gateway tells next of keys."""
        self.meter = Meter(self.clock, self.rows.append, lambda _: self._take())
        self.worker = worker(state=_S.PENDING)
        self.ready_at_ns = 0

    def _take(self) -> dict[str, float]:
        had, self.had_s = self.had_s, {}
        return had

    def wait(self, ms: int) -> None:
        self.clock.at_ns += ms * _MS

    def move(self, cause: Cause, *, in_flight: int = 0, **facts: Any) -> None:
        event = WorkerEvent(worker_id=self.worker.id, cause=cause, **facts)
        after = advance(self.worker, event, now_s=self.clock.now_s())
        assert after is not None, f"{cause} means nothing in {self.worker.state}"
        before, self.worker = self.worker, after
        self.meter.moved(before, after, in_flight=in_flight)

    def alive(self) -> None:
        self.meter.alive(self.worker.id, at_boot_ns=self.clock.at_ns)

    def start(self) -> None:
        """To READY: 10 ms of set-up, 20 ms of start."""
        self.move(_C.GPUS_RESERVED, gpu_uuids=(gpu_uuid(0), gpu_uuid(1)))
        self.move(_C.GPUS_VERIFIED)
        self.wait(10)
        self.move(_C.CONTAINER_STARTED, started_ns=self.clock.wall_ns(), address="10.0.0.2")
        self.wait(20)
        self.move(_C.PROBE_PASSED)
        self.ready_at_ns = self.clock.at_ns

    def stop(self, *, after_ms: int = 5) -> None:
        self.move(_C.IDLE)
        self.move(_C.DRAINED)
        self.wait(after_ms)
        self.move(_C.CONTAINER_STOPPED, finished_ns=self.clock.wall_ns(), exit_code=0)
        self.wait(3)
        self.move(_C.RELEASED)

    @property
    def segments(self) -> list[Segment]:
        """Closed ones, by `seq`."""
        return [row.segment for row in self.rows if isinstance(row, SegmentClosed)]

    @property
    def phases(self) -> list[tuple[Phase, float]]:
        """Closed ones that lasted, as (phase, milliseconds)."""
        return [(each.phase, each.duration_ns / _MS) for each in self.segments if each.duration_ns]


def test_a_whole_life_is_metered_phase_by_phase() -> None:
    books = _Books()
    books.start()
    books.wait(100)
    books.stop()
    assert books.phases == [
        (Phase.SETUP, 10),
        (Phase.START, 20),
        (Phase.IDLE, 100),
        (Phase.STOP, 5),
        (Phase.RELEASE, 3),
    ]


def test_what_keys_had_is_written_with_the_segment_in_which_they_had_it() -> None:
    books = _Books()
    books.start()
    books.meter.busy(books.worker.id)
    books.wait(300)
    books.had_s = {"key_a": 0.2, "key_b": 0.1}
    books.meter.idle(books.worker.id)
    books.wait(400)
    books.meter.settle()
    books.alive()
    books.meter.busy(books.worker.id)
    books.wait(50)
    books.had_s = {"key_b": 0.05}
    books.stop()
    shares = [(each.phase, dict(each.keys)) for each in books.segments if each.keys]
    assert shares == [
        (Phase.ACTIVE, {"key_a": 200_000_000, "key_b": 100_000_000}),
        (Phase.ACTIVE, {"key_b": 50_000_000}),
    ]


def test_a_worker_that_is_busy_for_long_has_its_segment_cut_and_nothing_is_lost() -> None:
    books = _Books()
    books.start()
    books.meter.busy(books.worker.id)
    for _ in range(7):
        books.wait(100_000)
        books.had_s = {"key_a": 100.0}
        books.meter.settle()
        books.alive()
    books.stop()
    active = [each for each in books.segments if each.phase is Phase.ACTIVE]
    assert [each.duration_ns for each in active] == [300 * 10**9, 300 * 10**9, 100 * 10**9]
    assert [dict(each.keys) for each in active] == [{"key_a": each.duration_ns} for each in active]
    for before, after in pairwise(books.segments):
        assert (after.seq, after.start_boot_ns) == (before.seq + 1, before.end_boot_ns)


def test_leases_last_from_the_first_segment_to_the_last() -> None:
    books = _Books()
    books.start()
    books.stop()
    opened = [row for row in books.rows if isinstance(row, LeaseOpened)]
    closed = [row for row in books.rows if isinstance(row, LeaseClosed)]
    assert [row.gpu_uuid for row in opened] == [row.gpu_uuid for row in closed] == [gpu_uuid(0), gpu_uuid(1)]
    assert {row.at_boot_ns for row in opened} == {books.segments[0].start_boot_ns}
    assert {row.at_boot_ns for row in closed} == {books.segments[-1].end_boot_ns}


def test_a_request_makes_a_worker_active_until_its_end() -> None:
    books = _Books()
    books.start()
    books.wait(1000)
    books.meter.busy(books.worker.id)
    books.wait(400)
    books.meter.idle(books.worker.id)
    books.wait(600)
    books.stop()
    assert books.phases[2:5] == [(Phase.IDLE, 1000), (Phase.ACTIVE, 400), (Phase.IDLE, 600)]


def test_an_idle_moment_shorter_than_a_tenth_of_a_second_counts_as_active() -> None:
    books = _Books()
    books.start()
    for pause_ms in (99, 100):
        books.meter.busy(books.worker.id)
        books.wait(400)
        books.meter.idle(books.worker.id)
        books.wait(pause_ms)
    books.meter.busy(books.worker.id)
    books.wait(7)
    books.stop()
    assert books.phases[2:5] == [(Phase.ACTIVE, 899), (Phase.IDLE, 100), (Phase.ACTIVE, 7)]


def test_settling_ends_what_has_been_idle_long_enough() -> None:
    books = _Books()
    books.start()
    books.meter.busy(books.worker.id)
    books.wait(50)
    books.meter.idle(books.worker.id)
    books.wait(50)
    assert books.meter.settle(), "one may follow"
    books.wait(50)
    assert not books.meter.settle()
    books.alive()
    assert books.phases[2:] == [(Phase.ACTIVE, 50)]


def test_nothing_is_written_of_a_switch_before_a_sign_of_life_from_after_it() -> None:
    books = _Books()
    books.start()
    books.alive()
    books.wait(100)
    books.meter.busy(books.worker.id)
    written = len(books.rows)
    books.wait(100)
    assert len(books.rows) == written
    books.alive()
    assert [type(row) for row in books.rows[written:]] == [SegmentClosed, SegmentOpened]


def test_what_seemed_to_happen_after_the_containers_end_never_was() -> None:
    books = _Books()
    books.start()
    books.alive()
    books.wait(100)
    finished_ns = books.clock.wall_ns()
    books.wait(200)
    books.meter.busy(books.worker.id)
    books.wait(5)
    books.meter.idle(books.worker.id)
    books.move(_C.PROBE_FAILED)
    books.wait(10_000)
    books.move(_C.EXITED, finished_ns=finished_ns)
    assert books.phases == [(Phase.SETUP, 10), (Phase.START, 20), (Phase.IDLE, 100)]
    assert not books.segments[-1].estimated


def test_a_container_that_vanished_is_billed_to_its_last_sign_of_life() -> None:
    books = _Books()
    books.start()
    books.wait(100)
    books.alive()
    books.wait(15_000)
    books.move(_C.VANISHED)
    assert books.phases[2:] == [(Phase.IDLE, 100)]
    assert books.segments[-1].estimated


def test_a_start_heard_of_late_is_no_sign_of_life_from_then() -> None:
    books = _Books()
    books.move(_C.GPUS_RESERVED, gpu_uuids=(gpu_uuid(0),))
    books.move(_C.GPUS_VERIFIED)
    books.wait(10)
    started_ns = books.clock.wall_ns()
    books.wait(4_000)  # the disk is slow, and the round with it
    books.move(_C.CONTAINER_STARTED, started_ns=started_ns, address="10.0.0.2")
    books.wait(5)
    books.move(_C.VANISHED)
    assert books.phases == [(Phase.SETUP, 10)]


def test_an_end_told_by_a_clock_that_was_set_is_not_believed() -> None:
    books = _Books()
    books.start()
    books.wait(100)
    books.alive()
    books.wait(50)
    finished_ns = books.clock.wall_ns()
    books.clock.wall_ahead_ns += 3600 * 1_000_000_000
    books.wait(50)
    books.move(_C.EXITED, finished_ns=finished_ns)
    assert books.phases[2:] == [(Phase.IDLE, 100)]
    assert books.segments[-1].estimated


def test_a_start_told_by_a_clock_that_was_set_counts_from_now() -> None:
    books = _Books()
    books.move(_C.GPUS_RESERVED, gpu_uuids=(gpu_uuid(0),))
    books.move(_C.GPUS_VERIFIED)
    started_ns = books.clock.wall_ns()
    books.clock.wall_ahead_ns -= 3600 * 1_000_000_000
    books.wait(10)
    books.move(_C.CONTAINER_STARTED, started_ns=started_ns)
    assert books.phases == [(Phase.SETUP, 10)]


def test_a_container_told_to_stop_before_its_start_was_told_was_stopping_all_its_life() -> None:
    books = _Books()
    books.move(_C.GPUS_RESERVED, gpu_uuids=(gpu_uuid(0),))
    books.move(_C.GPUS_VERIFIED)
    books.wait(10)
    started_ns = books.clock.wall_ns()
    books.wait(5)
    books.move(_C.UNWANTED)
    books.wait(20)
    books.move(_C.CONTAINER_STOPPED, started_ns=started_ns, finished_ns=books.clock.wall_ns())
    assert books.phases == [(Phase.SETUP, 10), (Phase.STOP, 25)]


def test_a_worker_that_never_had_a_container_is_set_up_until_that_is_known() -> None:
    books = _Books()
    books.move(_C.GPUS_RESERVED, gpu_uuids=(gpu_uuid(0),))
    books.wait(10)
    books.move(_C.UNWANTED)
    books.wait(5)
    books.move(_C.CONTAINER_STOPPED)
    books.move(_C.RELEASED)
    assert books.phases == [(Phase.SETUP, 15)]


# -- after a kill ---------------------------------------------------------------------------------


def _taken_over(state: WorkerState, phase: Phase, *, away_ms: int = 3000) -> _Books:
    """A daemon that starts `away_ms` after the last heartbeat of the one before."""
    books = _Books()
    books.worker = replace(
        books.worker, state=state, gpu_uuids=(gpu_uuid(0),), container_started_ns=1, since_s=0.0, generation=9
    )
    segment = Segment(
        worker_id=books.worker.id,
        seq=4,
        phase=phase,
        endpoint=books.worker.endpoint,
        revision=books.worker.revision,
        gpu_uuids=books.worker.gpu_uuids,
        boot_id=books.clock.boot_id,
        start_boot_ns=books.clock.at_ns - 60_000 * _MS,
        start_wall_ms=0,
    )
    beat_ns, beat_ms = books.clock.at_ns, books.clock.at_ms()
    books.wait(away_ms)
    books.meter.resume([segment], [books.worker], heartbeat_ns=beat_ns, wall_ms=beat_ms)
    return books


def test_time_nobody_watched_is_unsupervised_once_the_container_is_found_running() -> None:
    books = _taken_over(_S.READY, Phase.ACTIVE)
    books.move(_C.ADOPTED)
    assert books.rows == []
    books.wait(1000)
    books.alive()
    assert books.phases == [(Phase.ACTIVE, 60_000), (Phase.UNSUPERVISED, 3000)]


def test_a_container_that_ended_unwatched_is_billed_to_its_end() -> None:
    books = _taken_over(_S.READY, Phase.IDLE)
    finished_ns = books.clock.wall_ns() - 1000 * _MS
    books.move(_C.ADOPTED)
    books.wait(5000)
    books.move(_C.EXITED, finished_ns=finished_ns)
    assert books.phases == [(Phase.IDLE, 60_000), (Phase.UNSUPERVISED, 2000)]
    assert not any(each.estimated for each in books.segments)


def test_an_end_from_before_the_last_heartbeat_is_believed() -> None:
    books = _taken_over(_S.READY, Phase.IDLE)
    finished_ns = books.clock.wall_ns() - 10_000 * _MS
    books.move(_C.ADOPTED)
    books.move(_C.EXITED, finished_ns=finished_ns)
    assert books.phases == [(Phase.IDLE, 53_000)]


def test_a_container_that_was_removed_unwatched_is_billed_to_the_last_heartbeat() -> None:
    books = _taken_over(_S.READY, Phase.IDLE)
    books.move(_C.ADOPTED)
    books.move(_C.VANISHED)
    assert books.phases == [(Phase.IDLE, 60_000)]
    assert books.segments[-1].estimated


def test_time_that_two_daemons_did_not_watch_is_on_no_bill_when_the_container_is_gone() -> None:
    books = _taken_over(_S.NOT_READY, Phase.UNSUPERVISED)
    books.move(_C.VANISHED)
    assert books.phases == []


def test_a_worker_that_was_being_stopped_pays_nothing_for_the_time_between() -> None:
    books = _taken_over(_S.STOPPING, Phase.IDLE)
    books.wait(5000)
    books.move(_C.CONTAINER_STOPPED, finished_ns=books.clock.wall_ns())
    billed = [each for each in books.phases if each[0] in BILLABLE]
    assert sum(ms for _, ms in billed) <= 60_000


# -- whatever happens -----------------------------------------------------------------------------

_steps = st.lists(
    st.tuples(
        st.sampled_from(["busy", "idle", "settle", "alive", "fail", "pass", "die"]), st.integers(0, 400)
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(_steps, st.integers(0, 2000))
def test_segments_cover_the_lease_and_nobody_is_billed_past_the_end(
    steps: list[tuple[str, int]], told_late_ms: int
) -> None:
    books = _Books()
    books.start()
    died_at_ns: int | None = None
    for what, pause_ms in steps:
        books.wait(pause_ms)
        match what:
            case "busy":
                books.meter.busy(books.worker.id)
            case "idle":
                books.meter.idle(books.worker.id)
            case "settle":
                books.meter.settle()
            case "alive" if died_at_ns is None:
                books.alive()
            case "fail" if books.worker.state is _S.READY:
                books.move(_C.PROBE_FAILED)
            case "pass" if books.worker.state is _S.NOT_READY:
                books.move(_C.PROBE_PASSED)
            case "die" if died_at_ns is None:
                died_at_ns = books.clock.at_ns
            case _:
                pass
    died_at_ns = books.clock.at_ns if died_at_ns is None else died_at_ns
    finished_ns = died_at_ns + _WALL_NS
    books.wait(told_late_ms)
    books.move(_C.EXITED, finished_ns=finished_ns)
    books.move(_C.CONTAINER_STOPPED, finished_ns=finished_ns)
    books.move(_C.RELEASED)

    segments = books.segments
    assert [each.seq for each in segments] == list(range(len(segments)))
    for before, after in pairwise(segments):
        assert before.end_boot_ns == after.start_boot_ns
    billed_ns = sum(each.duration_ns for each in segments if each.phase in BILLABLE)
    started_ns = next(each for each in segments if each.phase is Phase.START).start_boot_ns
    assert billed_ns == died_at_ns - started_ns
    assert sum(isinstance(row, SegmentOpened) for row in books.rows) == len(segments)


def test_a_worker_without_gpus_is_metered_and_leases_nothing() -> None:
    books = _Books()
    books.move(_C.GPUS_RESERVED)
    books.move(_C.GPUS_VERIFIED)
    books.move(_C.CONTAINER_STARTED, started_ns=books.clock.wall_ns())
    books.wait(5)
    books.move(_C.EXITED, finished_ns=books.clock.wall_ns())
    assert books.phases == [(Phase.START, 5)]
    assert not [row for row in books.rows if isinstance(row, LeaseOpened)]


@pytest.mark.parametrize(
    ("state", "end_ns"), [(_S.READY, 700), (_S.STARTING, 700), (_S.NOT_READY, 300), (_S.STOPPING, 300)]
)
def test_a_restart_of_the_machine_closes_everything_at_the_last_sign_of_life(
    state: WorkerState, end_ns: int
) -> None:
    books = _Books()  # the heartbeat was at 700; who does not answer since 300 may be gone since
    segment = Segment(
        worker_id=books.worker.id,
        seq=2,
        phase=Phase.IDLE,
        endpoint=books.worker.endpoint,
        revision=books.worker.revision,
        gpu_uuids=(gpu_uuid(0),),
        boot_id="boot-0",
        start_boot_ns=100,
        start_wall_ms=0,
    )
    ended: Worker = replace(books.worker, state=state, since_s=300e-9, gpu_uuids=(gpu_uuid(0),))
    books.meter.ended_with_boot(ended, segment, at_boot_ns=700)
    closed, lease = books.rows
    assert isinstance(closed, SegmentClosed)
    assert (closed.segment.end_boot_ns, closed.segment.estimated) == (end_ns, True)
    assert lease == LeaseClosed(gpu_uuid=gpu_uuid(0), worker_id=ended.id, at_boot_ns=end_ns)

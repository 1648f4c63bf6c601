from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.ids import EndpointName, Revision
from gpud.core.metering import (
    BILLABLE,
    Phase,
    Segment,
    billed_seconds,
    cost_micros,
    gpu_ns,
    phase_of,
    whole_ms,
)
from gpud.core.worker import HOLDS_GPUS, WorkerState
from tests.unit.core.making import gpu_uuid, worker, worker_id

_S = WorkerState


@pytest.mark.parametrize("state", list(_S))
@pytest.mark.parametrize("in_flight", [0, 3])
def test_who_holds_a_gpu_is_metered_and_nobody_else(state: WorkerState, in_flight: int) -> None:
    phase = phase_of(worker(state=state, container_started_ns=1), in_flight=in_flight)
    assert (phase is not None) is (state in HOLDS_GPUS)


@pytest.mark.parametrize(
    ("state", "started_ns", "finished_ns", "in_flight", "phase"),
    [
        (_S.RESERVED, 0, 0, 0, Phase.SETUP),
        (_S.CREATING, 0, 0, 0, Phase.SETUP),
        (_S.STARTING, 1, 0, 0, Phase.START),
        (_S.READY, 1, 0, 0, Phase.IDLE),
        (_S.READY, 1, 0, 1, Phase.ACTIVE),
        (_S.NOT_READY, 1, 0, 1, Phase.UNREADY),
        (_S.DRAINING, 1, 0, 1, Phase.DRAIN),
        (_S.STOPPING, 1, 0, 0, Phase.STOP),
        (_S.STOPPING, 0, 0, 0, Phase.SETUP),
        (_S.LOST, 1, 0, 0, Phase.STOP),
        (_S.FAILED, 1, 0, 0, Phase.STOP),
        (_S.FAILED, 1, 2, 0, Phase.RELEASE),
        (_S.FAILED, 0, 0, 0, Phase.RELEASE),
        (_S.RELEASING, 1, 2, 0, Phase.RELEASE),
    ],
)
def test_a_phase_says_what_the_gpus_are_held_for(
    state: WorkerState, started_ns: int, finished_ns: int, in_flight: int, phase: Phase
) -> None:
    each = worker(state=state, container_started_ns=started_ns, container_finished_ns=finished_ns)
    assert phase_of(each, in_flight=in_flight) is phase


def test_set_up_stop_and_release_are_not_on_the_bill() -> None:
    assert set(Phase) - BILLABLE == {Phase.SETUP, Phase.STOP, Phase.RELEASE, Phase.UNLEASED}


@given(st.integers(0, 10**18), st.integers(0, 10**9))
def test_a_cost_is_the_exact_one_rounded_half_to_even(ns: int, price: int) -> None:
    exact = Fraction(ns * price, 3600 * 10**9)
    assert cost_micros(ns, price_micros_per_gpu_hour=price) == round(exact)


@given(st.integers(0, 10**15))
def test_a_session_is_rounded_up_to_whole_seconds_once(ns: int) -> None:
    assert billed_seconds(ns) * 10**9 - ns in range(10**9)


@given(st.integers(0, 10**15))
def test_milliseconds_are_never_rounded_up(ns: int) -> None:
    assert ns - whole_ms(ns) * 10**6 in range(10**6)


def _segment(phase: Phase, *, start: int, end: int | None, gpus: int) -> Segment:
    return Segment(
        worker_id=worker_id(0),
        seq=0,
        phase=phase,
        endpoint=EndpointName("echo"),
        revision=Revision("r"),
        gpu_uuids=tuple(gpu_uuid(number) for number in range(gpus)),
        boot_id="boot",
        start_boot_ns=start,
        end_boot_ns=end,
        start_wall_ms=0,
    )


def test_gpu_time_is_time_by_gpus_and_an_open_segment_has_none_yet() -> None:
    segments = [
        _segment(Phase.SETUP, start=0, end=5, gpus=2),
        _segment(Phase.ACTIVE, start=5, end=15, gpus=2),
        _segment(Phase.IDLE, start=15, end=None, gpus=2),
    ]
    assert gpu_ns(segments, billable_only=True) == 20
    assert gpu_ns(segments, billable_only=False) == 30

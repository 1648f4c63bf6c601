"""What a worker says of an earlier daemon's job ends it only when it names that delivery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import EndpointSpec, EndpointType
from gpud.core.ids import EndpointName
from gpud.core.job import Delivered, Ending
from gpud.core.job_spec import JobNeeds, OnAdopt
from gpud.core.job_status import (
    ASK_FIRST_S,
    ASK_LAST_S,
    Whereabouts,
    ask_again_s,
    may_go_on,
    status_said,
)
from gpud.core.worker import WorkerState


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (202, {}, Whereabouts.RUNS),
        (202, {"x-gpud-delivery": "3"}, Whereabouts.RUNS),
        (429, {}, Whereabouts.RUNS),
        (503, {}, Whereabouts.RUNS),
        (404, {}, Whereabouts.UNKNOWN),
        (200, {}, Whereabouts.UNKNOWN),
        (500, {}, Whereabouts.UNKNOWN),
        (200, {"x-gpud-delivery": "2"}, Whereabouts.UNKNOWN),
        (200, {"x-gpud-delivery": "3"}, Ending.COMPLETED),
        (500, {"x-gpud-delivery": "3"}, Ending.FAILED),
        (422, {"x-gpud-delivery": "3", "x-gpud-retry": "no"}, Ending.FAILED),
        (503, {"x-gpud-delivery": "3", "retry-after": "7"}, Ending.BUSY),
    ],
)
def test_an_answer_is_an_outcome_only_when_it_names_the_delivery(
    status: int, headers: dict[str, str], expected: object
) -> None:
    said = status_said(status, headers, b"{}", delivery=3)
    assert (said.ending if isinstance(said, Delivered) else said) is expected


@given(st.integers(100, 599), st.integers(1, 50), st.text(max_size=3))
def test_no_other_delivery_ends_it(status: int, delivery: int, named: str) -> None:
    said = status_said(status, {"x-gpud-delivery": named}, b"", delivery=delivery)
    assert isinstance(said, Whereabouts) or named == str(delivery)


@given(st.floats(0, 1e6))
def test_it_is_asked_less_and_less_often_within_bounds(waited_s: float) -> None:
    assert ASK_FIRST_S <= ask_again_s(waited_s) <= ASK_LAST_S
    assert ask_again_s(waited_s) <= ask_again_s(waited_s + 1)


@pytest.mark.parametrize(
    ("kind", "jobs", "state", "expected"),
    [
        (EndpointType.HTTP, JobNeeds(status_path="/outcome"), WorkerState.READY, True),
        (EndpointType.HTTP, JobNeeds(status_path="/outcome"), WorkerState.DRAINING, True),
        (EndpointType.HTTP, JobNeeds(status_path="/outcome"), WorkerState.STARTING, False),
        (EndpointType.HTTP, JobNeeds(status_path="/outcome"), WorkerState.FAILED, False),
        (EndpointType.HTTP, JobNeeds(), WorkerState.READY, False),
        (EndpointType.QUEUE, JobNeeds(), WorkerState.READY, True),
        (EndpointType.QUEUE, JobNeeds(on_adopt=OnAdopt.RECYCLE), WorkerState.READY, False),
        (EndpointType.QUEUE, JobNeeds(), WorkerState.GONE, False),
    ],
)
def test_a_job_goes_on_over_a_restart_where_its_end_can_be_heard_of(
    kind: EndpointType, jobs: JobNeeds, state: WorkerState, expected: bool
) -> None:
    port = 8000 if kind is EndpointType.HTTP else 0
    spec = EndpointSpec(name=EndpointName("llm"), image="a/b", port=port, type=kind, jobs=jobs)
    assert may_go_on(spec, state) is expected

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.ids import Revision, WorkerId
from gpud.core.surplus import revivable, victims
from gpud.core.worker import COUNTED, Cause, WorkerState
from tests.unit.core.making import worker, worker_id

_S = WorkerState


@given(
    st.lists(st.tuples(st.sampled_from(sorted(COUNTED)), st.integers(0, 3)), min_size=1, max_size=12),
)
def test_nobody_with_requests_goes_before_one_without(drawn: list[tuple[WorkerState, int]]) -> None:
    workers = [worker(number, state) for number, (state, _) in enumerate(drawn)]
    in_flight = {worker_id(number): busy for number, (_, busy) in enumerate(drawn)}
    busy = [in_flight[each.id] > 0 for each in victims(workers, in_flight)]
    assert busy == sorted(busy)


def test_who_has_come_least_far_goes_first_and_the_broken_before_those_that_may_soon_serve() -> None:
    states = [_S.READY, _S.STARTING, _S.NOT_READY, _S.CREATING, _S.RESERVED, _S.PULLING, _S.PENDING]
    workers = [worker(number, state) for number, state in enumerate(states)]
    assert [each.state for each in victims(workers, {})] == list(reversed(states))


def test_among_equals_the_youngest_goes() -> None:
    workers = [worker(number) for number in range(3)]
    assert [each.id for each in victims(workers, {})] == [worker_id(2), worker_id(1), worker_id(0)]


def test_among_the_busy_the_least_busy_goes() -> None:
    in_flight: dict[WorkerId, int] = {worker_id(0): 1, worker_id(1): 5}
    assert victims([worker(1), worker(0)], in_flight)[0].id == worker_id(0)


def test_only_who_was_scaled_down_and_has_served_may_come_back() -> None:
    revision = Revision("r")
    scaled_down = worker(0, _S.DRAINING, cause=Cause.SCALE_DOWN, revision=revision, ready_s=1.0)
    others = [
        worker(1, _S.DRAINING, cause=Cause.NEW_REVISION, revision=revision, ready_s=1.0),
        worker(2, _S.DRAINING, cause=Cause.OPERATOR, revision=revision, ready_s=1.0),
        worker(3, _S.DRAINING, cause=Cause.IDLE, revision=Revision("old"), ready_s=1.0),
        worker(4, _S.DRAINING, cause=Cause.IDLE, revision=revision, ready_s=None),
        worker(5, _S.DRAINING, cause=Cause.IDLE, revision=revision, ready_s=1.0, force=True),
        worker(6, _S.STOPPING, cause=Cause.IDLE, revision=revision, ready_s=1.0),
    ]
    assert revivable([*others, scaled_down], revision) == [scaled_down]

from __future__ import annotations

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.gpu import GpuStatus, GpuUse
from gpud.core.ids import EndpointName
from gpud.core.starts import StartRecord
from gpud.core.waiting import WaitReason
from gpud.core.worker import WorkerState
from gpud.fleet.state import FleetState
from gpud.fleet.views import view_endpoint, view_gpus
from gpud.ports.control import EndpointCondition
from tests.unit.core.making import endpoint, gpu, gpu_uuid, worker, worker_id

_ECHO = EndpointName("echo")
_S, _C = WorkerState, EndpointCondition


def _condition(
    *states: WorkerState, waits: tuple[str, ...] = (), failures: int = 0, paused: bool = False
) -> EndpointCondition:
    state = FleetState()
    each = endpoint(scale=ScalePolicy(max_workers=0 if paused else 3))
    state.endpoints[_ECHO] = each
    for number, worker_state in enumerate(states):
        state.workers[worker_id(number)] = worker(number, worker_state)
    state.waits = {_ECHO: tuple(WaitReason(reason=reason, detail="It is so.") for reason in waits)}
    state.recall(_ECHO).starts = StartRecord(failures=failures)
    return view_endpoint(state, each, pulls={}, in_flight=0, waiting=0).condition


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        (_condition(), _C.SLEEPING),
        (_condition(_S.READY, _S.PENDING), _C.READY),
        (_condition(_S.READY, paused=True), _C.PAUSED),
        (_condition(_S.STARTING), _C.STARTING),
        (_condition(_S.NOT_READY), _C.STARTING),
        (_condition(_S.PULLING), _C.PULLING),
        (_condition(_S.PENDING, waits=("waiting_for_gpu",)), _C.WAITING_FOR_GPU),
        (_condition(_S.PENDING, waits=("gpu_unhealthy",)), _C.WAITING_FOR_GPU),
        (_condition(_S.STARTING, failures=1), _C.FAILING),
        (_condition(_S.READY, failures=1), _C.READY),
        (_condition(_S.DRAINING), _C.SLEEPING),
    ],
)
def test_one_word_says_how_an_endpoint_is(condition: EndpointCondition, told: EndpointCondition) -> None:
    assert condition is told


def test_workers_are_shown_oldest_first_and_only_the_endpoints_own() -> None:
    state, each = FleetState(), endpoint()
    for number in (2, 0, 1):
        state.workers[worker_id(number)] = worker(number)
    state.workers[worker_id(9)] = worker(9, endpoint=EndpointName("other"))
    view = view_endpoint(state, each, pulls={}, in_flight=2, waiting=3)
    assert [shown.id for shown in view.workers] == [worker_id(0), worker_id(1), worker_id(2)]
    assert (view.in_flight, view.waiting) == (2, 3)


def test_a_gpu_is_shown_with_its_holder_and_its_use_where_that_is_known() -> None:
    state = FleetState()
    for number in range(3):
        state.gpus[gpu_uuid(number)] = GpuStatus(gpu=gpu(number))
    state.workers[worker_id(0)] = worker(0, _S.STOPPING, gpu_uuids=(gpu_uuid(0),))
    state.workers[worker_id(1)] = worker(1, _S.GONE, gpu_uuids=(gpu_uuid(1),))
    use = GpuUse(uuid=gpu_uuid(0), used_mib=5)
    held, given_back, free = view_gpus(state, {gpu_uuid(0): use})
    assert ([w.id for w in held.holders], held.use) == ([worker_id(0)], use)
    assert (given_back.holders, free.holders, free.use) == ((), (), None)

from __future__ import annotations

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.gpu import GpuStatus, GpuUse
from gpud.core.ids import EndpointName
from gpud.core.starts import StartRecord
from gpud.core.waiting import WaitReason
from gpud.core.windows import OpenWindow, WarmWindow
from gpud.core.worker import WorkerState
from gpud.fleet.state import FleetState
from gpud.fleet.views import view_endpoint, view_gpus
from gpud.ports.control import EndpointCondition, WindowView
from gpud.ports.images import PullProgress
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


def test_a_wait_is_told_by_the_wall_clock_and_from_now_on() -> None:
    state, each = FleetState(), endpoint()
    wait = WaitReason(
        reason="waiting_for_gpu", detail="It is held.", facts={"until_in_s": 42.0}, ends_at_s=1042.0
    )
    state.waits = {_ECHO: (wait,)}
    view = view_endpoint(state, each, pulls={}, in_flight=0, waiting=1, now_s=1002.0, at_ms=5_000_000)
    assert view.waits[0].facts == {"until_in_s": 40.0}, "two seconds have passed since the plan"
    assert view.waits[0].until_ms == 5_040_000


def test_a_pull_is_told_with_its_bytes() -> None:
    state, each = FleetState(), endpoint()
    state.waits = {_ECHO: (WaitReason(reason="image_pulling", detail="Pulling."),)}
    pull = PullProgress(layers=2, layers_done=1, bytes_total=100, bytes_done=40)
    view = view_endpoint(state, each, pulls={each.image.pin: pull}, in_flight=0, waiting=1)
    assert view.waits[0].facts == {"bytes_done": 40, "bytes_total": 100}


def test_a_window_is_told_with_its_next_edge() -> None:
    state, each = FleetState(), endpoint()
    window = WarmWindow(start="0 8 * * *", duration_s=60.0, workers=2)
    state.windows_open = {_ECHO: OpenWindow(window=window, edge_s=1030.0)}
    view = view_endpoint(state, each, pulls={}, in_flight=0, waiting=0, now_s=1000.0, at_ms=1_000)
    assert view.window == WindowView(window=str(window), workers=2, edge_ms=31_000)

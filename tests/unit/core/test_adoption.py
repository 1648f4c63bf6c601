from __future__ import annotations

import pytest

from gpud.core.adoption import ContainerFacts, Verdict, judge_containers
from gpud.core.worker import WorkerState
from tests.unit.core.making import gpu_uuid, worker, worker_id

_SERVING = [
    WorkerState.STARTING,
    WorkerState.READY,
    WorkerState.NOT_READY,
    WorkerState.PAUSED,
    WorkerState.DOZING,
    WorkerState.SLEEPING,
    WorkerState.WAKING,
    WorkerState.DRAINING,
]
_OTHERS = [state for state in WorkerState if state not in _SERVING]


def _container(number: int = 0, *, status: str = "running", gpu: int = 0) -> ContainerFacts:
    return ContainerFacts(
        worker_id=worker_id(number),
        running=status == "running",
        ended=status == "exited",
        gpu_uuids=(gpu_uuid(gpu),),
    )


def _verdicts(state: WorkerState, *containers: ContainerFacts) -> list[Verdict]:
    each = worker(state=state, gpu_uuids=(gpu_uuid(0),))
    return [finding.verdict for finding in judge_containers({each.id: each}, containers)]


@pytest.mark.parametrize("state", _SERVING)
def test_a_worker_that_should_run_is_judged_by_its_container(state: WorkerState) -> None:
    assert _verdicts(state, _container()) == [Verdict.ALIVE]
    assert _verdicts(state, _container(status="exited")) == [Verdict.ENDED]
    assert _verdicts(state) == [Verdict.MISSING]
    assert _verdicts(state, _container(gpu=1)) == [Verdict.MISMATCHED]


@pytest.mark.parametrize("state", _SERVING)
def test_a_container_not_started_when_it_was_looked_at_says_nothing(state: WorkerState) -> None:
    assert _verdicts(state, _container(status="created")) == []


@pytest.mark.parametrize("state", _OTHERS)
def test_other_workers_are_their_efforts_business(state: WorkerState) -> None:
    assert _verdicts(state, _container(status="exited")) == []
    assert _verdicts(state) == []


def test_a_container_that_no_row_explains_is_a_stray() -> None:
    assert _verdicts(WorkerState.READY, _container(), _container(1)) == [Verdict.ALIVE, Verdict.STRAY]


def test_the_order_of_gpus_does_not_matter() -> None:
    each = worker(gpu_uuids=(gpu_uuid(0), gpu_uuid(1)))
    facts = ContainerFacts(worker_id=each.id, running=True, ended=False, gpu_uuids=(gpu_uuid(1), gpu_uuid(0)))
    [finding] = judge_containers({each.id: each}, [facts])
    assert finding.verdict is Verdict.ALIVE

"""Which workers take a command, and why a session ends with its worker."""

from __future__ import annotations

import pytest

from gpud.core.execs import ending_of, exec_refusal
from gpud.core.worker import Cause, WorkerState
from tests.unit.core.making import worker

RUNS = {
    WorkerState.STARTING,
    WorkerState.READY,
    WorkerState.NOT_READY,
    WorkerState.DOZING,
    WorkerState.SLEEPING,
    WorkerState.WAKING,
    WorkerState.DRAINING,
}


@pytest.mark.parametrize("state", list(WorkerState))
def test_a_command_runs_where_a_container_does_and_else_the_reason_is_told(state: WorkerState) -> None:
    one = worker(state=state, cause=Cause.IDLE)
    assert (exec_refusal(one) == "") == (state in RUNS)
    assert (ending_of(one) == "") == (state in RUNS)
    if state not in RUNS:
        assert one.id in exec_refusal(one)
        assert "does not keep" in ending_of(one)

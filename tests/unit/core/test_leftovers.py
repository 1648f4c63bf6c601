from __future__ import annotations

import pytest

from gpud.core.gpu import GpuSlice, GpuUse
from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
from gpud.core.leftovers import is_clean, runs_on, users_of
from gpud.core.worker import HOLDS_GPUS, Worker, WorkerState

GPU = GpuUuid("GPU-a")
LIMIT_MIB = 512


def holder(state: WorkerState, *, slice_mib: int = 8_000) -> Worker:
    return Worker(
        id=WorkerId("wk_1"),
        endpoint=EndpointName("llm"),
        revision=Revision("r"),
        state=state,
        generation=3,
        since_s=0.0,
        created_at_ms=0,
        port=80,
        gpu_uuids=(GPU,),
        gpu_slice=GpuSlice(memory_mib=slice_mib, of_mib=24_000) if slice_mib else None,
    )


def use(used_mib: int, *pids: int) -> GpuUse:
    return GpuUse(uuid=GPU, used_mib=used_mib, pids=pids)


@pytest.mark.parametrize("state", sorted(HOLDS_GPUS))
def test_every_holder_may_use_its_gpu_but_one_for_which_it_is_only_reserved(state: WorkerState) -> None:
    assert bool(users_of([holder(state)])) is (state is not WorkerState.RESERVED)


@pytest.mark.parametrize("state", sorted(HOLDS_GPUS))
def test_who_has_not_begun_or_has_ended_runs_nothing(state: WorkerState) -> None:
    ends = (WorkerState.RESERVED, WorkerState.RELEASING)
    assert runs_on([holder(state)]) is (state not in ends)
    assert not runs_on([holder(each) for each in ends])
    assert runs_on([holder(WorkerState.RELEASING), holder(WorkerState.CREATING)])


def test_a_gpu_without_holders_is_clean_when_nothing_runs_and_hardly_any_memory_is_in_use() -> None:
    assert is_clean(use(LIMIT_MIB), (), limit_mib=LIMIT_MIB)
    assert not is_clean(use(LIMIT_MIB + 1), (), limit_mib=LIMIT_MIB)
    assert not is_clean(use(0, 99), (), limit_mib=LIMIT_MIB)


def test_beside_a_neighbour_what_it_reserves_and_its_processes_are_no_leftover() -> None:
    beside = (holder(WorkerState.READY),)
    assert is_clean(use(8_000 + LIMIT_MIB, 99), beside, limit_mib=LIMIT_MIB)
    assert not is_clean(use(8_000 + LIMIT_MIB + 1, 99), beside, limit_mib=LIMIT_MIB)


def test_what_a_neighbour_reserves_and_cannot_use_yet_excuses_nothing() -> None:
    beside = (holder(WorkerState.RESERVED),)
    assert not is_clean(use(8_000), beside, limit_mib=LIMIT_MIB)
    assert not is_clean(use(0, 99), beside, limit_mib=LIMIT_MIB)

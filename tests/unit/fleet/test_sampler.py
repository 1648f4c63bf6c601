from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuSlice
from gpud.core.worker import WorkerState
from gpud.errors import DependencyDown
from gpud.fleet.sampler import Sampler
from gpud.fleet.state import FleetState
from gpud.ports.stats import ContainerUse
from tests.fakes.clock import FakeClock
from tests.fakes.gpus import FakeGpus, fake_gpus
from tests.unit.core import making
from tests.unit.fleet.virtual import virtual

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpud.core.ids import WorkerId

MIB = 1 << 20
GPU = fake_gpus(1)[0]


class _Reader:
    def __init__(self, cpu_s: list[float]) -> None:
        self._cpu_s = cpu_s

    async def uses(self, worker_ids: Iterable[WorkerId]) -> Mapping[WorkerId, ContainerUse]:
        if not self._cpu_s:
            raise DependencyDown("away")
        cpu_s = self._cpu_s.pop(0)
        return {w: ContainerUse(cpu_s=cpu_s, memory_bytes=7 * MIB, pids=frozenset({7})) for w in worker_ids}


def _sampled(cpu_s: list[float], looks: int, **facts: object) -> Sampler:
    gpus, clock, state = FakeGpus([GPU]), FakeClock(), FleetState()
    worker = making.worker(0, WorkerState.READY, container_started_ns=1, gpu_uuids=(GPU.uuid,), **facts)
    waiting = making.worker(1, WorkerState.PENDING)
    state.workers = {worker.id: worker, waiting.id: waiting}
    state.gpus = {GPU.uuid: None}  # type: ignore[dict-item]
    sampler = Sampler(state=state, gpus=gpus, reader=_Reader(cpu_s), clock=clock, step_s=10)

    async def look() -> None:
        gpus.start_process(GPU.uuid, 7, used_mib=100)
        gpus.start_process(GPU.uuid, 8, used_mib=900)
        for _ in range(looks):
            await sampler.look()
            await asyncio.sleep(10)

    virtual(look())
    return sampler


def test_cores_are_cpu_time_between_two_looks() -> None:
    sampler = _sampled([1.0, 16.0], 2)
    first, second = sampler.history.fine(making.worker_id(0))
    assert (first.cpu_cores, second.cpu_cores) == (0.0, 1.5)
    assert second.memory_bytes == 7 * MIB
    assert second.gpu_memory_mib >= 1000
    assert second.gpu_percent == 100
    assert sampler.history.newest(making.worker_id(1)) is None


def test_of_a_shared_gpu_a_worker_has_the_memory_of_its_own_processes() -> None:
    sampler = _sampled([1.0], 1, gpu_slice=GpuSlice(memory_mib=500, of_mib=24_576))
    newest = sampler.history.newest(making.worker_id(0))
    assert newest is not None
    assert newest.gpu_memory_mib == 100


def test_an_engine_that_is_away_costs_samples_and_nothing_else() -> None:
    sampler = _sampled([1.0], 3)
    assert len(sampler.history.fine(making.worker_id(0))) == 1

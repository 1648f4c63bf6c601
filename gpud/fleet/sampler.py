"""Looks every few seconds at what workers and GPUs use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core.stats_history import StatsHistory, UseSample
from gpud.errors import DependencyDown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.gpu import GpuReading
    from gpud.core.ids import GpuUuid, WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.energy_meter import EnergyMeter
    from gpud.fleet.state import FleetState
    from gpud.ports.gpus import GpuInventory
    from gpud.ports.stats import ContainerUse, UseReader
    from gpud.ports.time import Clock

log = structlog.get_logger(__name__)


class Sampler:
    """Keeps the newest readings and the history of the workers'.

    Args:
        state: The fleet, to read.
        gpus: Of the box.
        reader: Of containers.
        clock: For labels and rates.
        step_s: Between looks.
    """

    def __init__(
        self, *, state: FleetState, gpus: GpuInventory, reader: UseReader, clock: Clock, step_s: float
    ) -> None:
        self._state = state
        self._gpus = gpus
        self._reader = reader
        self._clock = clock
        self._step_s = step_s
        self.history = StatsHistory(step_s)
        self.gpu_readings: dict[GpuUuid, GpuReading] = {}
        self.uses: Mapping[WorkerId, ContainerUse] = {}
        self._before: dict[WorkerId, tuple[float, float]] = {}
        self._complaint = ""
        self.energy: EnergyMeter | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._step_s)

    async def look(self) -> None:
        """Look once; what does not answer is left as it was."""
        workers = [worker for worker in self._state.workers.values() if worker.container_started_ns]
        try:
            readings = await self._gpus.readings(tuple(self._state.gpus))
            self.gpu_readings = {reading.uuid: reading for reading in readings}
            await self._note_energy(readings)
            self.uses = await self._reader.uses([worker.id for worker in workers])
        except (DependencyDown, Unavailable) as error:
            if error.detail != self._complaint:
                self._complaint = error.detail
                log.warning("stats.not_read", error=error.detail)
            return
        self._complaint = ""
        now_s, at_ms = self._clock.now_s(), self._clock.at_ms()
        for worker in workers:
            use = self.uses.get(worker.id)
            if use is not None:
                self.history.add(worker.id, self._sample(worker, use, now_s, at_ms))
        self._before = {worker_id: (now_s, use.cpu_s) for worker_id, use in self.uses.items()}

    async def _note_energy(self, readings: tuple[GpuReading, ...]) -> None:
        """Say what GPUs have drawn; those in MIG mode tell it for all of their devices."""
        if self.energy is not None:
            at_ns, boards = self._clock.boot_ns(), self.energy.boards()
            if boards:
                readings = (*readings, *await self._gpus.readings(boards))
            self.energy.take(readings, at_ns)

    def _sample(self, worker: Worker, use: ContainerUse, now_s: float, at_ms: int) -> UseSample:
        before_s, cpu_s = self._before.get(worker.id, (now_s, use.cpu_s))
        passed_s = now_s - before_s
        readings = [r for uuid in worker.gpu_uuids if (r := self.gpu_readings.get(uuid)) is not None]
        if worker.gpu_slice is not None and use.pids:
            mine = [mib for r in readings for pid, mib in r.processes if pid in use.pids]
            gpu_memory_mib = float(sum(mine))
        else:
            gpu_memory_mib = float(sum(r.used_mib for r in readings))
        busy = [r.gpu_percent for r in readings if r.gpu_percent is not None]
        return UseSample(
            at_ms=at_ms,
            step_s=self._step_s,
            cpu_cores=max(use.cpu_s - cpu_s, 0.0) / passed_s if passed_s > 0 else 0.0,
            memory_bytes=float(use.memory_bytes),
            memory_bytes_max=float(use.memory_bytes),
            gpu_memory_mib=gpu_memory_mib,
            gpu_percent=sum(busy) / len(busy) if busy else 0.0,
        )

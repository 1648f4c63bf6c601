"""GPUs that a test or a simulation steers: processes, memory that comes back late, losses, hangs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.gpu import Gpu, GpuReading, GpuUse
from gpud.core.ids import GpuUuid
from gpud.errors import DependencyDown
from gpud.ports.gpus import GpuFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})


def fake_gpus(count: int, *, memory_mib: int = 24_576) -> tuple[Gpu, ...]:
    """Some GPUs alike but for UUID and index."""
    return tuple(
        Gpu(uuid=GpuUuid(f"GPU-fake-{index}"), name="Fake GPU", memory_mib=memory_mib, index=index)
        for index in range(count)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    pid: int
    used_mib: int


class FakeGpus:
    """An inventory in memory, on the running loop's time.

    Args:
        gpus: What the box has.
        memory_return_s: How long the memory of an ended process stays in use.
        budget_s: How long a call takes to fail while the driver hangs.
    """

    source = "nvml"

    def __init__(self, gpus: Iterable[Gpu], *, memory_return_s: float = 0.0, budget_s: float = 5.0) -> None:
        self.memory_return_s = memory_return_s
        self._budget_s = budget_s
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._lost: set[GpuUuid] = set()
        self._faults: list[GpuFault] = []
        self._processes: dict[GpuUuid, list[_Process]] = {}
        self._returning: dict[GpuUuid, list[tuple[float, int]]] = {}
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._stuck = False

    async def list_gpus(self) -> tuple[Gpu, ...]:
        await self._answering()
        return tuple(gpu for gpu in self._gpus.values() if gpu.uuid not in self._lost)

    async def usage(self, uuids: Sequence[GpuUuid]) -> tuple[GpuUse, ...]:
        await self._answering()
        known = self._gpus.keys() - self._lost
        return tuple(self._use(uuid) for uuid in uuids if uuid in known)

    async def readings(self, uuids: Sequence[GpuUuid]) -> tuple[GpuReading, ...]:
        uses = {use.uuid: use for use in await self.usage(uuids)}
        return tuple(
            GpuReading(
                uuid=uuid,
                used_mib=use.used_mib,
                total_mib=self._gpus[uuid].memory_mib,
                gpu_percent=100.0 if use.pids else 0.0,
                power_w=60.0,
                processes=tuple((p.pid, p.used_mib) for p in self._processes.get(uuid, ())),
            )
            for uuid, use in uses.items()
        )

    async def faults(self) -> tuple[GpuFault, ...]:
        faults, self._faults = tuple(self._faults), []
        return faults

    def start_process(self, uuid: GpuUuid, pid: int, *, used_mib: int = 1024) -> None:
        """A process makes a context on a GPU."""
        self._processes.setdefault(uuid, []).append(_Process(pid=pid, used_mib=used_mib))

    def end_process(self, pid: int) -> None:
        """A process ends everywhere; its memory is back `memory_return_s` later."""
        back_s = asyncio.get_running_loop().time() + self.memory_return_s
        for uuid, processes in self._processes.items():
            for process in [process for process in processes if process.pid == pid]:
                processes.remove(process)
                self._returning.setdefault(uuid, []).append((back_s, process.used_mib))

    def lose(self, uuid: GpuUuid) -> None:
        """The GPU falls off the bus."""
        self._lost.add(uuid)
        self._faults.append(GpuFault(uuid=uuid, xid=79, detail="The GPU has fallen off the bus."))

    def recover(self, uuid: GpuUuid) -> None:
        """The GPU answers again, as after a reset; nothing runs on it any more."""
        self._lost.discard(uuid)
        self._processes.pop(uuid, None)
        self._returning.pop(uuid, None)

    def xid(self, uuid: GpuUuid, code: int) -> None:
        """The driver reports an Xid; those that applications cause are no faults."""
        if code not in _APPLICATION_XIDS:
            self._faults.append(GpuFault(uuid=uuid, xid=code, detail=f"The driver reports Xid {code}."))

    def hang(self) -> None:
        """The driver answers no call until `resume`."""
        self._resumed.clear()

    def resume(self) -> None:
        """The driver answers again."""
        self._resumed.set()
        self._stuck = False

    async def _answering(self) -> None:
        if self._stuck:
            raise DependencyDown("NVML does not answer.")
        try:
            async with asyncio.timeout(self._budget_s):  # wait_for may swallow a cancellation
                await self._resumed.wait()
        except TimeoutError as error:
            self._stuck = True
            raise DependencyDown("NVML does not answer.") from error

    def _use(self, uuid: GpuUuid) -> GpuUse:
        now_s = asyncio.get_running_loop().time()
        processes = self._processes.get(uuid, [])
        returning = [held for held in self._returning.get(uuid, []) if held[0] > now_s]
        self._returning[uuid] = returning
        used_mib = sum(process.used_mib for process in processes) + sum(mib for _, mib in returning)
        return GpuUse(uuid=uuid, used_mib=used_mib, pids=tuple(sorted({p.pid for p in processes})))

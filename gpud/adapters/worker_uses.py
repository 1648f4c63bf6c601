"""What the workers' containers use: from control groups where these can be read, else from the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.adapters.cgroups import Cgroups
from gpud.ports.stats import ContainerUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpud.adapters.threads import Threads
    from gpud.core.ids import WorkerId
    from gpud.ports.containers import ContainerRuntime


class WorkerUses:
    """The `UseReader` of a Docker Engine: a container's process is asked for once, its group read each time.

    Args:
        runtime: The engine.
        threads: For reading files.
        cgroups: Of this machine.
    """

    def __init__(self, runtime: ContainerRuntime, threads: Threads, cgroups: Cgroups | None = None) -> None:
        self._runtime = runtime
        self._threads = threads
        self._cgroups = cgroups or Cgroups()
        self._pids: dict[WorkerId, int] = {}

    async def uses(self, worker_ids: Iterable[WorkerId]) -> Mapping[WorkerId, ContainerUse]:
        """Read some workers' containers; those that do not run are left out.

        Raises:
            DependencyDown: The engine does not answer.
        """
        asked = tuple(worker_ids)
        self._pids = {worker_id: pid for worker_id, pid in self._pids.items() if worker_id in asked}
        for worker_id in asked:
            if worker_id not in self._pids:
                seen = await self._runtime.inspect_worker(worker_id)
                if seen is not None and seen.pid:
                    self._pids[worker_id] = seen.pid
        found = await self._threads.run(self._read, dict(self._pids))
        for worker_id in self._pids.keys() - found.keys():
            activity = await self._runtime.activity(worker_id)
            if activity is not None and activity.cpu_s is not None:
                memory_bytes = activity.memory_bytes or 0
                found[worker_id] = ContainerUse(cpu_s=activity.cpu_s, memory_bytes=memory_bytes)
            elif activity is None:
                del self._pids[worker_id]
        return found

    def _read(self, pids: dict[WorkerId, int]) -> dict[WorkerId, ContainerUse]:
        read = {worker_id: self._cgroups.use_of(pid) for worker_id, pid in pids.items()}
        return {worker_id: use for worker_id, use in read.items() if use is not None}

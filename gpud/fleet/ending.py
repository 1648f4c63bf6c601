"""The end of a worker: stop its container, keep its last words, give its GPUs back."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.leftovers import is_clean, runs_on
from gpud.core.worker import Cause, WorkerEvent
from gpud.errors import DependencyDown
from gpud.fleet.sleepers import beyond_sleepers

if TYPE_CHECKING:
    from gpud.core.gpu import GpuUse
    from gpud.core.ids import WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.gpu_keeper import GpuKeeper
    from gpud.fleet.hands import Hands

_LOG_TAIL_BYTES = 65_536
_RELEASE_POLL_S = 0.25
_DEFAULT_GRACE_S = 30.0


class Ending:
    """The efforts of STOPPING, FAILED, LOST and RELEASING workers."""

    def __init__(self, hands: Hands, gpu_keeper: GpuKeeper) -> None:
        self._hands = hands
        self._gpu_keeper = gpu_keeper

    async def stop(self, worker_id: WorkerId) -> None:
        """SIGTERM, grace, SIGKILL; tells when the container really ended."""
        worker = self._hands.state.workers.get(worker_id)
        if worker is None:
            return
        endpoint = self._hands.endpoint_of(worker)
        grace_s = endpoint.spec.limits.stop_grace_s if endpoint else _DEFAULT_GRACE_S
        event = await self._stop_container(worker_id, grace_s=0.0 if worker.force else grace_s)
        self._hands.reconciler.post(event)

    async def bury(self, worker_id: WorkerId) -> None:
        """Make sure that nothing of a failed worker runs, and keep its output."""
        event = await self._stop_container(worker_id, grace_s=0.0)
        tail = await self._hands.last_output(worker_id, bytes_max=_LOG_TAIL_BYTES)
        worker = self._hands.state.workers.get(worker_id)
        if worker is None:
            return
        if tail:
            endpoint = worker.endpoint
            self._hands.reconciler.tell(
                lambda: self._hands.reconciler.record(
                    "worker.log_kept", {"log_tail": tail}, endpoint=endpoint, worker_id=worker_id
                )
            )
        self._hands.reconciler.post(event)

    async def release(self, worker_id: WorkerId) -> None:
        """Remove the container; the GPUs are free once the driver shows their memory back."""
        hands = self._hands
        worker = hands.state.workers.get(worker_id)
        if worker is None:
            return
        await hands.logs.finish(worker_id)
        await hands.runtime.remove_worker(worker_id)
        if not hands.verifies(worker.gpu_uuids):
            hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=Cause.RELEASED))
            return
        holdouts = await self._await_release(worker)
        if worker.gpu_slice and runs_on(hands.state.holders_of(worker.gpu_uuids[0], but=worker_id)):
            holdouts = ()  # the ledger lends out nothing that is in use, whoever uses it
        for use in holdouts:
            pids = f", processes {', '.join(map(str, use.pids))}" if use.pids else ""
            why = f"{use.used_mib} MiB still in use after {worker_id} ended{pids}"
            self._gpu_keeper.mark(use.uuid, GpuHealth.QUARANTINED, why)
        cause = Cause.NOT_RETURNED if holdouts else Cause.RELEASED
        hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=cause))

    async def _stop_container(self, worker_id: WorkerId, *, grace_s: float) -> WorkerEvent:
        seen = await self._hands.runtime.stop_worker(worker_id, grace_s=grace_s)
        return WorkerEvent(
            worker_id=worker_id,
            cause=Cause.CONTAINER_STOPPED,
            started_ns=seen.started_ns if seen else 0,
            finished_ns=seen.finished_ns if seen else 0,
            exit_code=seen.exit_code if seen else None,
        )

    async def _await_release(self, worker: Worker) -> tuple[GpuUse, ...]:
        """Poll until the GPUs are clean; those that are not in time are returned."""
        settings, clock, state = self._hands.settings, self._hands.clock, self._hands.state
        deadline_s = clock.now_s() + settings.release_timeout_s
        while True:
            try:
                read = await self._hands.gpus.usage(worker.gpu_uuids)
                uses = await beyond_sleepers(self._hands, read, but=worker.id)
            except DependencyDown:
                return ()  # the driver hangs: the next start verifies before it takes them
            for use in uses:
                self._hands.reconciler.tell(partial(state.note_use, use))
            others = {use.uuid: state.holders_of(use.uuid, but=worker.id) for use in uses}
            limit_mib = settings.idle_memory_mib_max
            dirty = tuple(use for use in uses if not is_clean(use, others[use.uuid], limit_mib=limit_mib))
            if not dirty or clock.now_s() >= deadline_s:
                return dirty
            await asyncio.sleep(_RELEASE_POLL_S)

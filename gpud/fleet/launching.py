"""From an image to a started container: pull, verify, launch."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.leftovers import users_of
from gpud.core.worker import Cause, WorkerEvent, WorkerState
from gpud.errors import GpudError, ImageNotFound, LaunchFailed, NotFound, RegistryDenied, Unavailable
from gpud.fleet.launches import launch_for
from gpud.fleet.outcomes import ended_event
from gpud.fleet.sleepers import beyond_sleepers
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from gpud.core.gpu import GpuSlice
    from gpud.core.ids import WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.gpu_keeper import GpuKeeper
    from gpud.fleet.hands import Hands
    from gpud.fleet.prewarmer import Prewarmer
    from gpud.fleet.prober import Prober
    from gpud.fleet.standby_keeper import StandbyKeeper
    from gpud.ports.containers import SeenContainer, WorkerLaunch

_PROBES_WOKEN, _PROBES_STARTED = 20, 3
"""Before others hear of a start. The engine answers some milliseconds after a program began to run, which
is enough for a quick one; a program that was held back begins only now."""


class Launching:
    """The efforts of PULLING, RESERVED and CREATING workers."""

    def __init__(
        self,
        hands: Hands,
        prewarmer: Prewarmer,
        gpu_keeper: GpuKeeper,
        keeper: StandbyKeeper,
        prober: Prober,
    ) -> None:
        self._hands = hands
        self._keeper = keeper
        self._prober = prober
        self._prewarmer = prewarmer
        self._gpu_keeper = gpu_keeper
        self._starts = asyncio.Semaphore(hands.settings.parallel_starts)

    async def pull_image(self, worker_id: WorkerId) -> None:
        """Wait until the image is on the box; one pull serves everyone who waits for it."""
        hands = self._hands
        worker = hands.state.workers.get(worker_id)
        endpoint = hands.endpoint_of(worker) if worker else None
        if worker is None or endpoint is None:
            return
        try:
            await self._prewarmer.ensure(endpoint.image, endpoint.spec.registry)
            if (timeline := hands.state.timelines.get(worker_id)) is not None:
                timeline.pulled_ns = hands.clock.boot_ns()
        except Unavailable:
            raise
        except GpudError as error:
            permanent = isinstance(error, RegistryDenied | NotFound)
            self._post(worker_id, Cause.PULL_FAILED, detail=error.detail, permanent=permanent)

    async def verify_gpus(self, worker_id: WorkerId) -> None:
        """Make sure nobody else uses the GPUs before handing them to a container."""
        hands = self._hands
        worker = hands.state.workers.get(worker_id)
        if worker is None:
            return
        limit_mib = hands.settings.idle_memory_mib_max
        if worker.gpu_slice and self._has_neighbours(worker):
            await self._verify_slice(worker, worker.gpu_slice)
            return
        read = await beyond_sleepers(hands, await hands.gpus.usage(worker.gpu_uuids), but=worker_id)
        if worker.gpu_slice and self._has_neighbours(worker):  # who may have begun while the driver was asked
            await self._verify_slice(worker, worker.gpu_slice)
            return
        uses = {use.uuid: use for use in read}
        for uuid in worker.gpu_uuids:
            use = uses.get(uuid)
            if use is None:
                why, health = "The driver no longer knows this GPU", GpuHealth.UNHEALTHY
            elif use.pids:
                why = f"Processes {', '.join(map(str, use.pids))} use this GPU and are not gpud's"
                health = GpuHealth.QUARANTINED
            elif use.used_mib > limit_mib:
                why = f"{use.used_mib} MiB are in use though no worker runs here (limit {limit_mib} MiB)"
                health = GpuHealth.QUARANTINED
            else:
                continue
            self._gpu_keeper.mark(uuid, health, why)
            self._post(worker_id, Cause.GPU_BUSY, detail=f"{uuid}: {why}.")
            return
        self._post(worker_id, Cause.GPUS_VERIFIED)

    def _has_neighbours(self, worker: Worker) -> bool:
        """Whether somebody beside a worker may use its GPU by right; else it must be idle as a whole one is.

        Of two that verify at once each would take the other for the one who uses it, and both would be
        turned away without a word about the GPU, to be tried again at once.
        """
        return bool(users_of(self._hands.state.holders_of(worker.gpu_uuids[0], but=worker.id)))

    async def _verify_slice(self, worker: Worker, gpu_slice: GpuSlice) -> None:
        """Make sure that the reserved memory is there, beside what others on the GPU use."""
        hands, (uuid,) = self._hands, worker.gpu_uuids
        for use in await hands.gpus.usage(worker.gpu_uuids):
            hands.reconciler.tell(partial(hands.state.note_use, use))
            left_mib = gpu_slice.of_mib - use.used_mib
            if left_mib >= gpu_slice.memory_mib:
                self._post(worker.id, Cause.GPUS_VERIFIED)
                return
            others = ", ".join(other.id for other in hands.state.holders_of(uuid, but=worker.id))
            why = (
                f"{left_mib} MiB are left where {gpu_slice.memory_mib} MiB are reserved; {others}, or "
                "somebody else, uses more than was reserved"
            )
            self._post(worker.id, Cause.GPU_BUSY, detail=f"{uuid}: {why}.")
            return
        why = "The driver no longer knows this GPU"
        self._gpu_keeper.mark(uuid, GpuHealth.UNHEALTHY, why)
        self._post(worker.id, Cause.GPU_BUSY, detail=f"{uuid}: {why}.")

    async def launch(self, worker_id: WorkerId) -> None:
        """Create and start the container."""
        hands = self._hands
        if not self._keeper.needs_engine(worker_id):
            if await self._wake(worker_id):
                return
            await hands.reconciler.written()  # a trigger may come before, an engine's start may not
        async with self._starts:
            if await self._wake(worker_id):
                return
            launch = self._launch_of(worker_id)
            if launch is None:
                return
            try:
                seen = await hands.runtime.start_worker(launch)
            except ImageNotFound as error:
                self._post(worker_id, Cause.IMAGE_VANISHED, detail=error.detail)
                return
            except LaunchFailed as error:
                self._post(worker_id, Cause.LAUNCH_FAILED, detail=error.detail, permanent=error.permanent)
                return
            except Unavailable:
                raise
            except GpudError as error:
                self._post(worker_id, Cause.LAUNCH_FAILED, detail=error.detail)
                return
        await self._started(worker_id, seen)

    async def _wake(self, worker_id: WorkerId) -> bool:
        """Start from a standby, if the worker was one; False when it is to be started cold."""
        hands, launch = self._hands, self._launch_of(worker_id)
        worker = hands.state.workers.get(worker_id)
        woken = await self._keeper.wake(worker, launch) if worker and launch else None
        if worker is None or woken is None:
            return False
        await self._began(worker, woken.address, woken.started_ns, probes=_PROBES_WOKEN)
        return True

    async def _began(self, worker: Worker, address: str, started_ns: int, *, probes: int) -> None:
        """Tell that a container runs; of a program that answers at once, that it is ready too."""
        timeline = self._hands.state.timelines.get(worker.id)
        if timeline is not None:
            timeline.reached_ns.setdefault(WorkerState.STARTING, self._hands.clock.boot_ns())
        await self._oust(address, worker.id)
        # Asked here, it is ready in the round that hears of its start.
        answered = await self._prober.answers_at_once(worker, address, probes=probes)
        started = WorkerEvent(
            worker_id=worker.id, cause=Cause.CONTAINER_STARTED, address=address, started_ns=started_ns
        )
        self._hands.reconciler.post(started)
        if answered:
            self._post(worker.id, Cause.PROBE_PASSED)

    def _launch_of(self, worker_id: WorkerId) -> WorkerLaunch | None:
        """What to start; None when nothing is to be started any more."""
        worker = self._hands.state.workers.get(worker_id)
        endpoint = self._hands.endpoint_of(worker) if worker else None
        if worker is None or endpoint is None or worker.state is not WorkerState.CREATING:
            return None
        return launch_for(
            self._hands,
            endpoint,
            worker_id=worker.id,
            revision=worker.revision,
            port=worker.port,
            gpu_uuids=worker.gpu_uuids,
            gpu_slice=worker.gpu_slice,
        )

    async def _oust(self, address: str, worker_id: WorkerId) -> None:
        """The engine gives an address anew once its container ended, which may not be known here yet.

        Whoever had it gets no more requests, which would reach another endpoint's container, and is
        looked at now, for probes of its address are answered by another too.
        """
        hands = self._hands
        others = [w for w in hands.state.workers.values() if w.address == address and w.id != worker_id]
        for other in others:
            self._post(other.id, Cause.PROBE_FAILED, detail="Its address belongs to another container.")
        for other in others:
            seen = await hands.runtime.inspect_worker(other.id)
            if seen is None:
                self._post(other.id, Cause.VANISHED, detail="The container was removed by somebody else.")
            elif seen.status is ContainerStatus.EXITED:
                hands.reconciler.post(await ended_event(hands, other.id, seen))

    async def _started(self, worker_id: WorkerId, seen: SeenContainer) -> None:
        timeline = self._hands.state.timelines.get(worker_id)
        if timeline is not None:
            timeline.create_s = seen.create_s
        worker = self._hands.state.workers.get(worker_id)
        if worker is not None and seen.address:
            await self._began(worker, seen.address, seen.started_ns, probes=_PROBES_STARTED)
            return
        started = WorkerEvent(
            worker_id=worker_id,
            cause=Cause.CONTAINER_STARTED,
            address=seen.address,
            started_ns=seen.started_ns,
        )
        self._hands.reconciler.post(started)
        if seen.status is ContainerStatus.EXITED:
            self._hands.reconciler.post(await ended_event(self._hands, worker_id, seen))

    def _post(self, worker_id: WorkerId, cause: Cause, *, detail: str = "", permanent: bool = False) -> None:
        event = WorkerEvent(worker_id=worker_id, cause=cause, detail=detail, permanent=permanent)
        self._hands.reconciler.post(event)

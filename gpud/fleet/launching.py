"""From an image to a started container: pull, verify, launch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.worker import Cause, Worker, WorkerEvent, WorkerState
from gpud.errors import GpudError, ImageNotFound, LaunchFailed, NotFound, RegistryDenied, Unavailable
from gpud.fleet.outcomes import ended_event
from gpud.ports.containers import ContainerStatus, WorkerLaunch

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import WorkerId
    from gpud.fleet.gpu_keeper import GpuKeeper
    from gpud.fleet.hands import Hands
    from gpud.fleet.prewarmer import Prewarmer
    from gpud.ports.containers import SeenContainer


class Launching:
    """The efforts of PULLING, RESERVED and CREATING workers."""

    def __init__(self, hands: Hands, prewarmer: Prewarmer, gpu_keeper: GpuKeeper) -> None:
        self._hands = hands
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
        uses = {use.uuid: use for use in await hands.gpus.usage(worker.gpu_uuids)}
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

    async def launch(self, worker_id: WorkerId) -> None:
        """Create and start the container."""
        hands = self._hands
        async with self._starts:
            worker = hands.state.workers.get(worker_id)
            if worker is None or worker.state is not WorkerState.CREATING:
                return
            endpoint = hands.endpoint_of(worker)
            if endpoint is None:
                return
            try:
                seen = await hands.runtime.start_worker(self._launch_of(worker, endpoint))
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
        if seen.address:
            await self._oust(seen.address, worker_id)
        await self._started(worker_id, seen)

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
        started = WorkerEvent(
            worker_id=worker_id,
            cause=Cause.CONTAINER_STARTED,
            address=seen.address,
            started_ns=seen.started_ns,
        )
        self._hands.reconciler.post(started)
        if seen.status is ContainerStatus.EXITED:
            self._hands.reconciler.post(await ended_event(self._hands, worker_id, seen))

    def _launch_of(self, worker: Worker, endpoint: Endpoint) -> WorkerLaunch:
        spec, limits = endpoint.spec, endpoint.spec.limits
        gpus = [self._hands.state.gpus[u].gpu for u in worker.gpu_uuids if u in self._hands.state.gpus]
        nodes = sorted({gpu.numa_node for gpu in gpus if gpu.numa_node >= 0})
        return WorkerLaunch(
            worker_id=worker.id,
            endpoint=worker.endpoint,
            revision=worker.revision,
            # The container outlives many changes of state: its label carries the first
            # generation, which with the worker's id tells it from any other.
            generation=1,
            image=endpoint.image,
            port=worker.port,
            command=spec.command,
            env=(*spec.env, ("GPUD_ENDPOINT", worker.endpoint), ("GPUD_WORKER", worker.id)),
            gpu_uuids=worker.gpu_uuids,
            gpu_attach=self._hands.settings.gpu_attach,
            cpuset=",".join(dict.fromkeys(gpu.cpus for gpu in gpus if gpu.cpus)),
            memory_nodes=",".join(map(str, nodes)) if gpus and all(g.numa_node >= 0 for g in gpus) else "",
            memory_mib=limits.memory_mib,
            cpus=limits.cpus,
            shm_mib=limits.shm_mib,
            pids=limits.pids,
            volumes=spec.volumes,
        )

    def _post(self, worker_id: WorkerId, cause: Cause, *, detail: str = "", permanent: bool = False) -> None:
        event = WorkerEvent(worker_id=worker_id, cause=cause, detail=detail, permanent=permanent)
        self._hands.reconciler.post(event)

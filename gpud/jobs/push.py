"""Delivers jobs to http endpoints: one POST to a worker with a reserved slot for each delivery.

A slot comes first, then the claim, then the first byte: nothing is taken out of the queue that could not
run at once, and nothing runs that is not booked on disk.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from gpud.core.endpoint import EndpointType
from gpud.core.ids import WorkerId
from gpud.errors import GpudError, StorageFull
from gpud.jobs.delivery import Delivery, booked
from gpud.jobs.recovery import LOST, Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from gpud.core.endpoint import EndpointSpec
    from gpud.core.ids import EndpointName, JobId
    from gpud.core.job import Job
    from gpud.jobs.queue import JobQueue
    from gpud.jobs.tokens import JobTokens
    from gpud.ports.jobs import Change
    from gpud.ports.time import Clock
    from gpud.ports.work import JobCarrier, JobPlace, JobRoom, JobSlot, WorkerFates

SOLO_PATIENCE_S = 60.0
"""How long a job waits for a worker of its own, and others behind it; then it runs beside them after all."""
_CLAIM_RETRY_S = 0.5
_log = structlog.get_logger(__name__)


class Push:
    """See the module's text.

    Args:
        queue: Whose jobs.
        slots: The gateway's, shared with requests.
        carrier: Speaks HTTP.
        fates: The fleet.
        spec_of: The present spec of an endpoint; None when there is none.
        clock: Loop time.
        tokens: With which workers may tell progress.
        workers_url: Where they may; empty while there is no listener for workers.
    """

    def __init__(
        self,
        queue: JobQueue,
        slots: JobRoom,
        carrier: JobCarrier,
        fates: WorkerFates,
        *,
        spec_of: Callable[[EndpointName], EndpointSpec | None],
        clock: Clock,
        tokens: JobTokens,
        workers_url: Callable[[], str] = lambda: "",
    ) -> None:
        self.queue = queue
        self.carrier = carrier
        self.fates = fates
        self.clock = clock
        self.tokens = tokens
        self._slots = slots
        self._workers_url = workers_url
        self._spec_of = spec_of
        self._deliveries: dict[JobId, Delivery | Recovery] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: dict[EndpointName, int] = {}
        self._paused: set[EndpointName] = set()
        self._patient: set[EndpointName] = set()
        self._stopping = False

    def start(self) -> None:
        """Begin to deliver."""
        self.queue.on_ready.append(self.pump)
        self.queue.on_cancel.append(self._cancel)
        for endpoint in list(self.queue.lanes):
            self.pump(endpoint)

    async def stop(self, grace_s: float) -> None:
        """Claim no more; what still runs after `grace_s` is left as it is.

        The workers stay, and may go on computing. So the rows go on saying that they do: the next daemon
        gives the jobs back, and recycles the workers before it hands anything out.
        """
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for delivery in list(self._deliveries.values()):
            delivery.leave()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def adopt(self, left: Iterable[Job]) -> None:
        """Ask for the outcomes of jobs that workers went on with while no daemon was there."""
        for job in left:
            spec = self._spec_of(job.endpoint)
            if spec is None:
                self._begin(booked(job, partial(self.queue.settle, job, LOST)))
                continue
            place = self._slots.count_job(job.endpoint, WorkerId(job.worker_id))
            self.queue.metering.began(job, place)
            recovery = self._deliveries[job.id] = Recovery(self, spec, job, place)
            if job.cancel_requested:
                recovery.interrupt("cancelled")
            self._begin(self._recover(recovery, place))

    async def _recover(self, recovery: Recovery, place: JobPlace) -> None:
        job = recovery.job
        try:
            await recovery.run()
        except BaseException:
            self.queue.lost_sight_of(job)
            raise
        finally:
            self.queue.metering.over(job.id, place)
            place.release()
            del self._deliveries[job.id]
            self.pump(job.endpoint)

    async def recycle_lost(self, given_back: tuple[Change, ...]) -> None:
        """Replace the workers that ran what an earlier run of the daemon had under way."""
        for endpoint, worker in sorted({(c.before.endpoint, c.before.worker_id) for c in given_back}):
            spec = self._spec_of(endpoint)
            if spec is None:
                continue
            # Of those that fetch their jobs only the ones are here that were not to go on with them.
            if spec.type is EndpointType.QUEUE or spec.jobs.recycles(spec.scale.concurrency):
                await self.fates.recycle(WorkerId(worker))

    def pump(self, endpoint: EndpointName) -> None:
        """Begin as many deliveries of an endpoint as there are jobs and free slots."""
        spec = self._spec_of(endpoint)
        if self._stopping or endpoint in self._paused or spec is None or spec.type is not EndpointType.HTTP:
            return
        lane = self.queue.lane(endpoint)
        while self.queue.may_claim(endpoint):
            claiming = self._claiming.get(endpoint, 0)
            if claiming and claiming >= (len(lane.ready) or 1):
                return
            solo = self.queue.next_is_solo(endpoint)
            if solo and claiming:
                return
            left_s = SOLO_PATIENCE_S - self.queue.next_waited_s(endpoint) if solo else 0.0
            slot = self._slots.take_job_slot(endpoint, alone=left_s > 0)
            if slot is None:
                if left_s > 0:
                    self._pump_again(endpoint, left_s)
                return
            self._claiming[endpoint] = claiming + 1
            self._begin(self._deliver(endpoint, spec, slot, solo=solo, alone=left_s > 0))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The job's lease lapses and gives it back; the daemon goes on for the others.
            _log.error("job.delivery_failed", exc_info=error)

    def _pump_again(self, endpoint: EndpointName, after_s: float) -> None:
        """Look once more when the next job has waited long enough for an idle worker."""
        if endpoint not in self._patient:
            self._patient.add(endpoint)
            asyncio.get_running_loop().call_later(after_s, self._patience_over, endpoint)

    def _patience_over(self, endpoint: EndpointName) -> None:
        self._patient.discard(endpoint)
        self.pump(endpoint)

    async def _deliver(
        self, endpoint: EndpointName, spec: EndpointSpec, slot: JobSlot, *, solo: bool, alone: bool
    ) -> None:
        delivery: Delivery | None = None
        try:
            try:
                claim = await self.queue.claim(endpoint, slot.worker.worker_id, solo=solo)
            except GpudError as error:
                if not isinstance(error, StorageFull):
                    _log.error("job.claim_failed", endpoint=endpoint, error=error.detail)
                self._pause(endpoint)
                return
            finally:
                self._claiming[endpoint] -= 1
            if claim is None:
                return
            self.queue.metering.began(claim.job, slot)
            delivery = Delivery(self, spec, slot, claim, alone=alone)
            self._deliveries[claim.job.id] = delivery
            present = self.queue.running.get(claim.job.id)
            if present is not None and present.cancel_requested:
                delivery.interrupt("cancelled")  # asked for while the claim was being written
            await delivery.run()
        except BaseException:
            if delivery is not None:
                self.queue.lost_sight_of(delivery.job)
            raise
        finally:
            if delivery is not None:
                self.queue.metering.over(delivery.job.id, slot)
            slot.release()
            if delivery is not None:
                del self._deliveries[delivery.job.id]
                self.pump(endpoint)

    def progress_header(self, job_id: JobId) -> dict[str, str]:
        """Tells a worker where to post progress, if it can."""
        url = self._workers_url()
        return {"X-Gpud-Progress-Url": f"{url}/v1/jobs/{job_id}/progress"} if url else {}

    def _pause(self, endpoint: EndpointName) -> None:
        """Claim nothing for a moment: what could not be written now cannot be a millisecond later either."""
        if endpoint not in self._paused:
            self._paused.add(endpoint)
            asyncio.get_running_loop().call_later(_CLAIM_RETRY_S, self._go_on, endpoint)

    def _go_on(self, endpoint: EndpointName) -> None:
        self._paused.discard(endpoint)
        self.pump(endpoint)

    def in_flight_at(self, slot: JobSlot) -> int:
        """Requests and jobs at a slot's worker now, this one included."""
        return self._slots.worker_in_flight(slot.worker.worker_id)

    def _cancel(self, job: Job) -> None:
        delivery = self._deliveries.get(job.id)
        if delivery is not None:
            delivery.interrupt("cancelled")

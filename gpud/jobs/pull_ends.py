"""How the jobs of workers that fetch them end: well, by a limit, by hand, with the worker, or unnoticed.

A job that is over may still be computed by its worker. It keeps its place there until the worker lets go of
it; one that does not in time is replaced.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core.job import Delivered, Ending
from gpud.core.pull_protocol import PING_INTERVAL_S, SILENT_S, lost
from gpud.errors import StorageFull, Unavailable
from gpud.ports.jobs import Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gpud.core.ids import WorkerId
    from gpud.core.job import Job
    from gpud.jobs.pulling_worker import Booking, PullingWorker
    from gpud.jobs.queue import JobQueue
    from gpud.ports.work import WorkerFates

STOP_GRACE_S = 10.0
"""How long a worker may stay at a job that is over; one whose next ping still lists it is replaced."""
_LAST_PING_S = PING_INTERVAL_S + 2.0
_NUDGE_S = 1.0
_SETTLES_S = 2.0
"""Younger hand-overs may not be known to the process that pings."""
_PARALLEL_S = 5.0
"""Of a worker with several polls at once, one may have been sent before the answer to another came."""
_SHOWN_S = 2.5 * PING_INTERVAL_S
"""Within this a ping lists what its worker has, if it lists anything."""
_LOOK_S = 5.0
_FULL_DISK_RETRY_S = 0.5
_log = structlog.get_logger(__name__)


class PullEnds:
    """See the module's text.

    Args:
        queue: Whose jobs.
        fates: The fleet.
        workers: Those that called, or hold jobs.
        spawn: Runs work beside, and hears of its failure.
    """

    def __init__(
        self,
        queue: JobQueue,
        fates: WorkerFates,
        workers: dict[WorkerId, PullingWorker],
        spawn: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._queue = queue
        self._fates = fates
        self._workers = workers
        self._spawn = spawn

    async def end(
        self,
        worker: PullingWorker,
        booking: Booking,
        said: Delivered,
        *,
        output: bytes | None = None,
        stays: bool = False,
    ) -> None:
        """Write a delivery's end; while nothing can be written the place stays taken and it is tried again.

        Args:
            worker: Who had it.
            booking: Not over.
            said: How it ended.
            output: What it gave, as JSON.
            stays: The worker may still be at it, and keeps the place.
        """
        booking.over = True
        if not stays:
            booking.set_timer(None)
        await booking.chunks.flush()
        result = None if output is None else Payload(content=output)
        queue, job = self._queue, booking.job
        booking.place.judge(asyncio.get_running_loop().time(), failed=said.ending is Ending.FAILED)
        ended = False
        while not ended:
            try:
                if said.ending is Ending.COMPLETED:
                    after = await queue.complete(job, result)
                else:
                    after = await queue.settle(job, said, result=result)
                ended = True
                if after is None:
                    _log.info("job.stale_delivery_dropped", job=job.id, delivery=job.deliveries)
            except (StorageFull, Unavailable):
                await asyncio.sleep(_FULL_DISK_RETRY_S)
        queue.metering.over(job.id, booking.place)
        if not stays:
            self.let_go(worker, booking)

    def let_go(self, worker: PullingWorker, booking: Booking) -> None:
        """The worker is not at the job any more; safe to repeat."""
        booking.set_timer(None)
        if worker.held.get(booking.job.id) is booking:
            del worker.held[booking.job.id]
            self._queue.metering.over(booking.job.id, booking.place)
            booking.place.release()

    async def progress(self, booking: Booking, value: bytes) -> None:
        """Keep the newest progress; of a job that is over it is ignored."""
        booking.confirmed = True
        if booking.over:
            return
        try:
            await self._queue.store.put_progress(booking.job, Payload(content=value))
        except (StorageFull, Unavailable):
            return  # the next one may fit; a worker repeats what is refused, which would not
        self._queue.news.tell(booking.job.id)

    # -- before its time -----------------------------------------------------------------------

    def cancel(self, job: Job) -> None:
        """Somebody asked to cancel a running job."""
        worker, booking = self._holder_of(job)
        if worker is not None and booking is not None and not booking.over:
            said = Delivered(ending=Ending.INTERRUPTED, reason="cancelled", after_ms=0)
            self._stop(worker, booking, said)

    def time_out(self, worker: PullingWorker, booking: Booking) -> None:
        """A job runs longer than it may."""
        if not booking.over:
            error = "executionTimeout exceeded"
            self._stop(
                worker,
                booking,
                Delivered(ending=Ending.TIMED_OUT, error=error, reason="execution_timeout"),
            )

    def _stop(self, worker: PullingWorker, booking: Booking, said: Delivered) -> None:
        booking.over = True
        loop = asyncio.get_running_loop()
        booking.stopped_s = loop.time()
        booking.set_timer(loop.call_later(STOP_GRACE_S + _LAST_PING_S, self._overstays, worker, booking))
        self._insist(worker, booking)
        self._spawn(self.end(worker, booking, said, stays=True))

    def _insist(self, worker: PullingWorker, booking: Booking) -> None:
        """Tell it to stop until it has: what comes before the worker has begun with the job is not heard."""
        if worker.held.get(booking.job.id) is not booking:
            return
        worker.tell_to_stop(booking.job.id)
        loop = asyncio.get_running_loop()
        # A new poll says at once whether the worker has let go; the one that waits was sent before.
        loop.call_later(_NUDGE_S, worker.renew_polls)
        loop.call_later(2 * _NUDGE_S, self._insist, worker, booking)

    def _overstays(self, worker: PullingWorker, booking: Booking) -> None:
        if worker.held.get(booking.job.id) is booking:
            _log.warning("job.worker_recycled", job=booking.job.id, worker=worker.id)
            worker.leaving = True
            self.let_go(worker, booking)
            self._spawn(self._fates.recycle(worker.id))

    # -- with the worker -----------------------------------------------------------------------

    def worker_ended(self, worker: PullingWorker) -> None:
        """Its container is gone: so is what it had."""
        running = worker.running
        asked = self._fates.asked_to_stop(worker.id)
        for booking in list(worker.held.values()):
            if booking.over:
                self.let_go(worker, booking)
            elif asked:
                error = "The worker was stopped before it gave a result."
                said = Delivered(ending=Ending.INTERRUPTED, error=error, reason="worker_stopped", after_ms=0)
                self._spawn(self.end(worker, booking, said))
            else:
                self._spawn(
                    self.end(
                        worker,
                        booking,
                        self._died(worker, "The worker ended while it had the job.", len(running)),
                    )
                )

    def _died(self, worker: PullingWorker, error: str, running: int) -> Delivered:
        return Delivered(
            ending=Ending.WORKER_DIED if running <= 1 else Ending.WORKER_DIED_SHARED,
            error=error,
            exit_code=self._fates.exit_code(worker.id),
        )

    async def watch_silence(self) -> None:
        """Take jobs away from workers that are not heard any more, and have those replaced."""
        loop = asyncio.get_running_loop()
        while True:
            slept_s = loop.time()
            await asyncio.sleep(_LOOK_S)
            now_s = loop.time()
            if now_s - slept_s > 2 * _LOOK_S:
                self._forgive(now_s)  # nobody could be heard meanwhile
            for worker in list(self._workers.values()):
                silent_s = now_s - worker.heard_s if worker.heard_s is not None else 0.0
                if silent_s > SILENT_S and worker.running and not worker.polls:
                    self._spawn(self._give_up(worker, silent_s))

    def _forgive(self, now_s: float) -> None:
        for worker in self._workers.values():
            if worker.heard_s is not None:
                worker.heard_s = now_s

    async def _give_up(self, worker: PullingWorker, silent_s: float) -> None:
        _log.warning("worker.silent", worker=worker.id, silent_s=round(silent_s, 1), jobs=len(worker.running))
        worker.leaving = True
        error = f"The worker was not heard for {silent_s:.0f} s: no ping, no poll, no result."
        running = worker.running
        for booking in running:
            booking.over = True
        for booking in running:
            await self.end(worker, booking, self._died(worker, error, len(running)))
        await self._fates.recycle(worker.id)

    # -- unnoticed -----------------------------------------------------------------------------

    def note_in_progress(self, worker: PullingWorker, in_progress: bool | None) -> None:
        """A poll says whether its worker holds jobs: what it was given and does not hold is lost."""
        now_s = asyncio.get_running_loop().time()
        if in_progress is True and len(worker.running) == 1:
            worker.running[0].confirmed = True
        if in_progress is not False:
            return
        for booking in list(worker.held.values()):
            if worker.polls and now_s - booking.handed_s < _PARALLEL_S:
                continue
            if booking.over:
                self.let_go(worker, booking)
            else:
                self._is_lost(worker, booking)

    def _is_lost(self, worker: PullingWorker, booking: Booking) -> None:
        job = booking.job
        said = lost(
            confirmed=booking.confirmed,
            adopted=booking.adopted,
            delivery=job.deliveries - job.deliveries_before,
        )
        _log.warning("job.lost_by_worker", job=job.id, worker=worker.id, reason=said.reason)
        booking.over = True
        self._spawn(self.end(worker, booking, said))

    def note_ping(self, worker: PullingWorker, job_ids: frozenset[str]) -> None:
        """A ping lists jobs: those the worker has; others that are over it let go of, the rest never came."""
        now_s = asyncio.get_running_loop().time()
        for booking in list(worker.held.values()):
            if booking.job.id in job_ids:
                booking.confirmed = True
                if booking.over and now_s - booking.stopped_s > STOP_GRACE_S:
                    self._overstays(worker, booking)
            elif booking.over and booking.timer is not None and now_s - booking.handed_s > _SETTLES_S:
                self.let_go(worker, booking)
            elif job_ids and not booking.confirmed and now_s - booking.handed_s > _SHOWN_S:
                self._is_lost(worker, booking)

    def not_taken(self, worker: PullingWorker, booking: Booking) -> None:
        """The answer that carried it was not written."""
        booking.over = True
        self._spawn(self.end(worker, booking, lost(confirmed=False, adopted=False)))

    def _holder_of(self, job: Job) -> tuple[PullingWorker | None, Booking | None]:
        for worker in self._workers.values():
            booking = worker.held.get(job.id)
            if booking is not None:
                return worker, booking
        return None, None

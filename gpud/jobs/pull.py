"""Gives jobs to the workers of queue endpoints, which come for them: RunPod's worker protocol, behind HTTP.

A place in the gateway's count comes first, then the claim, then the answer to the worker's poll; a worker
that is not READY has no place, so one that drains is given nothing. What a worker says of a job it does
not hold any more changes nothing. How jobs end early, and how that is found out, is in `jobs.pull_ends`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core.ids import WorkerId
from gpud.core.worker import WorkerState
from gpud.errors import GpudError, StorageFull
from gpud.jobs.pull_ends import PullEnds
from gpud.jobs.pulling_worker import Booking, ChunkBuffer, Poll, PullingWorker
from gpud.jobs.push import SOLO_PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from gpud.core.ids import EndpointName, JobId
    from gpud.core.job import Job
    from gpud.core.pull_protocol import Report
    from gpud.jobs.queue import JobQueue
    from gpud.ports.jobs import Claim
    from gpud.ports.work import JobPlace, WorkerFates, WorkerPlaces

HOLD_S = 25.0
"""How long a poll waits for an answer; RunPod's SDK gives up after 90 s."""
_LAST_WRITES_S = 5.0
_RELEASED_PAUSE_S = 0.5
_FULL_DISK_RETRY_S = 0.5
_log = structlog.get_logger(__name__)


class Pull:
    """See the module's text.

    Args:
        queue: Whose jobs.
        places: The gateway's counts.
        fates: The fleet.
        hold_s: How long a poll waits.
    """

    def __init__(
        self, queue: JobQueue, places: WorkerPlaces, fates: WorkerFates, *, hold_s: float = HOLD_S
    ) -> None:
        self._queue = queue
        self._places = places
        self._fates = fates
        self._hold_s = hold_s
        self._workers: dict[WorkerId, PullingWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._patient: set[EndpointName] = set()
        self._paused: set[EndpointName] = set()
        self._stopping = False
        self._listening: asyncio.Task[None] | None = None
        self._ends = PullEnds(queue, fates, self._workers, self._spawn)

    def start(self, adopted: Iterable[Job]) -> None:
        """Begin to give.

        Args:
            adopted: Jobs that workers hold which an earlier run of the daemon gave them.
        """
        self._queue.on_ready.append(self.pump)
        self._queue.on_cancel.append(self._ends.cancel)
        for job in adopted:
            worker_id = WorkerId(job.worker_id)
            worker = self._workers.setdefault(worker_id, PullingWorker(worker_id, job.endpoint))
            place = self._places.count_job(job.endpoint, worker_id)
            self._book(worker, job, place, adopted=True)
            # Its silence counts from now on.
            worker.heard_s = asyncio.get_running_loop().time()
        self._listening = asyncio.ensure_future(self._ends.watch_silence())

    async def stop(self) -> None:
        """Give no more, and let every poll go; jobs that workers hold stay theirs for the next daemon."""
        self._stopping = True
        for worker in self._workers.values():
            worker.release()
            for booking in worker.held.values():
                booking.set_timer(None)
        if self._listening is not None:
            self._listening.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_WRITES_S)

    def look(self) -> None:
        """The fleet has changed: let go of workers that are stopped, and settle what ended ones had."""
        for worker in list(self._workers.values()):
            known = self._fates.worker(worker.id)
            if known is None or known.state in _ENDED:
                del self._workers[worker.id]
                worker.release()
                self._ends.worker_ended(worker)
            elif known.state is WorkerState.STOPPING:
                worker.release()

    # -- what workers ask ----------------------------------------------------------------------

    def admits(self, worker_id: WorkerId, endpoint: str) -> bool:
        """Whether there is such a worker, of that endpoint."""
        known = self._fates.worker(worker_id)
        return known is not None and known.endpoint == endpoint and known.state not in _ENDED

    async def take(self, worker_id: WorkerId, room: int, in_progress: bool | None) -> list[Claim]:
        """Wait for jobs; empty when none came in time. What is returned is booked on the worker.

        Args:
            worker_id: Who asks.
            room: How many it takes.
            in_progress: Whether it says that it holds jobs; None when it does not say.
        """
        loop = asyncio.get_running_loop()
        worker = self._heard(worker_id)
        if worker is None:
            await asyncio.sleep(self._hold_s)  # whoever asks again at once is kept from asking too often
            return []
        self._ends.note_in_progress(worker, in_progress)
        if worker.released:
            await asyncio.sleep(_RELEASED_PAUSE_S)
            return []
        poll, until_s = Poll(loop.time()), loop.time() + self._hold_s
        worker.polls.append(poll)
        try:
            while True:
                poll.wake.clear()
                claims = await self._claim_up_to(worker, room)
                left_s = until_s - loop.time()
                if claims or left_s <= 0 or poll.over or worker.leaves_now:
                    return claims
                try:
                    async with asyncio.timeout(left_s):
                        await poll.wake.wait()
                except TimeoutError:
                    return []
        finally:
            worker.polls.remove(poll)
            worker.note_call(loop.time())

    async def jobs_to_stop(self, worker_id: WorkerId) -> list[JobId]:
        """Wait for jobs that the worker is to stop; each is told once."""
        worker = self._heard(worker_id)
        if worker is None or worker.released or self._stopping:
            await asyncio.sleep(_RELEASED_PAUSE_S)
            return []
        waiting = asyncio.Event()
        worker.stop_polls.add(waiting)
        try:
            if not worker.to_stop:
                async with asyncio.timeout(self._hold_s):
                    await waiting.wait()
        except TimeoutError:
            return []
        finally:
            worker.stop_polls.discard(waiting)
        told, worker.to_stop = worker.to_stop, []
        return told

    async def report(self, worker_id: WorkerId, job_id: JobId, report: Report) -> None:
        """Take a result or a progress; returns once it is on disk. Of a job that is not there: ignored."""
        worker = self._heard(worker_id)
        booking = worker.held.get(job_id) if worker is not None else None
        if worker is not None and report.refresh:
            worker.leaving = True  # before its place is free
        if worker is not None and booking is not None:
            if report.progress:
                await self._ends.progress(booking, report.output or b"null")
            elif booking.over:
                self._ends.let_go(worker, booking)
            else:
                # The worker may hang up while this is written.
                await self._whole(self._ends.end(worker, booking, report.said, output=report.output))
        if worker is not None and report.refresh:
            await self._fates.recycle(worker.id)

    async def chunk(self, worker_id: WorkerId, job_id: JobId, chunk: bytes) -> None:
        """Take a part of what a job gives."""
        worker = self._heard(worker_id)
        booking = worker.held.get(job_id) if worker is not None else None
        if booking is not None and not booking.over:
            booking.confirmed = True
            await booking.chunks.add(chunk)

    def ping(self, worker_id: WorkerId, job_ids: frozenset[str], complaint: str) -> None:
        """Take note of a sign of life, and of which jobs the worker says it has."""
        worker = self._heard(worker_id)
        if worker is not None:
            if complaint and complaint != worker.complaint:
                _log.warning("worker.unhealthy", worker=worker_id, complaint=complaint)
            worker.complaint = complaint
            self._ends.note_ping(worker, job_ids)

    # -- what the fleet asks -------------------------------------------------------------------

    async def silent_s(self, worker_id: WorkerId, *, wait_s: float) -> float | None:
        """How long ago a worker called; waits up to `wait_s` for the first call, None without one."""
        worker = self._known(worker_id)
        if worker is None:
            return None
        if worker.heard_s is None:
            try:
                async with asyncio.timeout(wait_s):
                    await worker.heard.wait()
            except TimeoutError:
                return None
        return asyncio.get_running_loop().time() - (worker.heard_s or 0.0)

    def complaint(self, worker_id: WorkerId) -> str:
        """What a worker said is wrong with it; empty when nothing is."""
        worker = self._workers.get(worker_id)
        return worker.complaint if worker is not None else ""

    # -- giving --------------------------------------------------------------------------------

    def pump(self, endpoint: EndpointName) -> None:
        """Wake as many polls of an endpoint as there may be jobs for, of the least busy workers first."""
        if self._stopping or endpoint in self._paused or not self._queue.may_claim(endpoint):
            return
        waiting = [
            (len(worker.held), poll.since_s, number, poll)
            for number, worker in enumerate(self._workers.values())
            if worker.endpoint == endpoint and worker.polls and self._may_have_jobs(worker)
            for poll in worker.polls
            if not poll.wake.is_set()
        ]
        for *_order, poll in sorted(waiting, key=lambda each: each[:3])[
            : len(self._queue.lane(endpoint).ready) or 1
        ]:
            poll.wake.set()

    def _may_have_jobs(self, worker: PullingWorker) -> bool:
        known = self._fates.worker(worker.id)
        return (
            not worker.leaving and not worker.solo and known is not None and known.state is WorkerState.READY
        )

    async def _claim_up_to(self, worker: PullingWorker, room: int) -> list[Claim]:
        claims: list[Claim] = []
        try:
            while len(claims) < room and (claim := await self._claim(worker)) is not None:
                claims.append(claim)
        except BaseException:
            self.give_back(worker.id, claims)
            raise
        return claims

    async def _claim(self, worker: PullingWorker) -> Claim | None:
        if self._stopping or worker.leaving or worker.solo or worker.endpoint in self._paused:
            return None
        if not self._queue.may_claim(worker.endpoint):
            return None
        alone = self._queue.next_is_solo(worker.endpoint)
        if alone and worker.held and self._is_patient(worker.endpoint):
            return None
        place = self._places.take_place(worker.endpoint, worker.id)
        if place is None:
            return None
        claim: Claim | None = None
        try:
            claim = await self._queue.claim(worker.endpoint, worker.id, solo=alone)
        except GpudError as error:
            if not isinstance(error, StorageFull):
                _log.error("job.claim_failed", endpoint=worker.endpoint, error=error.detail)
            # First: the place that is given back below wakes whoever waits for one, this very poll included.
            self._pause(worker.endpoint)
        finally:
            if claim is None:
                place.release()
        if claim is not None:
            self._book(worker, claim.job, place)
        return claim

    def _pause(self, endpoint: EndpointName) -> None:
        """Claim nothing for a moment: what could not be written now cannot be a millisecond later either."""
        if endpoint not in self._paused:
            self._paused.add(endpoint)
            asyncio.get_running_loop().call_later(_FULL_DISK_RETRY_S, self._go_on, endpoint)

    def _go_on(self, endpoint: EndpointName) -> None:
        self._paused.discard(endpoint)
        self.pump(endpoint)

    def _is_patient(self, endpoint: EndpointName) -> bool:
        """Whether a job that should run alone goes on waiting for an idle worker; others wait behind it."""
        left_s = SOLO_PATIENCE_S - self._queue.next_waited_s(endpoint)
        if left_s > 0 and endpoint not in self._patient:
            self._patient.add(endpoint)
            asyncio.get_running_loop().call_later(left_s, self._patience_over, endpoint)
        return left_s > 0

    def _patience_over(self, endpoint: EndpointName) -> None:
        self._patient.discard(endpoint)
        self.pump(endpoint)

    def _book(self, worker: PullingWorker, job: Job, place: JobPlace, *, adopted: bool = False) -> None:
        loop = asyncio.get_running_loop()
        booking = Booking(
            job=job,
            place=place,
            chunks=ChunkBuffer(self._queue, job),
            handed_s=loop.time(),
            adopted=adopted,
        )
        worker.held[job.id] = booking
        self._queue.metering.began(job, place)
        limit_s = max(0.0, (job.stop_by_ms - self._queue.now_ms()) / 1000)
        booking.set_timer(loop.call_later(limit_s, self._ends.time_out, worker, booking))
        if job.cancel_requested:
            self._ends.cancel(job)

    def give_back(self, worker_id: WorkerId, claims: Iterable[Claim]) -> None:
        """The answer with these jobs did not reach the worker."""
        worker = self._workers.get(worker_id)
        for claim in claims:
            booking = worker.held.get(claim.job.id) if worker is not None else None
            if worker is not None and booking is not None and not booking.over:
                self._ends.not_taken(worker, booking)

    # -- inside --------------------------------------------------------------------------------

    def _known(self, worker_id: WorkerId) -> PullingWorker | None:
        worker = self._workers.get(worker_id)
        if worker is None:
            known = self._fates.worker(worker_id)
            if known is not None and known.state not in _ENDED:
                worker = self._workers[worker_id] = PullingWorker(worker_id, known.endpoint)
        return worker

    def _heard(self, worker_id: WorkerId) -> PullingWorker | None:
        worker = self._known(worker_id)
        if worker is not None:
            worker.note_call(asyncio.get_running_loop().time())
        return worker

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("job.pull_failed", exc_info=error)  # the job's lease lapses and gives it back

    async def _whole(self, work: Coroutine[None, None, None]) -> None:
        await asyncio.shield(self._spawn(work))


_ENDED = frozenset({WorkerState.FAILED, WorkerState.RELEASING, WorkerState.GONE})

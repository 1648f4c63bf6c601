"""What people and clients do to jobs: cancel, try again, empty a queue."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from gpud.core.job import Job, JobState, cancelled, redriven
from gpud.errors import Conflict, NotFound
from gpud.jobs.whole import whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName, JobId
    from gpud.jobs.queue import JobQueue
    from gpud.ports.jobs import Change, JobQuery
    from gpud.ports.time import Clock

_BATCH = 500


class ByHand:
    """Changes that no worker asked for. Cancelling the caller leaves a change running.

    Args:
        queue: Whose jobs.
        clock: Loop time.
    """

    def __init__(self, queue: JobQueue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock

    async def cancel(self, job_id: JobId, *, allowed: Callable[[Job], bool]) -> Job:
        """Cancel a job: at once when it waits, else as soon as its attempt can be stopped.

        Raises:
            NotFound: There is none, or none the caller may see.
        """
        return await whole(self._cancel(job_id, allowed))

    async def _cancel(self, job_id: JobId, allowed: Callable[[Job], bool]) -> Job:
        change = await self._change(
            job_id, allowed, partial(cancelled, now_ms=self._queue.now_ms(), kept=self._queue.kept)
        )
        self._queue.left_the_queue(change)
        after = change.after
        if after.state is JobState.IN_PROGRESS:
            if after.id in self._queue.running:
                self._queue.running[after.id] = after  # whoever is about to deliver it sees it there
            for tell in self._queue.on_cancel:
                tell(after)
        return after

    async def retry(self, job_id: JobId, *, allowed: Callable[[Job], bool]) -> Job:
        """Put a job that FAILED or TIMED_OUT back, with a new budget.

        Raises:
            NotFound: There is none, or none the caller may see.
            Conflict: It is in another state.
        """
        return await whole(self._retry(job_id, allowed))

    async def _retry(self, job_id: JobId, allowed: Callable[[Job], bool]) -> Job:
        change = await self._change(job_id, allowed, partial(redriven, now_ms=self._queue.now_ms()))
        if change.before == change.after:
            raise Conflict(
                f"The job {job_id} is {change.before.state}; only one that FAILED or TIMED_OUT can be "
                "tried again."
            )
        lane = self._queue.lane(change.after.endpoint)
        lane.began_to_wait(change.after)
        lane.note_end("retried", self._clock.now_s())
        self._queue.waits_again(change.after)
        return change.after

    async def cancel_waiting(self, endpoint: EndpointName, *, allowed: Callable[[Job], bool]) -> int:
        """Cancel every job of an endpoint that waits, of those the caller may change; how many."""
        decide = partial(cancelled, kept=self._queue.kept)
        return await self.end_waiting(
            endpoint, lambda job, now_ms: decide(job, now_ms=now_ms) if allowed(job) else None
        )

    async def end_waiting(self, endpoint: EndpointName, decide: Callable[[Job, int], Job | None]) -> int:
        """Apply a transition, given the time, to every job of an endpoint that waits; how many it changed."""
        return await whole(self._end_waiting(endpoint, decide))

    async def _end_waiting(self, endpoint: EndpointName, decide: Callable[[Job, int], Job | None]) -> int:
        count = after_seq = 0
        while True:
            now_ms = self._queue.now_ms()
            changes = await self._queue.store.cancel_waiting(
                endpoint,
                lambda job, now_ms=now_ms: decide(job, now_ms),  # type: ignore[misc]
                now_ms=now_ms,
                after_seq=after_seq,
                limit=_BATCH,
            )
            for change in changes:
                self._queue.left_the_queue(change)
                count += change.after != change.before
            if len(changes) < _BATCH:
                return count
            after_seq = changes[-1].before.seq

    async def redrive(self, query: JobQuery, *, allowed: Callable[[Job], bool]) -> int:
        """Put dead letters back; how many."""
        count = 0
        for job in await self._queue.store.page(query):
            with suppress(NotFound, Conflict):
                await self.retry(job.id, allowed=allowed)
                count += 1
        return count

    async def purge(self, query: JobQuery, *, allowed: Callable[[Job], bool]) -> int:
        """Delete dead letters; how many."""
        jobs = await self._queue.store.page(query)
        return sum([await self._queue.store.delete(job.id, allowed=allowed) for job in jobs])

    async def _change(
        self, job_id: JobId, allowed: Callable[[Job], bool], decide: Callable[[Job], Job | None]
    ) -> Change:
        change = await self._queue.store.change(
            job_id, lambda job: decide(job) if allowed(job) else None, now_ms=self._queue.now_ms()
        )
        if change is None or not allowed(change.before):
            raise NotFound(f"There is no job {job_id[:100]}, or it was deleted after its time.")
        return change

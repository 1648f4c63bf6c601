"""Drains jobs' stream chunks: nobody gets one twice, whatever restarts meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from gpud.api.job_output import chunks_behind
from gpud.ports.jobs import ChunkPlace

if TYPE_CHECKING:
    import asyncio

    from gpud.core.ids import JobId
    from gpud.core.job import Job
    from gpud.jobs.queue import JobQueue

_REMEMBERED_MAX = 10_000


class Drain:
    """Where each job's readers are; they share its chunks.

    Args:
        queue: Whose jobs.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._places: dict[JobId, ChunkPlace] = {}

    async def take(self, job: Job, *, hold_s: float, stopping: asyncio.Event) -> tuple[Job, list[bytes]]:
        """The job and its chunks that nobody took, once there are any or it is over.

        They are taken when this returns, and stay so over a restart: one that comes before the answer
        has left loses them, as a connection that breaks does; the job's output has all of them.
        """
        store = self._queue.store
        place = self._places.get(job.id) or await store.drained(job.seq)
        job, found = await chunks_behind(self._queue, job, place, hold_s=hold_s, stopping=stopping)
        taken = self._places.get(job.id, place).after(job.deliveries)  # somebody else was here meanwhile
        found = [(n, chunk) for n, chunk in found if n > taken]
        if found:
            place = ChunkPlace(delivery=job.deliveries, n=found[-1][0])
            self._places.pop(job.id, None)
            self._places[job.id] = place
            while len(self._places) > _REMEMBERED_MAX:
                del self._places[next(iter(self._places))]
            await store.note_drained(job.seq, place)
        return job, [chunk for _n, chunk in found]


DRAIN = web.AppKey("DRAIN", Drain)

"""What is known of one worker that fetches its jobs: what it holds, and its polls that wait for an answer."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from gpud.errors import StorageFull, Unavailable

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, JobId, WorkerId
    from gpud.core.job import Job
    from gpud.jobs.queue import JobQueue
    from gpud.ports.work import JobPlace

_FLUSH_S = 0.02
_UNWRITTEN_BYTES_MAX = 1 << 20
_log = structlog.get_logger(__name__)


class ChunkBuffer:
    """Writes what a job gives in batches, in the order it came.

    Args:
        queue: Whose store.
        job: As it was claimed.
    """

    def __init__(self, queue: JobQueue, job: Job) -> None:
        self._queue = queue
        self._job = job
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._writing = asyncio.Lock()
        self._soon: asyncio.Task[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Take a chunk; returns at once unless too much is unwritten."""
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        if self._bytes > _UNWRITTEN_BYTES_MAX:
            await self.flush()
        elif self._soon is None or self._soon.done():
            self._soon = asyncio.ensure_future(self._flush_soon())

    async def _flush_soon(self) -> None:
        await asyncio.sleep(_FLUSH_S)
        await self.flush()

    async def flush(self) -> None:
        """Write what has come."""
        async with self._writing:
            chunks, self._chunks, self._bytes = self._chunks, [], 0
            if not chunks:
                return
            try:
                await self._queue.store.append_chunks(self._job, chunks)
            except (StorageFull, Unavailable):
                _log.warning("job.chunks_lost", job=self._job.id, chunks=len(chunks))
        self._queue.news.tell(self._job.id)


@dataclass(slots=True, eq=False)
class Booking:
    """One job that a worker was given.

    Attributes:
        handed_s: Loop time.
        adopted: An earlier run of the daemon gave it.
        confirmed: The worker has shown that it has it.
        over: Its row has its end, or is about to; the worker may still be at it.
        stopped_s: Loop time at which its worker was told to stop it.
        timer: Ends it at its time limit; once it is over, the worker's time to let go of it.
    """

    job: Job
    place: JobPlace
    chunks: ChunkBuffer
    handed_s: float
    adopted: bool = False
    confirmed: bool = False
    over: bool = False
    stopped_s: float = math.inf
    timer: asyncio.TimerHandle | None = None

    def set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        """Replace the timer."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = timer


@dataclass(slots=True, eq=False)
class Poll:
    """A request for jobs that has no answer yet.

    Attributes:
        over: Answer it now, with nothing if there is nothing.
    """

    since_s: float
    over: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class PullingWorker:
    """See the module's text.

    Attributes:
        heard_s: Loop time of its last call; None before the first.
        heard: Set with the first call.
        complaint: What it said is wrong with it; empty when nothing is.
        held: Jobs it was given, those included that are over and that it may still be at.
        polls: For jobs.
        stop_polls: For jobs to stop.
        to_stop: Jobs it has not been told yet to stop.
        leaving: It gets no more jobs.
        released: It is being stopped: no poll is held any more.
    """

    id: WorkerId
    endpoint: EndpointName
    heard_s: float | None = None
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    complaint: str = ""
    held: dict[JobId, Booking] = field(default_factory=dict)
    polls: list[Poll] = field(default_factory=list)
    stop_polls: set[asyncio.Event] = field(default_factory=set)
    to_stop: list[JobId] = field(default_factory=list)
    leaving: bool = False
    released: bool = False

    @property
    def leaves_now(self) -> bool:
        """Whether no poll of it is to be held."""
        return self.released

    @property
    def running(self) -> list[Booking]:
        """Jobs it runs that are not over."""
        return [booking for booking in self.held.values() if not booking.over]

    @property
    def solo(self) -> bool:
        """Whether it has a job that must run alone."""
        return any(booking.job.solo for booking in self.held.values())

    def note_call(self, now_s: float) -> None:
        """It called."""
        self.heard_s = now_s
        self.heard.set()

    def release(self) -> None:
        """Answer its polls now, and each that comes: its process waits for them before it ends."""
        self.leaving = self.released = True
        for poll in self.polls:
            poll.wake.set()
        for waiting in self.stop_polls:
            waiting.set()

    def renew_polls(self) -> None:
        """Have it ask anew."""
        for poll in self.polls:
            poll.over = True
            poll.wake.set()

    def tell_to_stop(self, job_id: JobId) -> None:
        """Have it stop a job, if it listens for that."""
        self.to_stop.append(job_id)
        for waiting in self.stop_polls:
            waiting.set()

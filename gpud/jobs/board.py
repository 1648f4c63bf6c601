"""What the queue knows of its jobs in memory, and whom it tells when that changes.

Rows decide; this only knows who is next, how many there are, and who waits to hear of it. Whoever has
written a change calls one method here, so that the counts, the waiters and the rows agree.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.job import JobState
from gpud.core.ready_jobs import place_of
from gpud.errors import Unavailable
from gpud.jobs.lanes import JobLane
from gpud.jobs.new_jobs import NewJobs
from gpud.jobs.news import News

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpud.core.ids import EndpointName, JobId
    from gpud.core.job import Job
    from gpud.core.timeline import Anchor
    from gpud.ports.jobs import Change, JobsAtStart
    from gpud.ports.time import Clock


class JobBoard:
    """Every endpoint's lane, what runs, and the hooks.

    Args:
        clock: For the timeline's pace.

    Attributes:
        running: Jobs IN_PROGRESS, by id.
        new: Jobs that nobody has had yet, with their inputs.
        news: Tells who waits for a job that something happened to it.
        on_ready: Called with an endpoint one of whose jobs may be handed out.
        on_cancel: Called with a running job that is to be stopped.
        on_load: Called when what waits changed from nothing, or to it.
        due_changed: Set when the next moment that the upkeep waits for may have changed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._anchor: Anchor | None = None
        self._lanes: dict[EndpointName, JobLane] = {}
        self.running: dict[JobId, Job] = {}
        self.new = NewJobs()
        self.news = News()
        self.on_ready: list[Callable[[EndpointName], None]] = []
        self.on_cancel: list[Callable[[Job], None]] = []
        self.on_load: list[Callable[[], None]] = []
        self.due_changed = asyncio.Event()

    def now_ms(self) -> int:
        """The job timeline now."""
        if self._anchor is None:
            raise Unavailable("The job queue has not started yet. Try again in a moment.")
        return self._anchor.now_ms(self._clock.boot_ns())

    def shown_ms(self, at_ms: int) -> int:
        """A moment of the job timeline as wall time, for people."""
        return self._clock.at_ms() - (self.now_ms() - at_ms) if at_ms else 0

    def lane(self, endpoint: EndpointName) -> JobLane:
        """The counts of an endpoint, made on first use."""
        found = self._lanes.get(endpoint)
        if found is None:
            found = self._lanes[endpoint] = JobLane()
        return found

    def peek(self, endpoint: EndpointName) -> JobLane | None:
        """The counts of an endpoint, if it ever had a job."""
        return self._lanes.get(endpoint)

    @property
    def lanes(self) -> dict[EndpointName, JobLane]:
        """Every endpoint that has or had jobs."""
        return self._lanes

    def next_is_solo(self, endpoint: EndpointName) -> bool:
        """Whether the next job should run alone on its worker."""
        first = self.lane(endpoint).ready.first
        return first is not None and first.solo

    def next_waited_s(self, endpoint: EndpointName) -> float:
        """How long the next job could have run and did not."""
        first = self.lane(endpoint).ready.first
        return 0.0 if first is None else (self.now_ms() - first.available_at_ms) / 1000

    def restore(self, found: JobsAtStart) -> None:
        """Take up what is on disk at the start."""
        self._anchor = found.anchor
        for name, waiting in found.waiting.items():
            self._lanes[name] = JobLane.restored(waiting)
        for name, seqs in found.scheduled.items():
            self.lane(name).scheduled |= set(seqs)
        for (name, ending), count in found.totals.items():
            self.lane(name).totals[ending] = count
        for (name, group_key), seq in found.group_holders.items():
            self.lane(name).ready.holders[group_key] = seq

    def delivery_over(self, job: Job) -> None:
        """Take note of a delivery that ended, whatever became of the job."""
        lane = self.lane(job.endpoint)
        self.running.pop(job.id, None)
        lane.running -= 1
        if job.state is JobState.IN_QUEUE:
            lane.note_end("retried", self._clock.now_s())
            lane.began_to_wait(job)
            self.waits_again(job)
        else:
            self._is_over(job)

    def waits_again(self, job: Job) -> None:
        """Take note of a job that is IN_QUEUE once more."""
        if job.available_at_ms <= self.now_ms():
            # Its row stands among the scheduled ones only when its time was still to come.
            self.lane(job.endpoint).ready.add(place_of(job))
            self.tell_ready(job.endpoint)
        elif not job.low_priority:
            self.lane(job.endpoint).scheduled.add(job.seq)
        self.due_changed.set()
        self.news.tell(job.id)

    def _is_over(self, job: Job) -> None:
        lane = self.lane(job.endpoint)
        lane.note_end(job.state.value.lower(), self._clock.now_s())
        lane.ready.release(job.group_key, job.seq)
        self.news.tell(job.id)
        if lane.waiting:
            self.tell_ready(job.endpoint)
        else:
            self._tell_load()

    def left_the_queue(self, change: Change) -> None:
        """Take note of a job that ended while it waited."""
        if change.before.state is JobState.IN_QUEUE and change.after.state.terminal:
            lane = self.lane(change.after.endpoint)
            lane.waits_no_more(change.before)
            lane.ready.discard(change.after.seq)
            self.new.take(change.after.seq)
            lane.scheduled.discard(change.after.seq)
            self._is_over(change.after)

    def took_up(self, job: Job) -> None:
        """Count a job IN_PROGRESS that nobody here knew of."""
        self.running[job.id] = job
        self.lane(job.endpoint).running += 1

    def lost_sight_of(self, job: Job) -> None:
        """Nobody here is at a job IN_PROGRESS any more: its lease lapses, which gives it back."""
        if self.running.pop(job.id, None) is not None:
            self.lane(job.endpoint).running -= 1

    def came_due(self, jobs: Sequence[Job]) -> None:
        """Take note of scheduled jobs whose time has come."""
        for job in jobs:
            lane = self.lane(job.endpoint)
            lane.scheduled.discard(job.seq)
            lane.ready.add(place_of(job))
        for endpoint in dict.fromkeys(job.endpoint for job in jobs):
            self.tell_ready(endpoint)

    def tell_ready(self, endpoint: EndpointName) -> None:
        """A job of an endpoint may be handed out."""
        for tell in self.on_ready:
            tell(endpoint)
        self._tell_load()

    def _tell_load(self) -> None:
        for changed in self.on_load:
            changed()

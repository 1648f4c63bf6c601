"""The job queue: takes jobs, hands them out one at a time, and sees each to one end.

Rows decide; memory (`jobs.board`) only knows who is next and how many there are. Everything that changes a
job goes through here. Delivery by push (`jobs.push`) and by pull use the same three calls: `claim`, then
`complete` or `settle`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core.job import Delivered, Ending, Job, Retention
from gpud.core.job_request import accepted, job_id
from gpud.core.ready_jobs import place_of
from gpud.errors import QueueFull, StorageFull
from gpud.jobs.board import JobBoard
from gpud.jobs.submission import QueueLimits, Submission
from gpud.jobs.whole import whole
from gpud.ports.jobs import Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName
    from gpud.jobs.lanes import JobLane
    from gpud.ports.jobs import Claim, JobStore, Payload
    from gpud.ports.time import Clock, IdSource

LEASE_MS = 60_000
_REFILL = 1024
_RETRY_AFTER_S = (1.0, 600.0)
_log = structlog.get_logger(__name__)


class JobQueue(JobBoard):
    """Every job of the daemon.

    Args:
        store: Their rows.
        clock: For the timeline's pace.
        ids: For new ids and jitter.
        kept: How long rows stay.
        limits: When to refuse.
        free_share: Share of the data directory's disk that is free; asked now and then.

    Attributes:
        instance: This run of the daemon; holds the leases.
        stopped: No more is handed out.
    """

    def __init__(
        self,
        store: JobStore,
        clock: Clock,
        ids: IdSource,
        *,
        kept: Retention | None = None,
        limits: QueueLimits | None = None,
        free_share: Callable[[], float] = lambda: 1.0,
    ) -> None:
        super().__init__(clock)
        self._store = store
        self._ids = ids
        self.kept = kept or Retention()
        self._limits = limits or QueueLimits()
        self._free_share = free_share
        self.instance = ids.new_id("run")
        self._giving_back: set[asyncio.Future[Job | None]] = set()
        self.stopped = False

    @property
    def store(self) -> JobStore:
        """The rows, for whoever only reads."""
        return self._store

    async def start(self) -> tuple[Change, ...]:
        """Read what is there; returns what an earlier run of the daemon had under way."""
        found = await self._store.start(
            boot_id=self._clock.boot_id,
            boot_ns=self._clock.boot_ns(),
            wall_ms=self._clock.at_ms(),
            kept=self.kept,
            fraction=self._ids.fraction,
        )
        self.restore(found)
        if found.given_back:
            _log.info("jobs.given_back", jobs=len(found.given_back))
        return found.given_back

    # -- taking --------------------------------------------------------------------------------

    async def submit(self, asked: Submission) -> tuple[Job, bool]:
        """Take a job; it is on disk when this returns. True when it is an earlier one of the same key.

        Cancelling the caller does not take the job back.

        Raises:
            QueueFull: As much waits as may; `retry_after_s` follows from how fast jobs end.
            StorageFull: The disk has no room, or little.
            IdempotencyMismatch: The key was used with another request.
        """
        return await whole(self._submit(asked))

    async def _submit(self, asked: Submission) -> tuple[Job, bool]:
        self._refuse_excess(asked)
        now_ms = self.now_ms()
        job = accepted(
            job_id(now_ms, self._ids.new_id("job"), sync=asked.sync),
            endpoint=asked.endpoint,
            owner=asked.owner,
            policy=asked.policy,
            now_ms=now_ms,
            sync=asked.sync,
            webhook=asked.webhook,
            input_bytes=len(asked.payload.content),
        )
        # Counted from here on, so that a burst cannot pass the limit while it is being written.
        lane = self.lane(asked.endpoint)
        lane.began_to_wait(job)
        try:
            written, replayed = await self._store.accept(job, asked.payload, asked.idempotency)
        except BaseException:
            lane.waits_no_more(job)
            raise
        if replayed:
            lane.waits_no_more(job)
            return written, True
        lane.arrivals += 1
        lane.ready.add(place_of(written))
        if asked.policy.ttl_ms < LEASE_MS or asked.policy.deadline_ms:
            self.due_changed.set()
        self.tell_ready(asked.endpoint)
        return written, False

    def _refuse_excess(self, asked: Submission) -> None:
        lane = self.lane(asked.endpoint)
        over = lane.waiting >= self._limits.waiting
        if over or lane.waiting_bytes + len(asked.payload.content) > self._limits.waiting_bytes:
            raise QueueFull(
                f"{lane.waiting} jobs with {lane.waiting_bytes} bytes wait for {asked.endpoint}, "
                "as much as may. Try again later, or raise jobs.max_waiting or jobs.max_waiting_bytes.",
                retry_after_s=self.retry_after_s(asked.endpoint),
            )
        if self._free_share() < self._limits.free_share:
            raise StorageFull(
                f"Less than {self._limits.free_share:.0%} of the disk of gpud's data directory is free, "
                "so no new jobs are taken; those that run go on. Free some space.",
                retry_after_s=30.0,
            )

    def retry_after_s(self, endpoint: EndpointName) -> float:
        """When a tenth of what waits will be done at the present pace."""
        lane = self.lane(endpoint)
        pace_per_s = lane.pace_per_s(self._clock.now_s())
        wanted_s = lane.waiting / 10 / pace_per_s if pace_per_s else 30.0
        least_s, most_s = _RETRY_AFTER_S
        return min(max(wanted_s, least_s), most_s)

    # -- handing out ---------------------------------------------------------------------------

    def may_claim(self, endpoint: EndpointName) -> bool:
        """Whether a job of an endpoint may be ready; False is certain."""
        lane = self._lanes.get(endpoint)
        return (
            lane is not None and not self.stopped and (lane.ready.first is not None or lane.ready.incomplete)
        )

    def next_is_solo(self, endpoint: EndpointName) -> bool:
        """Whether the next job must run alone on its worker."""
        first = self.lane(endpoint).ready.first
        return first is not None and first.solo

    async def claim(self, endpoint: EndpointName, worker_id: str, *, solo: bool = False) -> Claim | None:
        """Hand the next job out, durably; None when none is ready. Reserve a slot first.

        Args:
            endpoint: Whose job.
            worker_id: Who gets it.
            solo: The worker is idle and kept for this one job; without it, a job that must run alone waits.

        Raises:
            StorageFull: The disk is full; the job waits on.
        """
        claiming = asyncio.ensure_future(self._claim(endpoint, worker_id, solo=solo))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._nobody_took)
            raise

    def _nobody_took(self, claiming: asyncio.Future[Claim | None]) -> None:
        """Whoever asked for a job is gone: it is given back."""
        if not claiming.cancelled() and claiming.exception() is None and (claim := claiming.result()):
            said = Delivered(ending=Ending.INTERRUPTED, reason="not_taken", after_ms=0)
            task = asyncio.ensure_future(self.settle(claim.job, said))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)

    async def _claim(self, endpoint: EndpointName, worker_id: str, *, solo: bool) -> Claim | None:
        lane = self.lane(endpoint)
        while not self.stopped:
            await self._refill(endpoint, lane)
            first = lane.ready.first
            if first is None or (first.solo and not solo):
                return None
            taken = lane.ready.take()
            if taken is None:
                return None
            now_ms = self.now_ms()
            try:
                found = await self._store.claim(
                    taken.seq,
                    now_ms=now_ms,
                    worker_id=worker_id,
                    instance=self.instance,
                    lease_until_ms=now_ms + LEASE_MS,
                )
            except BaseException:
                lane.ready.add(taken)
                raise
            if found is None:  # cancelled or expired meanwhile; whoever did that counted it
                lane.ready.release(taken.group_key, taken.seq)
                continue
            lane.waits_no_more(found.job)
            lane.running += 1
            self.running[found.job.id] = found.job
            self.news.tell(found.job.id)
            return found
        return None

    async def _refill(self, endpoint: EndpointName, lane: JobLane) -> None:
        while lane.ready.must_refill:
            async with lane.reading:
                if not lane.ready.must_refill:
                    return
                after = lane.ready.last
                lane.ready.begin_refill()
                try:
                    found = await self._store.ready(endpoint, after, _REFILL)
                except BaseException:
                    lane.ready.refill((), more=True)
                    raise
                lane.ready.refill(found, more=len(found) == _REFILL)

    # -- ending --------------------------------------------------------------------------------

    async def complete(self, job: Job, result: Payload | None) -> Job | None:
        """End a delivery well; None when it is stale, and nothing has changed."""
        return await whole(self._complete(job, result))

    async def _complete(self, job: Job, result: Payload | None) -> Job | None:
        now_ms = self.now_ms()
        keep_ms = self.kept.sync_ms if job.sync else self.kept.result_ms
        after = await self._store.complete(job, now_ms=now_ms, purge_at_ms=now_ms + keep_ms, result=result)
        if after is not None:
            self.delivery_over(Change(before=job, after=after))
        return after

    async def settle(
        self, job: Job, said: Delivered, *, result: Payload | None = None, log_tail: str = ""
    ) -> Job | None:
        """End a delivery in any other way; None when it is stale."""
        return await whole(self._settle(job, said, result, log_tail))

    async def _settle(self, job: Job, said: Delivered, result: Payload | None, log_tail: str) -> Job | None:
        after = await self._store.settle(
            job,
            said,
            now_ms=self.now_ms(),
            fraction=self._ids.fraction(),
            kept=self.kept,
            result=result,
            log_tail=log_tail,
        )
        if after is not None:
            self.delivery_over(Change(before=job, after=after))
        return after

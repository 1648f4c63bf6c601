"""The job queue: takes jobs, hands them out one at a time, and sees each to one end.

Rows decide; memory (`jobs.board`) only knows who is next and how many there are. Everything that changes a
job goes through here. Delivery by push (`jobs.push`) and by pull use the same three calls: `claim`, then
`complete` or `settle`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import structlog

from gpud.core.job import Delivered, Ending, Job, Retention, claimed
from gpud.core.job_request import accepted, job_id
from gpud.core.ready_jobs import place_of
from gpud.errors import QueueFull, StorageFull
from gpud.jobs.asker import Asker
from gpud.jobs.board import JobBoard
from gpud.jobs.metering import JobMetering
from gpud.jobs.submission import QueueLimits, Submission
from gpud.jobs.whole import whole
from gpud.ports.jobs import Change, Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName
    from gpud.core.ready_jobs import Ready
    from gpud.jobs.lanes import JobLane
    from gpud.ports.jobs import JobStore, Payload
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
        self._seqs = count(1)
        self._claiming: set[int] = set()
        self._giving_back: set[asyncio.Future[Job | None]] = set()
        self.stopped = False
        self.metering = JobMetering()
        self.require_budget: Callable[[EndpointName, str], None] = lambda _endpoint, _key: None
        """Refuses a job of a key that may have no worker started."""

    @property
    def store(self) -> JobStore:
        """The rows, for whoever only reads."""
        return self._store

    async def start(
        self, stays: Callable[[Job], bool] = lambda _: False
    ) -> tuple[tuple[Change, ...], tuple[Job, ...]]:
        """Read what is there.

        Args:
            stays: Whether a job that an earlier run of the daemon had under way goes on at its worker.

        Returns:
            What was given back of that, and what goes on.
        """
        found = await self._store.start(
            boot_id=self._clock.boot_id,
            boot_ns=self._clock.boot_ns(),
            wall_ms=self._clock.at_ms(),
            kept=self.kept,
            fraction=self._ids.fraction,
            instance=self.instance,
            stays=stays,
            lease_ms=LEASE_MS,
        )
        self.restore(found)
        self._seqs = count(found.newest_seq + 1)
        for job in found.kept:
            self.took_up(job)
        if found.given_back:
            _log.info("jobs.given_back", jobs=len(found.given_back))
        return found.given_back, found.kept

    # -- taking --------------------------------------------------------------------------------

    async def submit(self, asked: Submission) -> tuple[Job, bool]:
        """Take a job; it is on disk when this returns. True when it is an earlier one of the same key.

        Cancelling the caller does not take the job back.

        Raises:
            QueueFull: As much waits as may; `retry_after_s` follows from how fast jobs end.
            StorageFull: The disk has no room, or little.
            IdempotencyMismatch: The key was used with another request.
        """
        if self._store.writes_at_once(asked.payload):
            return await self._submit(asked, early=asked.idempotency is None)
        return await whole(self._submit(asked, early=False))

    async def _submit(self, asked: Submission, *, early: bool) -> tuple[Job, bool]:
        self._refuse_excess(asked)
        now_ms = self.now_ms()
        job = accepted(
            job_id(now_ms, self._ids.new_id("job"), sync=asked.sync),
            seq=next(self._seqs),
            endpoint=asked.endpoint,
            owner=asked.owner,
            policy=asked.policy,
            now_ms=now_ms,
            sync=asked.sync,
            webhook=asked.webhook,
            input_bytes=len(asked.payload.content),
            path=asked.path,
        )
        # Counted from here on, so that a burst cannot pass the limit while it is being written.
        lane = self.lane(asked.endpoint)
        lane.began_to_wait(job)

        def written(_job: Job, replayed: bool) -> None:
            if replayed:
                lane.waits_no_more(job)
                return
            lane.arrivals += 1
            if not early:
                self._may_be_claimed(job, asked.payload)

        def not_written() -> None:
            lane.waits_no_more(job)
            lane.ready.discard(job.seq)
            self._claiming.discard(job.seq)
            self.new.take(job.seq)

        if early:
            # A claim is written behind it, in the same transaction or a later one, or finds nothing.
            self._may_be_claimed(job, asked.payload)
        return await self._store.accept(
            job, asked.payload, asked.idempotency, then=written, otherwise=not_written
        )

    def _may_be_claimed(self, job: Job, payload: Payload) -> None:
        self.lane(job.endpoint).ready.add(place_of(job))
        self.new.add(job, payload)
        if job.deadline_ms or job.ttl_ms < LEASE_MS:
            self.due_changed.set()
        self.tell_ready(job.endpoint)

    def _refuse_excess(self, asked: Submission) -> None:
        self.require_budget(asked.endpoint, asked.owner)
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

    async def claim(self, endpoint: EndpointName, worker_id: str, *, solo: bool = False) -> Claim | None:
        """Hand the next job out, durably; None when none is ready. Reserve a slot first.

        Args:
            endpoint: Whose job.
            worker_id: Who gets it.
            solo: A job that should run alone may be the next; without it, such a job waits.

        Raises:
            StorageFull: The disk is full; the job waits on.
        """
        asker = Asker(self._give_back)
        try:
            return await self._claim(endpoint, asker, worker_id, solo=solo)
        except BaseException:
            asker.leave()
            raise

    def _give_back(self, job: Job) -> None:
        """Whoever asked for a job is gone, or cannot have it."""
        said = Delivered(ending=Ending.INTERRUPTED, reason="not_taken", after_ms=0)
        task = asyncio.ensure_future(self.settle(job, said))
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _claim(
        self, endpoint: EndpointName, asker: Asker, worker_id: str, *, solo: bool
    ) -> Claim | None:
        lane = self.lane(endpoint)
        while not self.stopped:
            if lane.ready.incomplete:
                await self._refill(endpoint, lane)
            first = lane.ready.first
            if first is None or (first.solo and not solo):
                return None
            taken = lane.ready.take()
            if taken is None:
                return None
            if known := self.new.take(taken.seq):
                claim = await self._claim_new(lane, taken, known, asker, worker_id)
            else:
                claim = await self._claim_known_on_disk(lane, taken, asker, worker_id)
            if claim is not None:
                return claim
        return None

    async def _claim_new(
        self, lane: JobLane, taken: Ready, known: tuple[Job, Payload], asker: Asker, worker_id: str
    ) -> Claim | None:
        job, payload = known
        now_ms = self.now_ms()
        job = claimed(job, now_ms=now_ms, worker_id=worker_id, instance=self.instance)

        def handed_out(found: Job | None) -> None:
            if found is None:  # it has changed meanwhile; what its row says is asked for next
                self._put_back(lane, taken)
            else:
                self._handed_out(lane, found, asker)

        self._claiming.add(taken.seq)
        done = await self._store.claim_new(
            job,
            lease_until_ms=now_ms + LEASE_MS,
            then=handed_out,
            otherwise=partial(self._put_back, lane, taken),
        )
        return Claim(job=job, payload=payload) if done else None

    async def _claim_known_on_disk(
        self, lane: JobLane, taken: Ready, asker: Asker, worker_id: str
    ) -> Claim | None:
        now_ms = self.now_ms()

        def handed_out(found: Job | None) -> None:
            if found is None:  # cancelled or expired meanwhile; whoever did that counted it
                self._claiming.discard(taken.seq)
                lane.ready.release(taken.group_key, taken.seq)
            else:
                self._handed_out(lane, found, asker)

        self._claiming.add(taken.seq)
        return await self._store.claim(
            taken.seq,
            now_ms=now_ms,
            worker_id=worker_id,
            instance=self.instance,
            lease_until_ms=now_ms + LEASE_MS,
            then=handed_out,
            otherwise=partial(self._put_back, lane, taken),
        )

    def _put_back(self, lane: JobLane, taken: Ready) -> None:
        """A claim was not written; the job may not have been either, which then has said so."""
        if taken.seq in self._claiming:
            self._claiming.discard(taken.seq)
            lane.ready.add(taken)
        else:
            lane.ready.release(taken.group_key, taken.seq)

    def _handed_out(self, lane: JobLane, job: Job, asker: Asker) -> None:
        self._claiming.discard(job.seq)
        lane.waits_no_more(job)
        lane.running += 1
        self.running[job.id] = job
        self.news.tell(job.id)
        asker.gets(job)

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
        if result is None or self._store.writes_at_once(result):
            return await self._complete(job, result)
        return await whole(self._complete(job, result))

    async def _complete(self, job: Job, result: Payload | None) -> Job | None:
        def over(after: Job | None) -> None:
            if after is not None:
                self.delivery_over(after)

        now_ms = self.now_ms()
        keep_ms = self.kept.sync_ms if job.sync else self.kept.result_ms
        return await self._store.complete(
            self.metering.charged(job), now_ms=now_ms, purge_at_ms=now_ms + keep_ms, result=result, then=over
        )

    async def settle(
        self, job: Job, said: Delivered, *, result: Payload | None = None, log_tail: str = ""
    ) -> Job | None:
        """End a delivery in any other way; None when it is stale."""
        return await whole(self._settle(job, said, result, log_tail))

    async def _settle(self, job: Job, said: Delivered, result: Payload | None, log_tail: str) -> Job | None:
        def over(after: Job | None) -> None:
            if after is not None:
                self.delivery_over(after)

        return await self._store.settle(
            self.metering.charged(job),
            said,
            now_ms=self.now_ms(),
            fraction=self._ids.fraction(),
            kept=self.kept,
            result=result,
            log_tail=log_tail,
            then=over,
        )

"""What the queue does on its own: renews leases, wakes retries, expires, ages, deletes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpud.core.job import Delivered, Ending, expired
from gpud.errors import StorageFull, Unavailable
from gpud.jobs.queue import LEASE_MS

if TYPE_CHECKING:
    from gpud.jobs.queue import JobQueue
    from gpud.ports.time import Clock

RENEW_S = 20.0
AGE_S = 60.0
SWEEP_S = 3600.0
_BATCH = 500
_FULL_DISK_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


class Upkeep:
    """One task beside the queue."""

    def __init__(self, queue: JobQueue, clock: Clock) -> None:
        self._queue = queue
        self._store = queue.store
        self._clock = clock
        now_s = clock.now_s()
        self._renew_at_s = now_s + RENEW_S
        self._age_at_s = now_s + AGE_S
        self._sweep_at_s = now_s

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                sleep_s = await self.round()
            except (StorageFull, Unavailable):
                sleep_s = _FULL_DISK_RETRY_S  # nothing is lost: what is due stays due
            try:
                async with asyncio.timeout(sleep_s):
                    await self._queue.due_changed.wait()
            except TimeoutError:
                continue

    async def round(self) -> float:
        """Do what is due; returns how long the next round may wait, in seconds."""
        queue, now_s = self._queue, self._clock.now_s()
        queue.due_changed.clear()
        if now_s >= self._renew_at_s:
            self._renew_at_s = now_s + RENEW_S
            await self._renew()
        await self._wake_and_expire()
        if now_s >= self._age_at_s:
            self._age_at_s = now_s + AGE_S
            await self._age_and_delete()
        if now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + SWEEP_S
            await self._store.sweep_blobs()
        times_ms = [at_ms for at_ms in await self._store.next_times() if at_ms is not None]
        sleep_s = min(self._renew_at_s, self._age_at_s) - self._clock.now_s()
        if times_ms:
            sleep_s = min(sleep_s, (min(times_ms) - queue.now_ms()) / 1000)
        return max(0.001, sleep_s)

    async def _renew(self) -> None:
        queue = self._queue
        seqs = [job.seq for job in queue.running.values()]
        if seqs:
            until_ms = queue.now_ms() + LEASE_MS
            await self._store.renew_leases(seqs, instance=queue.instance, until_ms=until_ms)
        for job in await self._store.lapsed(queue.now_ms(), limit=_BATCH):
            if job.id not in queue.running:
                _log.error("job.lease_lapsed", job=job.id, endpoint=job.endpoint, worker=job.worker_id)
                queue.took_up(job)
                said = Delivered(ending=Ending.INTERRUPTED, reason="lease_lapsed")
                await queue.settle(job, said)

    async def _wake_and_expire(self) -> None:
        queue = self._queue
        while True:
            now_ms = queue.now_ms()
            due = await self._store.release_due(now_ms, limit=_BATCH)
            queue.came_due(due)
            decide = partial(expired, now_ms=now_ms, kept=queue.kept)
            over = await self._store.expire_due(now_ms, decide, limit=_BATCH)
            for change in over:
                queue.left_the_queue(change)
            if len(due) < _BATCH and len(over) < _BATCH:
                return

    async def _age_and_delete(self) -> None:
        queue = self._queue
        for endpoint, lane in list(queue.lanes.items()):
            if lane.waiting > 1 and await self._store.age(endpoint, queue.now_ms(), limit=_BATCH):
                lane.ready.forget()
                for tell in queue.on_ready:
                    tell(endpoint)
        deleted = _BATCH
        while deleted == _BATCH:
            purge = self._store.purge_due(queue.now_ms(), limit=_BATCH, used_ms=queue.kept.used_ms)
            deleted = len(await purge)

"""Everything about jobs, built once: the queue, what delivers it, what keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING

from gpud.core.endpoint import EndpointType
from gpud.jobs.by_hand import ByHand
from gpud.jobs.orphans import Orphans
from gpud.jobs.pull import HOLD_S, Pull
from gpud.jobs.push import Push
from gpud.jobs.queue import JobQueue
from gpud.jobs.tokens import JobTokens
from gpud.jobs.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.endpoint import EndpointSpec
    from gpud.core.ids import EndpointName
    from gpud.core.job import Job, Retention
    from gpud.jobs.submission import QueueLimits
    from gpud.ports.jobs import Change, JobStore
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.work import JobCarrier, JobRoom, WorkerFates


class Jobs:
    """See the module's text. `load` first, then `start`, when the fleet has taken up its workers.

    Args:
        store: Rows.
        slots: The gateway's.
        carrier: Speaks HTTP to workers.
        clock: Loop time and timeline.
        ids: Ids and jitter.
        kept: How long rows stay.
        limits: When to refuse.
        free_share: Share of the disk that is free.
        workers_url: Of the listener for workers; empty while there is none.
        hold_s: How long a worker's poll for jobs waits.
        secret: Of the install, for the tokens of deliveries; empty makes them good for this run alone.
    """

    def __init__(
        self,
        store: JobStore,
        slots: JobRoom,
        carrier: JobCarrier,
        *,
        clock: Clock,
        ids: IdSource,
        kept: Retention | None = None,
        limits: QueueLimits | None = None,
        free_share: Callable[[], float] = lambda: 1.0,
        workers_url: Callable[[], str] = lambda: "",
        hold_s: float = HOLD_S,
        secret: bytes = b"",
    ) -> None:
        self.queue = JobQueue(store, clock, ids, kept=kept, limits=limits, free_share=free_share)
        self.by_hand = ByHand(self.queue, clock)
        self.tokens = JobTokens(secret or secrets.token_bytes(32))
        self._slots = slots
        self._workers_url = workers_url
        self._hold_s = hold_s
        self._carrier = carrier
        self._clock = clock
        self._push: Push | None = None
        self.pull: Pull | None = None
        self._given_back: tuple[Change, ...] = ()
        self._left_with_workers: tuple[Job, ...] = ()
        self._upkeep: asyncio.Task[None] | None = None
        self._orphans: Orphans | None = None

    async def load(self, stays: Callable[[Job], bool] = lambda _: False) -> None:
        """Read what is there, and give back what an earlier run of the daemon had under way.

        Args:
            stays: Whether a job's worker goes on with it, and will tell its end to this daemon.
        """
        self._given_back, self._left_with_workers = await self.queue.start(stays)

    async def start(
        self,
        tasks: asyncio.TaskGroup,
        fates: WorkerFates,
        spec_of: Callable[[EndpointName], EndpointSpec | None],
    ) -> None:
        """Begin to deliver.

        Args:
            tasks: Where the upkeep runs; its failure ends the daemon.
            fates: The fleet.
            spec_of: The present spec of an endpoint.
        """
        self.queue.metering.fates = fates
        # First, and without a pause: the fleet's first round must see which workers are busy.
        self.pull = Pull(self.queue, self._slots, fates, hold_s=self._hold_s)
        pulled = [job for job in self._left_with_workers if _is_fetched(spec_of(job.endpoint))]
        self.pull.start(pulled)
        self._slots.watch_slots(self._slot_freed)
        self._push = Push(
            self.queue,
            self._slots,
            self._carrier,
            fates,
            spec_of=spec_of,
            clock=self._clock,
            tokens=self.tokens,
            workers_url=self._workers_url,
        )
        self._push.adopt(job for job in self._left_with_workers if job not in pulled)
        self._left_with_workers = ()
        # Before anything is delivered: a worker that still computes a lost attempt takes no other.
        await self._push.recycle_lost(self._given_back)
        self._given_back = ()
        self._push.start()
        self._orphans = Orphans(self.queue, self.by_hand, lambda name: spec_of(name) is not None)
        self.queue.on_ready.append(self._orphans.look_at)
        self._orphans.look()
        self._upkeep = tasks.create_task(Upkeep(self.queue, self._clock).run(), name="jobs_upkeep")

    def _slot_freed(self, endpoint: EndpointName) -> None:
        if self._push is not None:
            self._push.pump(endpoint)
        if self.pull is not None:
            self.pull.pump(endpoint)

    def fleet_changed(self) -> None:
        """Workers may have come, changed or gone."""
        if self.pull is not None:
            self.pull.look()
        if self._orphans is not None:
            self._orphans.look()

    async def stop(self, grace_s: float) -> None:
        """Hand out no more; what runs after `grace_s` is given back and runs again at the next start."""
        self.queue.stopped = True
        if self.pull is not None:
            await self.pull.stop()
        if self._push is not None:
            await self._push.stop(grace_s)
        if self._orphans is not None:
            await self._orphans.stop()
        if self._upkeep is not None:
            self._upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._upkeep


def _is_fetched(spec: EndpointSpec | None) -> bool:
    return spec is not None and spec.type is EndpointType.QUEUE

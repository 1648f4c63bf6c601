"""Ends the jobs that wait for an endpoint that was deleted: nobody would ever run them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpud.core.job import orphaned
from gpud.errors import StorageFull, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import EndpointName
    from gpud.jobs.by_hand import ByHand
    from gpud.jobs.queue import JobQueue

_log = structlog.get_logger(__name__)


class Orphans:
    """See the module's text.

    Args:
        queue: Whose jobs.
        by_hand: Ends them.
        is_known: Whether there is an endpoint of a name.
    """

    def __init__(self, queue: JobQueue, by_hand: ByHand, is_known: Callable[[EndpointName], bool]) -> None:
        self._queue = queue
        self._by_hand = by_hand
        self._is_known = is_known
        self._ending: dict[EndpointName, asyncio.Task[None]] = {}

    def look(self) -> None:
        """Endpoints may have gone."""
        for endpoint in list(self._queue.lanes):
            self.look_at(endpoint)

    def look_at(self, endpoint: EndpointName) -> None:
        """A job of an endpoint may wait that is gone."""
        lane = self._queue.peek(endpoint)
        if lane is None or not lane.waiting or self._is_known(endpoint) or endpoint in self._ending:
            return
        task = self._ending[endpoint] = asyncio.ensure_future(self._end(endpoint))
        task.add_done_callback(lambda _: self._ending.pop(endpoint, None))

    async def _end(self, endpoint: EndpointName) -> None:
        decide = partial(orphaned, kept=self._queue.kept)
        try:
            count = await self._by_hand.end_waiting(
                endpoint, lambda job, now_ms: None if self._is_known(endpoint) else decide(job, now_ms=now_ms)
            )
        except (StorageFull, Unavailable):
            return  # they wait on, and are found when next looked for
        if count:
            _log.info("jobs.orphaned", endpoint=endpoint, jobs=count)

    async def stop(self) -> None:
        """Wait for what is being written."""
        if self._ending:
            await asyncio.wait(list(self._ending.values()))

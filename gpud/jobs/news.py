"""Wakes those who wait for something to happen to a job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import JobId


class News:
    """One future for each job that somebody waits for; all who wait share it."""

    def __init__(self) -> None:
        self._awaited: dict[JobId, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._awaited)

    def tell(self, job_id: JobId) -> None:
        """Something happened: a state, a progress, a chunk."""
        future = self._awaited.pop(job_id, None)
        if future is not None and not future.done():
            future.set_result(None)

    def next_of(self, job_id: JobId) -> asyncio.Future[None]:
        """A future for the next thing that happens. Ask before looking at the job, so that none is missed."""
        future = self._awaited.get(job_id)
        if future is None:
            future = self._awaited[job_id] = asyncio.get_running_loop().create_future()
        return future

    async def wait(self, future: asyncio.Future[None], timeout_s: float) -> bool:
        """Wait for one of `next_of`; False when nothing happened in time."""
        done, _ = await asyncio.wait([future], timeout=timeout_s)
        return bool(done)

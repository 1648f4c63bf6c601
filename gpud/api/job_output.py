"""Waits for what becomes of a job, and shows what it gave."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpud.core.job import Job
    from gpud.jobs.queue import JobQueue
    from gpud.ports.jobs import ChunkPlace, Payload

CHUNKS_A_READ = 500


def shown(payload: Payload | None) -> Any:  # noqa: ANN401 - whatever the worker said
    """A payload as JSON: itself, its text, or its bytes in base64."""
    if payload is None or not payload.content:
        return None
    kind = payload.content_type.partition(";")[0].strip().lower()
    try:
        text = payload.content.decode()
    except UnicodeDecodeError:
        encoded = base64.b64encode(payload.content).decode("ascii")
        return {"content_type": payload.content_type, "base64": encoded}
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


async def over(queue: JobQueue, job: Job, timeout_s: float, stopping: asyncio.Event) -> Job:
    """The job once it is over, or as it is when the time is."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + timeout_s
    while True:
        news = queue.news.next_of(job.id)  # asked before looking, so that nothing is missed
        # What runs is known without the disk, and leaves `running` in the moment its end is told.
        present = queue.running.get(job.id) or await queue.store.job(job.id)
        if present is None or present.state.terminal:
            return present or job
        job = present
        left_s = until_s - loop.time()
        if left_s <= 0 or stopping.is_set() or not await queue.news.wait(news, left_s):
            return job


async def chunks_behind(
    queue: JobQueue, job: Job, place: ChunkPlace, *, hold_s: float, stopping: asyncio.Event
) -> tuple[Job, list[tuple[int, bytes]]]:
    """The job and its chunks behind a place, once there are any or it is over; all of them when it is."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + hold_s
    while True:
        news = queue.news.next_of(job.id)
        job = await queue.store.job(job.id) or job
        found: list[tuple[int, bytes]] = []
        while True:
            start = found[-1][0] if found else place.after(job.deliveries)
            more = await queue.store.chunks(job.seq, job.deliveries, after=start, limit=CHUNKS_A_READ)
            found.extend(more)
            if len(more) < CHUNKS_A_READ:
                break
        left_s = until_s - loop.time()
        if found or job.state.terminal or left_s <= 0 or stopping.is_set():
            return job, found
        await queue.news.wait(news, left_s)

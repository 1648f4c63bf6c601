"""Whoever drains a job's stream gets each chunk once: over restarts, of each delivery, and beside others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gpud.api.job_drain import Drain
from gpud.core.job import Delivered, Ending
from gpud.ports.jobs import Claim
from tests.contract.job_site import LLM, JobSite, job_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gpud.core.job import Job


@pytest.fixture
async def site() -> AsyncIterator[JobSite]:
    async with job_site() as site:
        yield site


async def taken(drain: Drain, job: Job) -> list[bytes]:
    _, chunks = await drain.take(job, hold_s=0.0, stopping=asyncio.Event())
    return chunks


async def claimed(site: JobSite) -> Job:
    claim = await site.queue.claim(LLM, "wk_a")
    assert isinstance(claim, Claim)
    return claim.job


async def test_what_was_drained_stays_so_over_a_restart(site: JobSite) -> None:
    await site.run()
    job = await claimed(site)
    await site.queue.store.append_chunks(job, [b"1", b"2"])
    assert await taken(Drain(site.queue), job) == [b"1", b"2"]
    await site.queue.store.append_chunks(job, [b"3"])
    after_a_restart = Drain(site.queue)
    assert await taken(after_a_restart, job) == [b"3"]
    assert await taken(after_a_restart, job) == []


async def test_chunks_of_a_new_delivery_are_all_given(site: JobSite) -> None:
    await site.run()
    drain, job = Drain(site.queue), await claimed(site)
    await site.queue.store.append_chunks(job, [b"1", b"2"])
    assert await taken(drain, job) == [b"1", b"2"]
    await site.queue.settle(job, Delivered(ending=Ending.INTERRUPTED, after_ms=0))
    again = await claimed(site)
    assert again.id == job.id
    await site.queue.store.append_chunks(again, [b"one", b"two", b"three"])
    assert await taken(drain, again) == [b"one", b"two", b"three"]
    assert await taken(Drain(site.queue), again) == []


async def test_two_who_drain_at_once_share_the_chunks(site: JobSite) -> None:
    await site.run()
    drain, job = Drain(site.queue), await claimed(site)
    waiting = [
        asyncio.ensure_future(drain.take(job, hold_s=10.0, stopping=asyncio.Event())) for _ in range(2)
    ]
    await asyncio.sleep(0.01)
    await site.queue.store.append_chunks(job, [b"1", b"2"])
    site.queue.news.tell(job.id)
    (_, first), (_, second) = await asyncio.gather(*waiting)
    assert sorted(first + second) == [b"1", b"2"]


async def test_a_job_that_was_deleted_meanwhile_leaves_no_place(site: JobSite) -> None:
    await site.run()
    job = await claimed(site)
    await site.queue.store.append_chunks(job, [b"1"])
    done = await site.queue.complete(job, None)
    assert await taken(Drain(site.queue), job) == [b"1"]
    assert await site.queue.store.delete(done.id, allowed=lambda _: True)
    assert (await site.queue.store.drained(job.seq)).n == 0

"""The autoscaler sees jobs as load, and the queue keeps itself in order without anybody asking."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gpud.core.job import Delivered, Ending, JobState
from gpud.core.job_request import JobPolicy
from gpud.errors import StorageFull
from gpud.jobs.load import LoadWithJobs
from gpud.jobs.submission import Submission
from gpud.jobs.upkeep import Upkeep
from gpud.ports.jobs import Payload
from tests.contract.job_site import LLM, JobSite, job_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

ASKED = Submission(
    endpoint=LLM,
    owner="local",
    payload=Payload(content=b'{"input":"x"}' + b" " * 100_000),
    policy=JobPolicy(),
)


@pytest.fixture
async def site() -> AsyncIterator[JobSite]:
    async with job_site() as site:
        yield site


def load_of(site: JobSite) -> LoadWithJobs:
    return LoadWithJobs(site.api.dispatcher, site.queue, site.api.clock)


async def test_waiting_jobs_are_load_and_those_of_low_priority_are_not(site: JobSite) -> None:
    for n in range(3):
        await site.run(n)
    for n in range(5):
        await site.run(n, policy={"lowPriority": True})
    load = load_of(site).take_load(LLM)
    assert (load.waiting, load.peak, load.arrivals) == (3, 3, 8)
    again = load_of(site).take_load(LLM)
    assert (again.waiting, again.arrivals) == (3, 0)


async def test_a_job_that_waits_for_its_retry_is_no_load_until_its_time_has_come(site: JobSite) -> None:
    await site.run()
    claim = await site.queue.claim(LLM, "wk_0")
    assert load_of(site).take_load(LLM).waiting == 0
    await site.queue.settle(claim.job, Delivered(ending=Ending.FAILED, after_ms=60_000))
    assert site.queue.lane(LLM).waiting == 1
    assert load_of(site).take_load(LLM).waiting == 0


async def test_an_ended_job_is_no_load_and_counts_come_back_to_zero(site: JobSite) -> None:
    ids = [await site.run(n) for n in range(4)]
    claims = [await site.queue.claim(LLM, "wk_0") for _ in range(2)]
    assert site.queue.lane(LLM).running == 2
    await site.queue.complete(claims[0].job, None)
    await site.queue.settle(claims[1].job, Delivered(ending=Ending.FAILED, may_retry=False))
    await site.post(f"/v2/llm/cancel/{ids[2]}")
    await site.post("/v2/llm/purge-queue")
    lane = site.queue.lane(LLM)
    assert (lane.waiting, lane.running, lane.waiting_bytes, len(lane.ready)) == (0, 0, 0, 0)
    assert load_of(site).take_load(LLM).waiting == 0
    assert site.queue.running == {}


async def test_a_job_whose_lease_lapsed_is_given_back(site: JobSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpud.jobs.queue.LEASE_MS", 0)
    monkeypatch.setattr("gpud.jobs.upkeep.RENEW_S", 0.0)
    job_id = await site.run()
    claim = await site.queue.claim(LLM, "wk_0")
    site.queue.running.clear()  # whoever delivered it is gone without a word
    await Upkeep(site.queue, site.api.clock).round()
    after = await site.queue.store.job(job_id)
    assert after is not None
    assert (after.state, after.attempt, after.reason) == (JobState.IN_QUEUE, 0, "lease_lapsed")
    assert await site.queue.complete(claim.job, None) is None


async def test_a_caller_that_leaves_while_it_claims_loses_no_job(site: JobSite) -> None:
    await site.run()
    claiming = asyncio.ensure_future(site.queue.claim(LLM, "wk_0"))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    again = None
    for _ in range(50):
        again = await site.queue.claim(LLM, "wk_1")
        if again is not None:
            break
        await asyncio.sleep(0.01)
    assert again is not None
    assert again.job.attempt == 1


async def test_a_job_is_handed_out_in_the_transaction_that_accepts_it(site: JobSite) -> None:
    before = site.api.store.stats.commits
    submitting = asyncio.ensure_future(site.queue.submit(ASKED))
    await asyncio.sleep(0)
    claim = await site.queue.claim(LLM, "wk_0")
    job, replayed = await submitting
    assert (claim.job.id, claim.payload, replayed) == (job.id, ASKED.payload, False)
    assert site.api.store.stats.commits == before + 1
    assert await site.queue.store.job(job.id) == claim.job


async def test_nothing_is_left_of_a_job_that_the_disk_had_no_room_for(site: JobSite) -> None:
    await full_disk(site, full=True)
    outcomes = await asyncio.gather(
        site.queue.submit(ASKED), site.queue.claim(LLM, "wk_0"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [StorageFull, StorageFull]
    lane = site.queue.lane(LLM)
    assert (lane.waiting, lane.waiting_bytes, len(lane.ready), len(site.queue.new)) == (0, 0, 0, 0)
    await full_disk(site, full=False)
    assert await site.queue.claim(LLM, "wk_0") is None


async def full_disk(site: JobSite, *, full: bool) -> None:
    pages = 1 if full else 1 << 30  # SQLite takes the size it has when that is more
    await site.api.store.jobs._committer.write(
        lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    )


@pytest.mark.parametrize("turns", range(6))
async def test_a_job_cancelled_while_it_is_being_handed_out_is_stopped(site: JobSite, turns: int) -> None:
    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    await site.worker(never)
    workers = list(site._workers)
    site.drop_workers()
    await site.start()
    job, _ = await site.queue.submit(ASKED)
    cancelling = asyncio.ensure_future(site.api.jobs.by_hand.cancel(job.id, allowed=lambda _: True))
    for _ in range(turns):
        await asyncio.sleep(0)
    site._workers.extend(workers)
    site.publish()
    await cancelling
    assert (await site.ended(job.id))["status"] == "CANCELLED"


async def test_jobs_of_an_endpoint_that_is_deleted_end_and_say_so(site: JobSite) -> None:
    await site.start()
    ids = [await site.run(n) for n in range(3)]
    claim = await site.queue.claim(LLM, "wk_0")
    await site.queue.settle(claim.job, Delivered(ending=Ending.FAILED, after_ms=60_000))
    del site.api.control.deployed[LLM]
    site.api.jobs.fleet_changed()
    for job_id in ids:
        news = site.queue.news.next_of(job_id)
        job = await site.queue.store.job(job_id)
        assert job is not None
        if not job.state.terminal:
            assert await site.queue.news.wait(news, 20.0)
        job = await site.queue.store.job(job_id)
        assert job is not None
        assert (job.state, job.reason, job.dead) == (JobState.FAILED, "endpoint_deleted", True)
    lane = site.queue.lane(LLM)
    assert (lane.waiting, lane.waiting_bytes, len(lane.ready), len(lane.scheduled)) == (0, 0, 0, 0)

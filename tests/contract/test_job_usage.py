"""What jobs used is told job by job, long after the jobs themselves are deleted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.sqlite import job_usage
from gpud.core.ids import GpuUuid, WorkerId
from gpud.core.job import JobState
from gpud.core.worker import WorkerState
from gpud.ports.job_usage import JobUsageQuery, JobUsed
from gpud.ports.jobs import Payload
from tests.contract.job_rig import KEPT, NOW, begin, claim, new_job, submit
from tests.contract.job_site import job_site
from tests.contract.store_rig import KINDS, HandClock, Life, opened
from tests.unit.core.making import worker as a_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store

_GPU = GpuUuid("GPU-a")


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, HandClock()) as store:
        await begin(store)
        yield store


async def _done(store: Store, number: int, *, at_ms: int = NOW, worker_id: str = "wk_a", **facts: str) -> str:
    claimed = await claim(store, await submit(store, new_job(number, **facts)), worker_id=worker_id)
    assert claimed is not None
    used = replace(claimed.job, gpu_ns=1_000_000 * number, cost_micros=number, energy_mj=2 * number)
    done = await store.jobs.complete(
        used, now_ms=at_ms, purge_at_ms=at_ms + KEPT.result_ms, result=Payload(content=b"1")
    )
    assert done is not None
    return claimed.job.id


async def _all(store: Store, query: JobUsageQuery) -> list[JobUsed]:
    found: list[JobUsed] = []
    after: int | None = 0
    while after is not None:
        page = await store.jobs.usage(replace(query, after_seq=after))
        assert len(page.items) <= query.limit
        found += page.items
        after = page.more_after
    return found


async def test_every_job_that_ran_is_told_once_whether_its_row_is_kept_or_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [await _done(store, number) for number in range(1, 6)]
    await submit(store, new_job(6))
    before = await _all(store, JobUsageQuery())
    assert [used.id for used in before] == old, "neither what waits nor anybody twice"
    assert [(used.gpu_ns, used.cost_micros, used.energy_mj) for used in before][-1] == (5_000_000, 5, 10)
    purged = await store.jobs.purge_due(NOW + KEPT.result_ms, limit=3, used_ms=KEPT.used_ms)
    assert len(purged) == 3
    assert await store.jobs.delete(before[3].id, allowed=lambda _: True)
    new = await _done(store, 7, at_ms=NOW + 5)
    monkeypatch.setattr(job_usage, "SEQS_AT_ONCE", 2)
    after = await _all(store, JobUsageQuery(limit=2))
    assert after[:-1] == before
    assert after[-1].id == new
    assert [used.id for used in await _all(store, JobUsageQuery(since_ms=NOW + 1))] == [new]
    assert [used.id for used in await _all(store, JobUsageQuery(until_ms=NOW + 1))] == old
    late_ms = NOW + KEPT.used_ms
    await store.jobs.purge_due(late_ms + 1, limit=10, used_ms=KEPT.used_ms)
    assert [used.id for used in await _all(store, JobUsageQuery())] == [new]


async def test_they_are_told_by_endpoint_and_by_key(store: Store) -> None:
    mine = await _done(store, 1, owner="key_a")
    other = await _done(store, 2, endpoint="other", owner="key_b")
    assert [used.id for used in await _all(store, JobUsageQuery(owner="key_a"))] == [mine]
    assert [used.id for used in await _all(store, JobUsageQuery(endpoint="other"))] == [other]
    assert await _all(store, JobUsageQuery(endpoint="other", owner="key_a")) == []


async def test_they_are_told_with_the_start_of_their_worker(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened("file", tmp_path, clock) as store:
        await begin(store)
        life = await Life(store, clock, 1).begin()
        began_ms = clock.at_ms()
        await life.run(_GPU)
        await _done(store, 1, worker_id=life.worker.id)
        await _done(store, 2)
        served, unknown = await _all(store, JobUsageQuery())
        assert (served.asked_at_ms, served.ready_at_ms) == (life.worker.created_at_ms, began_ms + 3000)
        assert (unknown.asked_at_ms, unknown.ready_at_ms) == (None, None)


async def test_a_key_is_told_of_its_own_jobs_and_readers_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with job_site() as site:
        ready = a_worker(id=WorkerId("wk_0"), state=WorkerState.READY, gpu_uuids=(_GPU,))
        monkeypatch.setattr(site.fates, "worker", lambda _: ready)
        monkeypatch.setattr(site.queue.metering.rates, "price_micros", lambda _: 3600 * 10**12)
        await site.start()
        await site.worker()
        caller = await site.api.headers("invoke:llm")
        _, made = await site.post("/v2/llm/run", {"input": 1}, headers=caller)
        ids = [made["id"], await site.run()]
        await asyncio.gather(*(site.ended(job_id) for job_id in ids))
        _, first = await site.get("/v1/usage/jobs?limit=1")
        _, second = await site.get(f"/v1/usage/jobs?cursor={first['next']}")
        lines = [*first["items"], *second["items"]]
        assert [line["id"] for line in lines] == ids
        assert second["next"] is None
        for line in lines:
            detail = await site.detail(line["id"])
            for same in ("gpu_ms", "cost_micros", "energy_mj", "queue_ms", "exec_ms", "owner", "worker"):
                assert line[same] == detail[same], same
            assert (line["state"], line["gpu_ns"] > 0) == (JobState.COMPLETED, True)
            assert line["cold_start_ms"] == 0, "nothing is known of its worker's start"
        _, own = await site.get("/v1/usage/jobs?owner=local", headers=caller)
        assert own["items"] == lines[:1]
        _, others = await site.get(f"/v1/usage/jobs?owner={lines[1]['owner']}")
        assert others["items"] == lines[1:]
        assert (await site.get("/v1/usage/jobs?cursor=eHg"))[0] == 400

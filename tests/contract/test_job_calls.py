"""A job's end and what webhooks are told of it are one transaction."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gpud.core.job import Delivered, Ending, JobState, cancelled, redriven
from gpud.core.job_call import RUNPOD_MARK, kind_of
from gpud.core.job_request import DAY_MS
from gpud.core.webhook import JOBS, WebhookFormat
from gpud.errors import InvariantBroken
from gpud.ports.jobs import Payload
from gpud.ports.webhooks import Webhook
from tests.contract.job_rig import KEPT, NOW, begin, claim, new_job, submit
from tests.contract.store_rig import KINDS, HandClock, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store
    from gpud.core.job import Job
    from gpud.ports.webhooks import Delivery

URL = "https://app.example/done"
HOOK = Webhook(id="whk_a", url="https://ops.example/", types=("job.*",), created_at_ms=5)


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, HandClock()) as store:
        await begin(store)
        yield store


async def running(store: Store, webhook: str = "", number: int = 1) -> Job:
    job = replace(new_job(number), webhook=webhook)
    found = await claim(store, await submit(store, job))
    assert found is not None
    return found.job


async def complete(store: Store, job: Job, result: bytes = b'{"ok":true}') -> None:
    done = await store.jobs.complete(
        job, now_ms=NOW + 500, purge_at_ms=NOW + DAY_MS, result=Payload(content=result)
    )
    assert done is not None


async def told(store: Store, webhook_id: str = JOBS) -> list[tuple[Delivery, Any]]:
    listed = await store.webhooks.deliveries(webhook_id)
    found = [await store.webhooks.delivery(webhook_id, one.id) for one in reversed(listed)]
    return [(one, json.loads(one.body)) for one in found if one is not None]


async def test_a_job_that_completes_is_told_once_to_its_address_and_to_who_subscribed(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    heard = asyncio.Event()
    store.webhooks.on_put(heard.set)
    job = await running(store, URL)
    await complete(store, job)
    async with asyncio.timeout(10):
        await heard.wait()
    assert await store.jobs.complete(job, now_ms=NOW, purge_at_ms=NOW, result=None) is None
    ((to_job, body),) = await told(store)
    assert (to_job.url, to_job.format) == (URL, WebhookFormat.STANDARD)
    assert body["type"] == "job.completed"
    assert body["data"] == {
        "sequence": 1,
        "id": job.id,
        "status": "COMPLETED",
        "attempts": 1,
        "deliveries": 1,
        "dead": False,
        "queue_ms": 0,
        "exec_ms": 500,
        "worker_id": "wk_a",
        "output": {"ok": True},
        "endpoint": "llm",
    }
    ((to_all, same),) = await told(store, HOOK.id)
    assert same == body
    assert to_all.id != to_job.id


async def test_runpods_receivers_get_the_job_as_runpod_sends_it(store: Store) -> None:
    job = await running(store, RUNPOD_MARK + URL)
    await complete(store, job)
    ((delivery, body),) = await told(store)
    assert (delivery.url, delivery.format) == (URL, WebhookFormat.RUNPOD)
    assert body == {
        "id": job.id,
        "status": "COMPLETED",
        "delayTime": 0,
        "executionTime": 500,
        "input": {"prompt": "a fox"},
        "webhook": URL,
        "output": {"ok": True},
        "workerId": "wk_a",
    }


async def test_failing_is_told_when_the_attempts_are_used_up_and_again_after_a_redrive(store: Store) -> None:
    said = Delivered(ending=Ending.FAILED, error="boom")
    job = await running(store, URL)
    for attempt in range(job.max_attempts):
        after = await store.jobs.settle(job, said, now_ms=NOW + attempt, fraction=0.5, kept=KEPT)
        assert after is not None
        assert len(await told(store)) == (1 if after.state.terminal else 0)
        if not after.state.terminal:
            await store.jobs.release_due(after.available_at_ms, limit=10)
            found = await claim(store, after, now_ms=after.available_at_ms)
            assert found is not None
            job = found.job
    ((_, body),) = await told(store)
    assert (body["type"], body["data"]["error"], body["data"]["dead"]) == ("job.dead", "boom", True)
    back = await store.jobs.change(job.id, lambda one: redriven(one, now_ms=NOW), now_ms=NOW)
    assert back is not None
    found = await claim(store, back.after)
    assert found is not None
    await complete(store, found.job)
    assert sorted(body["type"] for _, body in await told(store)) == ["job.completed", "job.dead"]


async def test_a_cancelled_job_is_told(store: Store) -> None:
    job = await submit(store, replace(new_job(), webhook=URL))
    await store.jobs.change(job.id, lambda one: cancelled(one, now_ms=NOW, kept=KEPT), now_ms=NOW)
    ((_, body),) = await told(store)
    assert (body["type"], body["data"]["queue_ms"]) == ("job.cancelled", None)


async def test_a_large_result_is_told_by_where_it_is(store: Store) -> None:
    job = await running(store, URL)
    await complete(store, job, json.dumps("x" * 17_000).encode())
    ((delivery, body),) = await told(store)
    assert body["data"]["output_href"] == f"/v1/jobs/{job.id}"
    assert len(delivery.body) < 2000


@pytest.mark.parametrize("result", [b"\xff\xfe not json", b"[" * 100])
async def test_a_result_that_is_no_json_does_not_keep_a_job_from_ending(store: Store, result: bytes) -> None:
    job = await running(store, URL)
    await complete(store, job, result)
    ((_, body),) = await told(store)
    assert "output" not in body["data"]


async def test_nobody_is_told_where_nobody_asked(store: Store) -> None:
    await complete(store, await running(store))
    assert await store.webhooks.due() == ()


@pytest.mark.parametrize("state", list(JobState))
def test_every_end_has_a_type(state: JobState) -> None:
    job = replace(new_job(), state=state)
    if state.terminal:
        assert kind_of(job).startswith("job.")
    else:
        with pytest.raises(InvariantBroken):
            kind_of(job)

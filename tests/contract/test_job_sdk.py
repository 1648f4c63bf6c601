"""Jobs at a worker made with the SDK: a process of its own, the real delivery, the real store."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from gpud.api.worker_calls import WorkerCalls
from gpud.core.ids import WorkerId
from gpud.core.job import JobState
from gpud.core.routing import RouteWorker
from gpud.core.webhook import JOBS, WebhookFormat
from gpud.jobs.worker_tokens import WorkerTokens
from tests.contract.job_site import JobSite, job_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
HANDLERS = ROOT / "tests/unit/sdk/handlers.py"
LIMIT_S = 20.0


@asynccontextmanager
async def an_sdk_worker(
    site: JobSite, handler: str, status_path: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Give the endpoint a worker whose handler is one of the SDK's tests."""
    options = (str(ROOT / "gpud/sdk"), handler, "2", status_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, HANDLERS, *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        port = int(await line_of(process))
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        site._workers.append(RouteWorker(worker_id=WorkerId("wk_sdk"), address="127.0.0.1", port=port))
        site.publish()
        yield process
    finally:
        process.kill()
        await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        return (await process.stdout.readline()).decode().strip()


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JobSite]:
    monkeypatch.setattr("gpud.core.backoff.BASE_MS", 20)
    async with job_site() as site:
        await site.deploy(path="/run", cancel_path="/cancel")
        await site.start()
        yield site


async def test_a_handler_gets_the_input_and_gives_the_output(site: JobSite) -> None:
    async with an_sdk_worker(site, "plain"):
        job_id = await site.run({"prompt": "a fox"})
        said = await site.ended(job_id)
        assert said["status"] == "COMPLETED", said
        assert said["output"]["echo"] == {"prompt": "a fox"}
        assert (said["output"]["id"], said["output"]["delivery"]) == (job_id, 1)


async def test_what_it_raises_fails_the_job_at_once_or_after_its_attempts(site: JobSite) -> None:
    async with an_sdk_worker(site, "plain"):
        for_good, in_the_end = await site.run("never again"), await site.run("raise")
        said = await site.ended(for_good)
        assert (said["status"], "retries" in said) == ("FAILED", False)
        assert "the prompt is empty" in said["error"]
        said = await site.ended(in_the_end)
        assert (said["status"], said["retries"]) == ("FAILED", 2)
        assert "missing thing" in said["error"]


@pytest.mark.parametrize("handler", ["yields", "async_yields"])
async def test_what_it_yields_is_streamed(site: JobSite, handler: str) -> None:
    async with an_sdk_worker(site, handler):
        job_id = await site.run({"count": 3})
        assert (await site.ended(job_id))["output"] == [{"number": 0}, {"number": 1}, {"number": 2}]
        _, said = await site.get(f"/v2/llm/stream/{job_id}")
        assert [one["output"]["number"] for one in said["stream"]] == [0, 1, 2]


async def test_a_stream_that_fails_in_the_middle_fails_the_attempt(site: JobSite) -> None:
    async with an_sdk_worker(site, "yields"):
        said = await site.ended(await site.run({"count": 1, "raise": True}))
        assert (said["status"], said["retries"]) == ("FAILED", 2)
        assert "in the" in said["error"]
        assert site.fates.recycled == [], "the worker is well"


async def test_progress_is_posted_to_the_listener_for_workers(
    site: JobSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = WorkerCalls(site.api.jobs, WorkerTokens(b"s" * 32), result_bytes_max=1000).runner()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setattr(site.api.jobs._push, "_workers_url", lambda: url)
    try:
        async with an_sdk_worker(site, "plain"):
            job_id = await site.run("progress")
            assert (await site.ended(job_id))["output"] == "done"
            job = await site.queue.store.job(job_id)
            said = await site.queue.store.payload(job.seq, "progress")
            assert json.loads(said.content) == {"step": 2}
    finally:
        await runner.cleanup()


async def test_cancelling_stops_the_handler_and_keeps_the_worker(site: JobSite) -> None:
    async with an_sdk_worker(site, "plain") as process:
        job_id = await site.run("wait")
        assert await line_of(process) == "begun"
        assert (await site.post(f"/v2/llm/cancel/{job_id}"))[0] == 200
        assert await line_of(process) == "cancelled"
        assert (await site.ended(job_id))["status"] == "CANCELLED"
        assert (await site.ended(await site.run("next")))["status"] == "COMPLETED"
        assert site.fates.recycled == []


@pytest.mark.parametrize("spelling", list(WebhookFormat))
async def test_a_jobs_webhook_is_put_in_the_outbox_as_its_caller_wants_it(
    site: JobSite, spelling: WebhookFormat
) -> None:
    async with an_sdk_worker(site, "plain"):
        more = {} if spelling is WebhookFormat.RUNPOD else {"webhook_format": "standard"}
        job_id = await site.run("a fox", webhook="https://app.example/done", **more)
        await site.ended(job_id)
        (delivery,) = await site.api.store.webhooks.take("https://app.example", limit=5)
        assert (delivery.webhook_id, delivery.url) == (JOBS, "https://app.example/done")
        assert delivery.format is spelling
        body = json.loads(delivery.body)
        told = body if spelling is WebhookFormat.RUNPOD else body["data"]
        assert (told["id"], told["status"], told["output"]["echo"]) == (job_id, "COMPLETED", "a fox")


async def test_what_a_worker_did_while_no_daemon_was_there_is_asked_for(site: JobSite) -> None:
    await site.deploy(path="/run", cancel_path="/cancel", status_path="/outcome")
    async with an_sdk_worker(site, "plain", "/outcome") as process:
        job_id = await site.run("slow")
        assert await line_of(process) == "begun"
        job = await site.ended_after_restart(job_id)
        assert (job.state, job.deliveries) == (JobState.COMPLETED, 1)
        result = await site.queue.store.payload(job.seq, "result")
        assert json.loads(result.content) == "slept"
        assert site.fates.recycled == []

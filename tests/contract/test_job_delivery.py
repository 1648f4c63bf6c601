"""Jobs reach real HTTP workers, and whatever these do, each job comes to its one end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from gpud.core.ids import GpuUuid
from gpud.core.job import Delivered, Ending, JobState
from gpud.core.worker import WorkerState
from gpud.jobs import delivery
from gpud.jobs.queue import JobQueue
from gpud.ports.jobs import Payload
from tests.contract.job_site import LLM, JobSite, echo, job_site
from tests.fakes.clock import SeededIds
from tests.unit.core.making import worker as a_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gpud.jobs.jobs import Jobs


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JobSite]:
    monkeypatch.setattr("gpud.core.backoff.BASE_MS", 20)
    async with job_site() as site:
        await site.start()
        yield site


async def until_seen(site: JobSite, count: int) -> None:
    async with asyncio.timeout(20):
        while len(site.seen) < count:  # noqa: ASYNC110 - the worker is a server of its own
            await asyncio.sleep(0.005)


async def test_a_job_is_posted_to_a_worker_with_what_it_needs_to_know(site: JobSite) -> None:
    await site.worker()
    job_id = await site.run("a fox")
    said = await site.ended(job_id)
    assert (said["status"], said["output"], said["workerId"]) == ("COMPLETED", {"echo": "a fox"}, "wk_0")
    (headers,) = site.seen
    assert headers["X-Gpud-Job-Id"] == job_id
    assert (headers["X-Gpud-Attempt"], headers["X-Gpud-Delivery"]) == ("1", "1")
    assert int(headers["X-Gpud-Deadline"]) > site.api.clock.at_ms()


async def test_a_job_has_its_part_of_its_workers_gpu_time_and_what_that_costs(
    site: JobSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = asyncio.Event()

    async def work(_: web.Request) -> web.StreamResponse:
        await together.wait()
        return web.json_response("done")

    gpus = (GpuUuid("GPU-a"), GpuUuid("GPU-b"))
    monkeypatch.setattr(site.fates, "worker", lambda _: a_worker(state=WorkerState.READY, gpu_uuids=gpus))
    monkeypatch.setattr(site.queue.metering.rates, "price_micros", lambda _: 3600 * 10**12)
    await site.worker(work)
    job_id = await site.run()
    await until_seen(site, 1)
    await asyncio.sleep(0.02)
    running = await site.detail(job_id)
    assert running["gpu_ms"] >= 2 * 20
    together.set()
    await site.ended(job_id)
    done = await site.detail(job_id)
    assert running["gpu_ms"] <= done["gpu_ms"] <= 2 * (done["exec_ms"] + 1_000)
    assert done["cost_micros"] // 10**6 == pytest.approx(done["gpu_ms"] * 1000, abs=1000)
    assert (await site.detail(job_id))["gpu_ms"] == done["gpu_ms"]


async def test_jobs_wait_until_there_is_a_worker_and_run_one_a_slot(site: JobSite) -> None:
    running = most = 0

    async def work(_: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return web.json_response({})

    ids = [await site.run(n) for n in range(12)]
    assert (await site.get(f"/v2/llm/status/{ids[0]}"))[1]["status"] == "IN_QUEUE"
    await site.worker(work)
    await site.worker(work)
    assert {(await site.ended(job_id))["status"] for job_id in ids} == {"COMPLETED"}
    assert most == 2


async def test_jobs_and_requests_share_the_slots(site: JobSite) -> None:
    await site.worker()
    slot = site.api.dispatcher.take_job_slot(site.api.control.endpoint("llm").endpoint.name, alone=False)
    assert slot is not None
    job_id = await site.run()
    await asyncio.sleep(0.05)
    assert (await site.get(f"/v2/llm/status/{job_id}"))[1]["status"] == "IN_QUEUE"
    slot.release()
    assert (await site.ended(job_id))["status"] == "COMPLETED"


@pytest.mark.parametrize("status", [500, 408, 409, 425])
async def test_an_error_that_may_pass_is_tried_again(site: JobSite, status: int) -> None:
    async def work(_: web.Request) -> web.StreamResponse:
        if len(site.seen) == 1:
            return web.Response(status=status, text="not now")
        return web.json_response("done")

    await site.worker(work)
    job_id = await site.run()
    said = await site.ended(job_id)
    assert (said["status"], said["output"], said["retries"]) == ("COMPLETED", "done", 1)
    first, second = (await site.detail(job_id))["attempts"]
    assert (first["ending"], second["ending"]) == ("failed", "completed")
    assert "not now" in first["error"]


async def test_a_refusal_is_final(site: JobSite) -> None:
    async def work(_: web.Request) -> web.StreamResponse:
        return web.Response(status=422, text="no such style")

    await site.worker(work)
    said = await site.ended(await site.run())
    assert said["status"] == "FAILED"
    assert "no such style" in said["error"]
    assert len(site.seen) == 1


async def test_a_worker_can_forbid_another_try(site: JobSite) -> None:
    async def work(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500, headers={"X-Gpud-Retry": "no"})

    await site.worker(work)
    assert (await site.ended(await site.run()))["status"] == "FAILED"
    assert len(site.seen) == 1


async def test_a_worker_without_room_costs_no_attempt(site: JobSite) -> None:
    async def work(_: web.Request) -> web.StreamResponse:
        if len(site.seen) <= 5:
            return web.Response(status=503, headers={"Retry-After": "0.01"})
        return web.json_response({})

    await site.worker(work)
    job_id = await site.run(policy={"maxAttempts": 1})
    assert (await site.ended(job_id))["status"] == "COMPLETED"
    detail = await site.detail(job_id)
    assert (detail["attempt"], detail["deliveries"]) == (1, 6)


async def test_a_poison_job_is_dead_after_its_attempts_and_others_go_on(site: JobSite) -> None:
    async def work(request: web.Request) -> web.StreamResponse:
        document = await request.json()
        if document["input"] == "poison":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({})

    await site.worker(work)
    poison = await site.run("poison", policy={"maxAttempts": 2})
    others = [await site.run(n) for n in range(5)]
    said = await site.ended(poison)
    assert said["status"] == "FAILED"
    for job_id in others:
        assert (await site.ended(job_id))["status"] == "COMPLETED"
    detail = await site.detail(poison)
    assert detail["dead"]
    assert [a["ending"] for a in detail["attempts"]] == ["worker_died", "worker_died"]
    assert [a["exit_code"] for a in detail["attempts"]] == [137, 137]


async def test_of_jobs_that_died_together_each_runs_alone_next(site: JobSite) -> None:
    await site.deploy(concurrency=3)
    together = asyncio.Event()

    async def work(request: web.Request) -> web.StreamResponse:
        document = await request.json()
        if len(site.seen) <= 3:
            if len(site.seen) == 3:
                together.set()
            await together.wait()
            assert request.transport is not None
            request.transport.abort()
        most.append(site.api.dispatcher.total_in_flight())
        return web.json_response(document["input"])

    most: list[int] = []
    ids = [await site.run(n) for n in range(3)]
    await site.worker(work)
    assert {(await site.ended(job_id))["status"] for job_id in ids} == {"COMPLETED"}
    assert set(most) == {3}, "a job that runs alone holds every slot"
    detail = await site.detail(ids[0])
    assert detail["attempts"][0]["ending"] in ("worker_died_shared", "worker_died")


async def test_a_worker_that_gpud_stops_gives_its_job_back_without_cost(site: JobSite) -> None:
    site.fates.ending.add("wk_0")

    async def work(request: web.Request) -> web.StreamResponse:
        if len(site.seen) == 1:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({})

    await site.worker(work)
    job_id = await site.run(policy={"maxAttempts": 1})
    assert (await site.ended(job_id))["status"] == "COMPLETED"
    assert (await site.detail(job_id))["attempt"] == 1


async def test_a_worker_that_takes_no_connection_costs_no_attempt(site: JobSite) -> None:
    server = await site.worker()
    await server.close()
    job_id = await site.run(policy={"maxAttempts": 1})
    async with asyncio.timeout(20):
        while not (await site.detail(job_id))["attempts"]:  # noqa: ASYNC110 - as a client would
            await asyncio.sleep(0.01)
    site.drop_workers()
    await site.worker()
    assert (await site.ended(job_id))["status"] == "COMPLETED"


async def test_an_attempt_that_takes_too_long_ends_and_its_worker_is_replaced(site: JobSite) -> None:
    stopped = asyncio.Event()

    async def work(_: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    await site.worker(work)
    job_id = await site.run(policy={"executionTimeout": 5000, "maxAttempts": 1})
    said = await site.ended(job_id)
    assert (said["status"], said["error"]) == ("FAILED", "executionTimeout exceeded")
    await asyncio.wait_for(stopped.wait(), 5)
    assert site.fates.recycled == ["wk_0"]


async def test_a_running_job_is_cancelled_by_asking_its_worker(
    site: JobSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SLOT_RETURN_S", 10.0)
    asked = asyncio.Event()

    async def work(_: web.Request) -> web.StreamResponse:
        await asked.wait()
        return web.Response(status=500, text="stopped")

    async def cancel(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["id"] == request.headers["X-Gpud-Job-Id"]
        asked.set()
        return web.Response()

    await site.deploy(cancel_path="/cancel")
    await site.worker(work, cancel=cancel)
    job_id = await site.run()
    await until_seen(site, 1)
    assert await site.post(f"/v2/llm/cancel/{job_id}") == (200, {"id": job_id, "status": "CANCELLED"})
    assert (await site.ended(job_id))["status"] == "CANCELLED"
    assert site.fates.recycled == []


async def test_a_worker_that_cannot_be_asked_to_stop_is_replaced(site: JobSite) -> None:
    async def work(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    await site.worker(work)
    job_id = await site.run()
    await until_seen(site, 1)
    await site.post(f"/v1/jobs/{job_id}/cancel")
    assert (await site.ended(job_id))["status"] == "CANCELLED"
    assert site.fates.recycled == ["wk_0"]
    again = await site.post(f"/v2/llm/cancel/{job_id}")
    assert again == (200, {"id": job_id, "status": "CANCELLED"})


@pytest.mark.parametrize(
    ("kind", "parts", "expected"),
    [
        ("text/event-stream", [b'data: {"n"', b": 1}\n\nda", b"ta: two\n\n"], [{"n": 1}, "two"]),
        ("application/x-ndjson", [b'{"n": 1}\n"tw', b'o"\n', b"3"], [{"n": 1}, "two", 3]),
    ],
)
async def test_a_streamed_answer_becomes_chunks_that_are_drained(
    site: JobSite, kind: str, parts: list[bytes], expected: list[object]
) -> None:
    go_on = asyncio.Event()

    async def work(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": kind})
        await answer.prepare(request)
        for part in parts[:-1]:
            await answer.write(part)
        await go_on.wait()
        await answer.write(parts[-1])
        return answer

    await site.worker(work)
    job_id = await site.run()
    _, first = await site.get(f"/v2/llm/stream/{job_id}?wait=10000")
    assert first["status"] == "IN_PROGRESS"
    assert first["stream"][0] == {"output": expected[0]}
    go_on.set()
    await site.ended(job_id)
    _, last = await site.get(f"/v2/llm/stream/{job_id}")
    assert [c["output"] for c in first["stream"] + last["stream"]] == expected
    assert last["status"] == "COMPLETED"
    assert (await site.get(f"/v2/llm/stream/{job_id}"))[1] == {"status": "COMPLETED", "stream": []}
    assert (await site.ended(job_id))["output"] == expected
    _, events = await site.get(f"/v1/jobs/{job_id}/stream")
    assert [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")] == [
        *expected,
        {"state": "COMPLETED"},
    ]


async def test_progress_is_taken_from_the_present_delivery_alone(site: JobSite) -> None:
    answers: list[int] = []
    told = asyncio.Event()

    async def work(request: web.Request) -> web.StreamResponse:
        headers = {"X-Gpud-Job-Token": request.headers["X-Gpud-Job-Token"]}
        path = f"/v1/jobs/{request.headers['X-Gpud-Job-Id']}/progress"
        tokens.append(headers["X-Gpud-Job-Token"])
        answers.append((await site.post(path, {"percent": 50}, headers=headers))[0])
        if len(tokens) == 1:
            return web.Response(status=500)
        answers.append((await site.post(path, {}, headers={"X-Gpud-Job-Token": tokens[0]}))[0])
        answers.append((await site.post(path, {}, headers={"X-Gpud-Job-Token": ""}))[0])
        told.set()
        await finish.wait()
        return web.json_response({})

    tokens: list[str] = []
    finish = asyncio.Event()
    await site.worker(work)
    job_id = await site.run()
    await asyncio.wait_for(told.wait(), 20)
    _, said = await site.get(f"/v2/llm/status/{job_id}")
    assert (said["status"], said["output"]) == ("IN_PROGRESS", {"percent": 50})
    finish.set()
    await site.ended(job_id)
    assert answers == [204, 204, 409, 401]


async def test_a_result_that_is_not_json_is_told_as_it_is(site: JobSite) -> None:
    async def work(request: web.Request) -> web.StreamResponse:
        wants = (await request.json())["input"]
        if wants == "text":
            return web.Response(text="plain")
        return web.Response(body=b"\xff\x00", content_type="image/png")

    await site.worker(work)
    assert (await site.ended(await site.run("text")))["output"] == "plain"
    said = await site.ended(await site.run("image"))
    assert said["output"] == {"content_type": "image/png", "base64": "/wA="}


async def test_of_a_group_one_runs_at_a_time_in_order(site: JobSite) -> None:
    order: list[int] = []

    async def work(request: web.Request) -> web.StreamResponse:
        order.append((await request.json())["input"])
        await asyncio.sleep(0.005)
        return web.json_response({})

    await site.deploy(concurrency=4)
    ids = [await site.run(n, policy={"groupKey": "user-7"}) for n in range(6)]
    await site.worker(work)
    for job_id in ids:
        assert (await site.ended(job_id))["status"] == "COMPLETED"
    assert order == list(range(6))


async def test_a_job_not_started_in_time_times_out_and_can_be_redriven(site: JobSite) -> None:
    site.api.jobs.queue.due_changed.set()
    job_id = await site.run(policy={"ttl": 10_000})
    overdue = partial(replace, expires_at_ms=site.queue.now_ms())
    await site.queue.store.change(job_id, overdue, now_ms=0)
    site.queue.due_changed.set()
    assert (await site.ended(job_id))["status"] == "TIMED_OUT"
    _, dead = await site.get("/v1/jobs?dead=true")
    assert [item["id"] for item in dead["items"]] == [job_id]
    assert await site.post("/v1/dead-letters/redrive?endpoint=llm") == (200, {"count": 1})
    await site.worker()
    assert (await site.ended(job_id))["status"] == "COMPLETED"


async def test_stopping_claims_no_more_and_leaves_what_runs_to_the_next_daemon(site: JobSite) -> None:
    async def work(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    await site.worker(work)
    running, waiting = await site.run(), await site.run()
    await until_seen(site, 1)
    await site.api.jobs.stop(0.0)
    assert (await site.get(f"/v2/llm/status/{running}"))[1]["status"] == "IN_PROGRESS"
    assert (await site.get(f"/v2/llm/status/{waiting}"))[1]["status"] == "IN_QUEUE"
    assert site.fates.recycled == []
    queue = JobQueue(site.queue.store, site.api.clock, SeededIds(7))
    (given_back,), _left = await queue.start()
    assert (given_back.before.worker_id, given_back.after.state) == ("wk_0", JobState.IN_QUEUE)
    detail = await site.detail(running)
    assert (detail["attempt"], detail["deliveries"]) == (0, 1)
    assert detail["attempts"][0]["reason"] == "daemon_restarted"


async def test_a_worker_that_does_not_know_its_job_any_more_gets_it_again_and_is_not_replaced(
    site: JobSite,
) -> None:
    async def work(request: web.Request) -> web.StreamResponse:
        if request.headers["X-Gpud-Delivery"] == "1":
            await asyncio.Event().wait()
        return await echo(request)

    async def tell(request: web.Request) -> web.StreamResponse:
        asked.append((request.match_info["job"], request.headers["X-Gpud-Delivery"]))
        return web.json_response({}, headers={"X-Gpud-Delivery": "7"})

    asked: list[tuple[str, str]] = []
    await site.deploy(status_path="/outcome")
    await site.worker(work, tell=tell)
    job_id = await site.run()
    await until_seen(site, 1)
    job = await site.ended_after_restart(job_id)
    assert (job.state, job.attempt, job.deliveries) == (JobState.COMPLETED, 1, 2)
    assert asked == [(job_id, "1")]
    assert site.fates.recycled == []


async def test_a_worker_that_runs_on_over_a_restart_tells_progress_with_the_token_it_has(
    site: JobSite,
) -> None:
    async def work(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def tell(_: web.Request) -> web.StreamResponse:
        if not told.is_set():
            return web.json_response({"status": "running"}, status=202)
        return web.json_response("late", headers={"X-Gpud-Delivery": "1"})

    async def tell_progress(jobs: Jobs) -> None:
        (running,) = jobs.queue.running.values()
        assert jobs.tokens.fits(site.seen[0]["X-Gpud-Job-Token"], running)
        assert await jobs.queue.store.put_progress(running, Payload(content=b"0.5"))
        told.set()

    told = asyncio.Event()
    await site.deploy(status_path="/outcome")
    await site.worker(work, tell=tell)
    job_id = await site.run()
    await until_seen(site, 1)
    job = await site.ended_after_restart(job_id, tell_progress)
    assert (job.state, job.attempt, job.deliveries) == (JobState.COMPLETED, 1, 1)
    result = await site.queue.store.payload(job.seq, "result")
    assert result.content == b'"late"'


async def test_a_job_that_should_run_alone_waits_for_that_only_so_long(
    site: JobSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpud.jobs.push.SOLO_PATIENCE_S", 0.3)
    busy = asyncio.Event()

    async def work(request: web.Request) -> web.StreamResponse:
        document = await request.json()
        if document["input"] == "long":
            await busy.wait()
        return web.json_response(document["input"])

    await site.deploy(concurrency=2)
    await site.worker(work)
    long = await site.run("long")
    await until_seen(site, 1)
    workers = list(site._workers)
    site.drop_workers()
    suspect = await site.run("suspect")
    claim = await site.queue.claim(LLM, "wk_gone")
    shared = Delivered(ending=Ending.WORKER_DIED_SHARED, after_ms=0)
    assert (await site.queue.settle(claim.job, shared)).solo
    behind = await site.run("behind")
    site._workers.extend(workers)
    site.publish()
    for job_id in (suspect, behind):
        assert (await site.ended(job_id))["status"] == "COMPLETED"
    assert (await site.get(f"/v2/llm/status/{long}"))[1]["status"] == "IN_PROGRESS"
    busy.set()
    assert (await site.ended(long))["status"] == "COMPLETED"

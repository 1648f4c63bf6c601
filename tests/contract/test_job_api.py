"""The job API answers in RunPod's shapes, refuses with one clear error, and shows nobody another's jobs."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from gpud.jobs.submission import QueueLimits
from tests.contract.job_site import JobSite, job_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POLICY = "The job's policy cannot be used: "


@pytest.fixture
async def site() -> AsyncIterator[JobSite]:
    async with job_site() as site:
        yield site


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "The body is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "input is required"),
        (b'{"input": null}', "input is required"),
        (b'{"input": 1, "policy": 5}', "policy must be an object"),
        (b'{"input": 1, "policy": {"ttl": 9999}}', "ttl_ms: must be 10000 to 604800000"),
        (b'{"input": 1, "policy": {"executionTimeout": 4999}}', "execution_timeout_ms: must be 5000"),
        (b'{"input": 1, "policy": {"executionTimeout": "1"}}', "policy.executionTimeout: must be a whole"),
        (b'{"input": 1, "policy": {"lowPriority": 1}}', "policy.lowPriority: must be true or false"),
        (b'{"input": 1, "policy": {"priority": 11}}', "priority: must be -10 to 10"),
        (b'{"input": 1, "webhook": 5}', "webhook: must be a URL"),
        (b'{"input": 1, "webhook": "http://app.example/"}', "webhook: must be https"),
        (b'{"input": 1, "webhook": "https://10.0.0.7/"}', "webhook: leads to 10.0.0.7, which is private"),
        (b'{"input": 1, "webhook": "https://169.254.169.254/latest"}', "webhook: leads to 169.254.169.254"),
        (b'{"input": 1, "webhook": "https://u:p@app.example/"}', "webhook: must hold no user name"),
        (b'{"input": 1, "webhook_format": "xml"}', "webhook_format: must be runpod or standard"),
        (b'{"input": ' + b"[" * 100_000 + b"}", "The body is not JSON"),
    ],
)
async def test_a_bad_submission_is_refused_in_the_dialects_own_shape(
    site: JobSite, body: bytes, error: str
) -> None:
    async with site.api.client.post("/v2/llm/run", data=body, headers=site.api.admin) as answer:
        said = await answer.json()
    assert answer.status == 400
    assert list(said) == ["error"]
    assert error in said["error"]
    assert site.queue.lane("llm").waiting == 0


async def test_an_unknown_endpoint_and_an_unknown_job_are_not_found(site: JobSite) -> None:
    for status, said in (
        await site.post("/v2/none/run", {"input": 1}),
        await site.get("/v2/llm/status/none"),
        await site.get("/v2/llm/status/%20%2e"),
        await site.post("/v2/llm/cancel/none"),
        await site.post("/v2/llm/retry/none"),
    ):
        assert status == 404
        assert list(said) == ["error"]


async def test_a_body_over_the_limit_is_refused(site: JobSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpud.api.runpod.RUN_BYTES_MAX", 1000)
    status, said = await site.post("/v2/llm/run", {"input": "x" * 1000})
    assert (status, list(said)) == (413, ["error"])


async def test_a_body_of_megabytes_comes_back_whole(site: JobSite) -> None:
    await site.worker()
    await site.start()
    value = "ü" * (3 << 20)
    body = io.BytesIO(json.dumps({"input": value}).encode())
    async with site.api.client.post("/v2/llm/runsync", data=body, headers=site.api.admin) as answer:
        assert (await answer.json())["output"] == {"echo": value}


@pytest.mark.parametrize("wait", ["999", "300001", "x", "-1", "1e4"])
async def test_a_bad_wait_is_refused_in_the_words_clients_know(site: JobSite, wait: str) -> None:
    status, said = await site.post(f"/v2/llm/runsync?wait={wait}", {"input": 1})
    assert (status, said) == (400, {"error": "wait is invalid; must be between 1000 and 300000"})


@pytest.mark.parametrize("value", [{}, [], "", 0, False, "text", {"a": {"b": [1, None]}}])
async def test_any_json_is_an_input(site: JobSite, value: Any) -> None:
    await site.worker()
    await site.start()
    assert (await site.ended(await site.run(value)))["output"] == {"echo": value}


async def test_runsync_answers_with_the_result_or_with_the_state_when_the_wait_ends(site: JobSite) -> None:
    status, said = await site.post("/v2/llm/runsync?wait=1000", {"input": 1})
    assert (status, said["status"]) == (200, "IN_QUEUE")
    assert said["id"].startswith("sync-")
    await site.worker()
    await site.start()
    _, said = await site.post("/v2/llm/runsync", {"input": "a fox"})
    assert (said["status"], said["output"]) == ("COMPLETED", {"echo": "a fox"})
    assert {"delayTime", "executionTime", "workerId"} <= said.keys()


async def test_keys_are_taken_with_and_without_bearer(site: JobSite) -> None:
    bare = {"Authorization": site.api.admin["Authorization"].removeprefix("Bearer ")}
    assert (await site.post("/v2/llm/run", {"input": 1}, headers=bare))[0] == 200
    for headers in ({"X-None": "1"}, {"Authorization": "gpud_x"}):
        status, said = await site.post("/v2/llm/run", {"input": 1}, headers=headers)
        assert (status, list(said)) == (401, ["error"])


async def test_a_key_sees_and_changes_its_own_jobs_alone(site: JobSite) -> None:
    alice = await site.api.headers("invoke:llm")
    bob = await site.api.headers("invoke:*")
    reader = await site.api.headers("read", "invoke:llm")
    _, made = await site.post("/v2/llm/run", {"input": 1}, headers=alice)
    job_id = made["id"]
    for path in (f"/v2/llm/status/{job_id}", f"/v2/llm/stream/{job_id}?wait=1000", f"/v1/jobs/{job_id}"):
        assert (await site.get(path, headers=bob))[0] == 404
        assert (await site.get(path, headers=reader))[0] == 200
    for headers in (bob, reader):
        assert (await site.post(f"/v1/jobs/{job_id}/cancel", headers=headers))[0] == 404
    assert (await site.post("/v2/llm/purge-queue", headers=bob))[1]["removed"] == 0
    assert (await site.get("/v1/jobs", headers=bob))[1]["items"] == []
    assert (await site.get("/v2/llm/requests", headers=bob))[1] == {"requests": []}
    assert len((await site.get("/v1/jobs", headers=alice))[1]["items"]) == 1
    assert (await site.post(f"/v2/llm/cancel/{job_id}", headers=alice))[0] == 200
    other = await site.api.headers("invoke:other")
    assert (await site.post("/v2/llm/run", {"input": 1}, headers=other))[0] == 403
    assert (await site.get("/v2/none/status/" + job_id, headers=bob))[0] == 404


async def test_a_repeated_submission_makes_one_job(site: JobSite) -> None:
    headers = {**site.api.admin, "Idempotency-Key": "k1"}
    answers = await asyncio.gather(
        *(site.post("/v2/llm/run", {"input": 1}, headers=headers) for _ in range(100))
    )
    assert len({said["id"] for _status, said in answers}) == 1
    status, said = await site.post("/v2/llm/run", {"input": 2}, headers=headers)
    assert (status, list(said)) == (422, ["error"])
    assert site.queue.lane("llm").waiting == 1


async def test_a_full_queue_refuses_and_says_when_to_come_back(site: JobSite) -> None:
    site.queue._limits = QueueLimits(waiting=3)
    for _ in range(3):
        await site.run()
    async with site.api.client.post("/v2/llm/run", json={"input": 1}, headers=site.api.admin) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1


async def test_a_nearly_full_disk_takes_no_new_jobs(site: JobSite) -> None:
    site.queue._free_share = lambda: 0.01
    status, said = await site.post("/v2/llm/run", {"input": 1})
    assert status == 507
    assert "disk" in said["error"]


async def test_purging_the_queue_cancels_what_waits(site: JobSite) -> None:
    ids = [await site.run(n) for n in range(3)]
    assert await site.post("/v2/llm/purge-queue") == (200, {"removed": 3, "status": "completed"})
    assert (await site.ended(ids[0]))["status"] == "CANCELLED"
    _, counted = await site.get("/v2/llm/health")
    assert counted["jobs"]["inQueue"] == 0
    assert counted["workers"].keys() == {
        "idle",
        "initializing",
        "ready",
        "running",
        "throttled",
        "unhealthy",
    }


async def test_only_a_job_that_failed_can_be_retried(site: JobSite) -> None:
    job_id = await site.run()
    assert (await site.post(f"/v2/llm/retry/{job_id}"))[0] == 409
    assert (await site.post(f"/v1/jobs/{job_id}/retry"))[0] == 409


async def test_a_waiting_job_says_why_and_only_an_ended_one_can_be_deleted(site: JobSite) -> None:
    job_id = await site.run()
    _, said = await site.get(f"/v2/llm/status/{job_id}")
    assert said["reason"]
    detail = await site.detail(job_id)
    assert (detail["state"], detail["reason"], detail["attempts"]) == ("IN_QUEUE", said["reason"], [])
    async with site.api.client.delete(f"/v1/jobs/{job_id}", headers=site.api.admin) as answer:
        assert answer.status == 409
    await site.post(f"/v1/jobs/{job_id}/cancel")
    async with site.api.client.delete(f"/v1/jobs/{job_id}", headers=site.api.admin) as answer:
        assert answer.status == 204
    assert (await site.get(f"/v1/jobs/{job_id}"))[0] == 404


async def test_a_list_goes_on_where_it_stopped_and_filters(site: JobSite) -> None:
    ids = [await site.run(n) for n in range(5)]
    await site.post(f"/v1/jobs/{ids[0]}/cancel")
    _, first = await site.get("/v1/jobs?endpoint=llm&limit=3")
    _, rest = await site.get(f"/v1/jobs?endpoint=llm&limit=3&cursor={first['next']}")
    assert [item["id"] for item in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next"] is None
    _, cancelled = await site.get("/v1/jobs?state=CANCELLED")
    assert [item["id"] for item in cancelled["items"]] == [ids[0]]
    assert (await site.get("/v1/jobs?cursor=eA"))[0] == 400
    assert (await site.get("/v1/jobs?state=LOST"))[0] == 400


async def test_dead_letters_can_be_purged(site: JobSite) -> None:
    assert await site.post("/v1/dead-letters/purge") == (200, {"count": 0})

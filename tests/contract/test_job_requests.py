"""Requests that become jobs as they are: their path, their body and its type reach the worker."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.contract.job_site import JobSite, job_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOBS = "/v1/endpoints/llm/jobs"


@pytest.fixture
async def site() -> AsyncIterator[JobSite]:
    async with job_site() as site:
        await site.start()
        yield site


async def post(site: JobSite, url: str, body: bytes = b"hello", **headers: str) -> web.Response:
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = site.api.admin | {"Content-Type": "text/plain"} | own
    async with site.api.client.post(url, data=body, headers=sent) as answer:
        return web.Response(status=answer.status, body=await answer.read(), headers=answer.headers)


async def shout(request: web.Request) -> web.StreamResponse:
    text = f"{request.path_qs} {request.content_type} {await request.text()}".upper()
    return web.Response(text=text)


def document(answer: web.Response) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(bytes(answer.body))  # type: ignore[arg-type]
    return said


async def test_a_request_is_taken_and_its_worker_gets_it_where_it_was_sent(site: JobSite) -> None:
    await site.deploy(path="/work")
    answer = await post(site, f"{JOBS}?path=/predict%3Fsize=1")
    assert answer.status == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    job = document(answer)
    assert job["state"] == "IN_QUEUE"
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    await site.worker(shout)
    ended = await site.ended(job["id"])
    assert ended["output"] == "/PREDICT?SIZE=1 TEXT/PLAIN HELLO"
    detail = await site.detail(job["id"])
    assert detail["path"] == "/predict?size=1"
    without = await site.ended(document(await post(site, JOBS))["id"])
    assert without["output"] == "/WORK TEXT/PLAIN HELLO"


async def test_who_waits_a_while_gets_the_answer_itself_if_it_comes(site: JobSite) -> None:
    await site.worker(shout)
    answer = await post(site, f"{JOBS}?path=/a", Prefer="respond-async, wait=20")
    assert (answer.status, answer.body) == (200, b"/A TEXT/PLAIN HELLO")
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert (await site.detail(answer.headers["X-Gpud-Job-Id"]))["state"] == "COMPLETED"


async def test_a_wait_that_ends_first_leaves_the_job(site: JobSite) -> None:
    answer = await post(site, f"{JOBS}?path=/a", Prefer="respond-async, wait=1")
    assert answer.status == 202
    await site.worker(shout)
    assert (await site.ended(document(answer)["id"]))["status"] == "COMPLETED"


async def test_a_request_sent_again_with_its_key_is_one_job_and_another_path_is_another_request(
    site: JobSite,
) -> None:
    first, again = await asyncio.gather(
        *(post(site, f"{JOBS}?path=/a", Idempotency_Key="k") for _ in range(2))
    )
    assert document(first)["id"] == document(again)["id"]
    assert sorted("Idempotent-Replayed" in one.headers for one in (first, again)) == [False, True]
    await site.worker(shout)
    waited = await post(site, f"{JOBS}?path=/a", Idempotency_Key="k", Prefer="respond-async, wait=20")
    assert (waited.status, waited.headers.get("Idempotent-Replayed")) == (200, "true")
    assert (await post(site, f"{JOBS}?path=/b", Idempotency_Key="k")).status == 422


@pytest.mark.parametrize("path", ["a", "/a%20b", "/%00", "/%C3%A4"])
async def test_a_path_that_is_none_is_refused(site: JobSite, path: str) -> None:
    answer = await post(site, f"{JOBS}?path={path}")
    assert answer.status == 400
    assert "path" in document(answer)["detail"]


async def test_a_body_over_the_limit_is_refused(site: JobSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpud.api.respond_async.JOB_BYTES_MAX", 4)
    assert (await post(site, JOBS)).status == 413

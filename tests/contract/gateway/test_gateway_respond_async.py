"""Requests whose callers prefer `respond-async` go to the control API as jobs, where that can be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from gpud.core.preference import JOB_BYTES_MAX, PATH_CHARS_MAX
from gpud.settings import ServerSettings
from tests.contract.gateway.rig import TOKEN, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ASYNC = ("Prefer: respond-async, wait=3",)


def app_that_tells_what_it_was_asked() -> web.Application:
    app = web.Application()

    async def tell(request: web.Request) -> web.Response:
        told = {
            "endpoint": request.match_info["endpoint"],
            "path": request.query["path"],
            "body": (await request.read()).decode(),
            "prefer": request.headers.get("Prefer"),
            "key": request.headers.getall("Authorization", []) == [f"Bearer {TOKEN}"],
        }
        return web.json_response(told, status=202)

    app.router.add_post("/v1/endpoints/{endpoint}/jobs", tell)
    return app


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = await Rig(ServerSettings(domain="models.test")).start(app_that_tells_what_it_was_asked())
    yield rig
    await rig.stop()


async def asked(rig: Rig, target: str = "/e/llm/a", **request: Any) -> tuple[int, str]:
    fields = {"headers": ASYNC, "body": b"{}", "method": "POST"} | request
    reply = await rig.get(target, **fields)
    return reply.status, reply.header("X-Gpud-Worker") or ""


async def test_a_request_becomes_a_job_with_its_path_its_body_and_its_key(rig: Rig) -> None:
    rig.publish()
    for body in (b'{"x": 1}', b'{"x": 22}'):  # the second head is a recalled one
        reply = await rig.get("/e/llm/a%2Fb/c?size=1&x=%20%26", method="POST", headers=ASYNC, body=body)
        assert reply.status == 202
        assert json.loads(reply.body) == {
            "endpoint": "llm",
            "path": "/a%2Fb/c?size=1&x=%20%26",
            "body": body.decode(),
            "prefer": "respond-async, wait=3",
            "key": True,
        }


@pytest.mark.parametrize("others", [(), ("Authorization: Basic dTpw",)])
async def test_a_key_in_x_api_key_makes_a_job_too(rig: Rig, others: tuple[str, ...]) -> None:
    rig.publish()
    fields = (f"X-API-Key: {TOKEN}", *others, *ASYNC)
    for _ in range(2):
        reply = await rig.get("/e/llm/a", method="POST", headers=fields, token=None, body=b"{}")
        assert reply.status == 202
        assert json.loads(reply.body)["key"]


async def test_a_key_of_the_workers_own_makes_no_job(rig: Rig) -> None:
    rig.publish(await rig.worker(), public=True, forward_authorization=True)
    assert await asked(rig, token="a-key-of-the-worker") == (200, "wk_0000000000000001")
    assert await asked(rig, token=None) == (200, "wk_0000000000000001")
    assert await asked(rig) == (202, "")


async def test_what_cannot_be_a_job_is_answered_by_a_worker(rig: Rig) -> None:
    rig.publish(await rig.worker())
    worker = (200, "wk_0000000000000001")
    assert await asked(rig, method="PUT") == worker
    assert await asked(rig, headers=("Prefer: return=minimal",)) == worker
    assert await asked(rig, "/a", headers=("Host: llm.models.test", *ASYNC)) == (400, "")  # two hosts
    client = await rig.client()
    client.writer.write(b"POST /a HTTP/1.1\r\nHost: llm.models.test\r\nPrefer: respond-async\r\n")
    client.writer.write(f"Authorization: Bearer {TOKEN}".encode() + b"\r\nContent-Length: 0\r\n\r\n")
    assert (await client.reply()).status == 200
    rig.publish(await rig.worker(2), public=True)
    assert await asked(rig, token=None) == (200, "wk_0000000000000002")


async def test_a_job_is_refused_as_any_request_would_be(rig: Rig) -> None:
    rig.publish(denied_paths=("/a",))
    assert await asked(rig) == (403, "")
    assert await asked(rig, token="gpud_wrong") == (401, "")
    assert await asked(rig, "/e/other/a") == (404, "")
    assert await asked(rig, "/e/llm/b") == (202, "")


async def test_a_body_or_a_path_that_is_longer_than_a_jobs_may_be_goes_to_a_worker(rig: Rig) -> None:
    rig.publish(await rig.worker())
    worker = (200, "wk_0000000000000001")
    assert await asked(rig, body=bytes(JOB_BYTES_MAX + 1)) == worker
    assert await asked(rig, "/e/llm/" + "a" * PATH_CHARS_MAX) == worker

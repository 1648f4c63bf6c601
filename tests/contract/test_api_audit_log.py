"""Who changed what: every call that may change something leaves an entry, and secrets leave none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gpud.api.app import ALL_OPERATIONS
from gpud.core.audit_log import Audited
from gpud.errors import StorageFull
from gpud.settings import AuditSettings, Settings
from tests.contract.api_site import ApiSite, running_api, unix_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LLM = {"name": "llm", "image": "a/b", "env": {"TOKEN": "very-secret-value"}}
NOT_AUDITED = {
    "simulate_endpoint",
    "make_dry_run",
    "put_progress",
    "runpod_status",
    "runpod_status_sync",
    "runpod_stream",
}
"""POST, and yet they change nothing that anybody declared."""


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        yield site


async def log(site: ApiSite, **params: str) -> list[dict[str, Any]]:
    async with site.client.get("/v1/audit-log", params=params, headers=site.admin) as response:
        assert response.status == 200, await response.text()
        found: list[dict[str, Any]] = (await response.json())["items"]
        return found


async def send(site: ApiSite, method: str, path: str, body: object = None, **headers: str) -> int:
    async with site.client.request(method, path, json=body, headers=site.admin | headers) as response:
        await response.read()
        return response.status


def test_every_operation_that_changes_something_is_audited() -> None:
    left_out = {one.name for one in ALL_OPERATIONS if one.mutates and one.audited is Audited.NEVER}
    assert left_out == NOT_AUDITED
    on_request = {one.name for one in ALL_OPERATIONS if one.mutates and one.audited is Audited.JOBS}
    assert on_request == {"make_job", "runpod_run", "runpod_runsync", "runpod_openai"}


async def test_a_change_says_who_made_it_from_where_and_what_was_before_and_after(site: ApiSite) -> None:
    assert await send(site, "POST", "/v1/endpoints", LLM) == 201
    assert await send(site, "PATCH", "/v1/endpoints/llm", {"scale": {"max_workers": 2}}) == 200
    assert await send(site, "PATCH", "/v1/endpoints/llm", {"scale": {"max_workers": 2}}) == 200
    assert await send(site, "DELETE", "/v1/endpoints/llm") == 204
    assert await send(site, "DELETE", "/v1/endpoints/llm") == 404
    made, changed, same, deleted, missing = reversed(await log(site))
    admin = next(key for key in site.keyring.list_keys() if key.label == "admin")
    assert {one["caller"] for one in (made, changed, same, deleted, missing)} == {admin.id}
    assert (made["operation"], made["method"], made["path"]) == ("create_endpoint", "POST", "/v1/endpoints")
    assert (made["subject"], made["source"], made["status"]) == ("endpoints/llm", "127.0.0.1", 201)
    assert made["before"] == ""
    assert len(made["after"]) == 64
    assert changed["before"] == made["after"] != changed["after"]
    assert same["before"] == same["after"] == changed["after"]
    assert (deleted["before"], deleted["after"]) == (changed["after"], "")
    assert (missing["status"], missing["before"], missing["after"]) == (404, "", "")
    assert len({one["request_id"] for one in (made, changed, same, deleted, missing)}) == 5


async def test_every_kind_of_thing_has_its_digests(site: ApiSite) -> None:
    registry = {"host": "ghcr.io", "username": "joe", "password": "pass-of-joe-1"}
    assert await send(site, "PUT", "/v1/registries/ghcr", registry) == 200
    assert await send(site, "DELETE", "/v1/registries/ghcr") == 204
    assert await send(site, "POST", "/v1/keys", {"scopes": ["read"]}) == 201
    key = next(one for one in site.keyring.list_keys() if one.scopes == ("read",))
    assert await send(site, "DELETE", f"/v1/keys/{key.id}") == 204
    hook = {"url": "https://192.0.2.1/x", "types": ["*"]}
    assert await send(site, "POST", "/v1/webhooks", hook) in (201, 422, 400)
    put, forgot, made, disabled, *_ = reversed(await log(site))
    assert (put["subject"], put["before"], bool(put["after"])) == ("registries/ghcr", "", True)
    assert (forgot["before"], forgot["after"]) == (put["after"], "")
    assert (made["subject"], bool(made["after"])) == (f"keys/{key.id}", True)
    assert disabled["before"] == made["after"] != disabled["after"]


async def test_no_secret_gets_into_the_log(site: ApiSite) -> None:
    registry = {"host": "ghcr.io", "username": "joe", "password": "pass-of-joe-1"}
    await send(site, "PUT", "/v1/registries/ghcr", registry)
    await send(site, "POST", "/v1/endpoints?token=in-the-query", LLM)
    async with site.client.post("/v1/keys", json={"scopes": ["read"]}, headers=site.admin) as response:
        token = (await response.json())["token"]
    assert len(await log(site)) == 3
    text = json.dumps(await log(site))
    for secret in ("pass-of-joe-1", "very-secret-value", "in-the-query", token.rpartition("_")[2]):
        assert secret not in text


async def test_reads_and_callers_that_may_not_leave_no_entry(site: ApiSite) -> None:
    reader = await site.headers("read")
    assert await send(site, "GET", "/v1/endpoints") == 200
    async with site.client.post("/v1/endpoints", json=LLM, headers=reader) as response:
        assert response.status == 403
    async with site.client.post("/v1/endpoints", json=LLM) as response:
        assert response.status == 401
    assert await log(site) == []


async def test_the_administrator_at_the_socket_is_known_by_user_id(site: ApiSite, tmp_path: Path) -> None:
    async with unix_client(site, tmp_path / "api.sock") as local, local.post("/v1/endpoints", json=LLM):
        pass
    (entry,) = await log(site)
    assert entry["caller"] == "local"
    assert entry["source"].startswith("uid ")


async def test_a_repeated_request_is_an_entry_that_changed_nothing(site: ApiSite) -> None:
    headers = {"Idempotency-Key": "k1"}
    assert await send(site, "POST", "/v1/endpoints", LLM, **headers) == 201
    assert await send(site, "POST", "/v1/endpoints", LLM, **headers) == 201
    again, first = await log(site)
    assert again["after"] == first["after"]


async def test_a_bug_behind_a_call_is_recorded_as_500(site: ApiSite) -> None:
    site.control.raises = RuntimeError("a bug")
    assert await send(site, "POST", "/v1/endpoints", LLM) == 500
    site.control.raises = None
    assert [one["status"] for one in await log(site)] == [500]


async def test_what_cannot_be_written_down_is_not_confirmed(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StorageFull("The disk is full.")

    monkeypatch.setattr(site.store.audit_log, "append", full)
    async with site.client.post("/v1/endpoints", json=LLM, headers=site.admin) as response:
        problem = await response.json(content_type="application/problem+json")
    assert problem["status"] == 507
    assert "not confirmed" in problem["detail"]
    async with site.client.delete("/v1/endpoints/none", headers=site.admin) as response:
        assert response.status == 404


async def test_the_log_is_read_in_pages_either_way(site: ApiSite) -> None:
    for number in range(5):
        assert await send(site, "DELETE", f"/v1/endpoints/none-{number}") == 404
    newest: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        path = f"/v1/audit-log?limit=2&cursor={cursor}"
        async with site.client.get(path, headers=site.admin) as response:
            page = await response.json()
        newest += [one["seq"] for one in page["items"]]
        cursor = page["next"]
    assert newest == [5, 4, 3, 2, 1]
    assert [one["seq"] for one in await log(site, after="2", limit="2")] == [3, 4]
    assert [one["seq"] for one in await log(site, subject="endpoints/none-3")] == [4]
    async with site.client.get("/v1/audit-log?cursor=bm9uZQ", headers=site.admin) as response:
        assert response.status == 400


async def test_entries_go_after_their_time() -> None:
    async with running_api(Settings(audit=AuditSettings(keep_days=1))) as site:
        await send(site, "DELETE", "/v1/endpoints/old")
        site.clock.step_wall(86_400 + 1)
        await send(site, "DELETE", "/v1/endpoints/new")
        assert [one["subject"] for one in await log(site)] == ["endpoints/new"]


async def test_sent_jobs_are_recorded_where_that_is_wanted() -> None:
    for wanted in (False, True):
        async with running_api(Settings(audit=AuditSettings(jobs=wanted))) as site:
            assert await send(site, "POST", "/v2/none/run", {"input": {}}) == 404
            assert [one["operation"] for one in await log(site)] == ["runpod_run"] * wanted
            assert await send(site, "POST", "/v2/none/purge-queue") == 404
            assert (await log(site))[0]["subject"] == "endpoints/none"

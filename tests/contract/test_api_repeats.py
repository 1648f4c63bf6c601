"""Idempotency-Key: a repeated change is done once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gpud.errors import StorageFull
from tests.contract.api_site import ApiSite, running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LLM: dict[str, Any] = {"name": "llm", "image": "a/b:1"}


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        yield site


async def post(
    site: ApiSite, path: str, body: Any, key: str, caller: dict[str, str] | None = None
) -> tuple[int, Any, str | None]:
    headers = (caller or site.admin) | {"Idempotency-Key": key}
    async with site.client.post(path, json=body, headers=headers) as response:
        text = await response.json(content_type=None)
        return response.status, text, response.headers.get("Idempotent-Replayed")


async def test_a_repeated_creation_is_answered_as_the_first_one(site: ApiSite) -> None:
    first = await post(site, "/v1/endpoints", LLM, "k1")
    again = await post(site, "/v1/endpoints", LLM, "k1")
    assert first[0] == again[0] == 201
    assert first[1] == again[1]
    assert (first[2], again[2]) == (None, "true")
    assert (await post(site, "/v1/endpoints", LLM, "k2"))[0] == 409


async def test_a_deletion_is_repeated_without_a_body(site: ApiSite) -> None:
    await post(site, "/v1/endpoints", LLM, "k1")
    headers = site.admin | {"Idempotency-Key": "k2"}
    for replayed in (None, "true"):
        async with site.client.delete("/v1/endpoints/llm", headers=headers) as response:
            assert response.status == 204
            assert response.headers.get("Idempotent-Replayed") == replayed
            assert await response.read() == b""


async def test_the_same_key_with_another_request_is_refused(site: ApiSite) -> None:
    await post(site, "/v1/endpoints", LLM, "k1")
    for path, body in (("/v1/endpoints", LLM | {"port": 1}), ("/v1/keys", LLM)):
        status, problem, _ = await post(site, path, body, "k1")
        assert (status, problem["type"]) == (422, "/problems/idempotency-mismatch")


async def test_two_callers_may_use_the_same_key(site: ApiSite) -> None:
    writer = await site.headers("write")
    assert (await post(site, "/v1/endpoints", LLM, "k1"))[0] == 201
    assert (await post(site, "/v1/endpoints", LLM | {"name": "other"}, "k1", writer))[0] == 201


async def test_while_the_first_request_is_answered_a_second_is_a_conflict(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()
    deploy = site.control.deploy

    async def slow(spec: Any) -> Any:
        arrived.set()
        await go.wait()
        return await deploy(spec)

    monkeypatch.setattr(site.control, "deploy", slow)
    first = asyncio.create_task(post(site, "/v1/endpoints", LLM, "k1"))
    await asyncio.wait_for(arrived.wait(), 10)
    status, problem, _ = await post(site, "/v1/endpoints", LLM, "k1")
    assert (status, problem["type"]) == (409, "/problems/conflict")
    go.set()
    assert (await first)[0] == 201
    assert (await post(site, "/v1/endpoints", LLM, "k1"))[2] == "true"


async def test_a_refused_request_gives_its_key_up(site: ApiSite) -> None:
    site.control.raises = StorageFull("The disk is full.")
    assert (await post(site, "/v1/endpoints", LLM, "k1"))[0] == 507
    site.control.raises = RuntimeError("a bug")
    assert (await post(site, "/v1/endpoints", LLM, "k1"))[0] == 500
    assert (await post(site, "/v1/endpoints", LLM, "k1"))[::2] == (201, None)


async def test_a_repeated_key_creation_makes_one_key_and_shows_its_token_once(site: ApiSite) -> None:
    body = {"label": "ci", "scopes": ["read"]}
    _, first, _ = await post(site, "/v1/keys", body, "k1")
    status, again, replayed = await post(site, "/v1/keys", body, "k1")
    assert (status, replayed) == (201, "true")
    assert first["token"].startswith("gpud_")
    assert again == first | {"token": None}
    assert len(site.keyring.list_keys()) == 2


@pytest.mark.parametrize("key", ["with space", "x" * 256, "caf\u00e9"])
async def test_a_key_that_is_none_is_refused(site: ApiSite, key: str) -> None:
    status, problem, _ = await post(site, "/v1/endpoints", LLM, key)
    assert status == 400
    assert "Idempotency-Key" in problem["fields"]


async def test_a_refused_caller_claims_no_key(site: ApiSite) -> None:
    reader = await site.headers("read")
    assert (await post(site, "/v1/endpoints", LLM, "k1", reader))[0] == 403
    assert (await post(site, "/v1/endpoints", LLM, "k1"))[0] == 201

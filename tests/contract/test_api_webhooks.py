"""Webhooks through the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gpud.core.records import EventRecorded
from tests.contract.api_site import ApiSite, running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY = {"url": "https://93.184.215.14/hooks", "types": ["worker.failed"], "description": "for ops"}


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api() as site:
        yield site


async def ask(site: ApiSite, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with site.client.request(method, path, json=body, headers=site.admin) as response:
        return response.status, (await response.json() if response.status != 204 else None)


async def test_a_webhook_is_made_shown_changed_and_forgotten(site: ApiSite) -> None:
    status, made = await ask(site, "POST", "/v1/webhooks", BODY)
    assert status == 201
    assert made["secret"].startswith("whsec_")
    assert made["enabled"] is True
    path = f"/v1/webhooks/{made['id']}"
    _, shown = await ask(site, "GET", path)
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    _, listed = await ask(site, "GET", "/v1/webhooks")
    assert listed["items"] == [shown]
    status, changed = await ask(site, "PATCH", path, {"enabled": False, "types": ["job.*", "gpu.unhealthy"]})
    assert (status, changed["enabled"], changed["types"]) == (200, False, ["job.*", "gpu.unhealthy"])
    assert changed["disabled_reason"]
    _, again = await ask(site, "PATCH", path, {"enabled": True})
    assert (again["enabled"], again["disabled_reason"]) == (True, "")
    assert (await ask(site, "DELETE", path))[0] == 204
    assert (await ask(site, "GET", path))[0] == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        (BODY | {"url": "http://app.example/"}, "url"),
        (BODY | {"url": "https://127.0.0.1/"}, "url"),
        (BODY | {"url": "https://169.254.169.254/latest"}, "url"),
        (BODY | {"types": ["worker.exploded"]}, "types.0"),
        (BODY | {"types": []}, "types"),
        (BODY | {"endpoint": "No Such Name"}, "endpoint"),
        (BODY | {"secret": "mine"}, "secret"),
    ],
)
async def test_a_bad_webhook_is_refused_by_field(site: ApiSite, body: Any, field: str) -> None:
    status, problem = await ask(site, "POST", "/v1/webhooks", body)
    assert status == 400
    assert list(problem["fields"]) == [field]


async def test_a_repeated_request_shows_no_secret_twice(site: ApiSite) -> None:
    headers = site.admin | {"Idempotency-Key": "once"}
    async with site.client.post("/v1/webhooks", json=BODY, headers=headers) as first:
        made = await first.json()
    async with site.client.post("/v1/webhooks", json=BODY, headers=headers) as second:
        replayed = await second.json()
    assert replayed == made | {"secret": None}


async def test_deliveries_are_listed_shown_and_sent_again(site: ApiSite) -> None:
    _, made = await ask(site, "POST", "/v1/webhooks", BODY)
    path = f"/v1/webhooks/{made['id']}"
    failed = EventRecorded(kind="worker.failed", at_ms=1_763_730_000_000, facts={"cause": "oom"})
    await site.store.fleet.record([failed] * 3)
    _, page = await ask(site, "GET", f"{path}/deliveries?limit=2")
    assert [one["state"] for one in page["items"]] == ["waiting", "waiting"]
    _, rest = await ask(site, "GET", f"{path}/deliveries?limit=2&cursor={page['next']}")
    assert (len(rest["items"]), rest["next"]) == (1, None)
    delivery = f"{path}/deliveries/{rest['items'][0]['id']}"
    _, shown = await ask(site, "GET", delivery)
    assert shown["body"]["data"]["cause"] == "oom"
    assert shown["log"] == []
    assert (await ask(site, "POST", f"{delivery}/redeliver"))[0] == 202
    status, replay = await ask(site, "POST", f"{path}/replay", {"since": "2020-01-01T00:00:00Z"})
    assert (status, replay) == (202, {"replayed": 0})
    assert (await ask(site, "GET", f"{path}/deliveries/msg_none"))[0] == 404
    assert (await ask(site, "GET", f"{path}/deliveries?cursor=bm90IG91cnM"))[0] == 400


async def test_a_test_and_a_rotation_reach_one_webhook(site: ApiSite) -> None:
    _, made = await ask(site, "POST", "/v1/webhooks", BODY)
    await ask(site, "POST", "/v1/webhooks", BODY)
    path = f"/v1/webhooks/{made['id']}"
    status, delivery = await ask(site, "POST", f"{path}/test")
    assert (status, delivery["type"], delivery["body"]["type"]) == (202, "webhook.test", "webhook.test")
    assert len(await site.store.webhooks.take("https://93.184.215.14", limit=10)) == 1
    status, rotated = await ask(site, "POST", f"{path}/rotate", {})
    assert status == 200
    assert rotated["secret"] != made["secret"]
    assert rotated["old_secret_until"] is not None
    for what in ("test", "rotate", "replay"):
        body = {"since": "2020-01-01T00:00:00Z"} if what == "replay" else {}
        assert (await ask(site, "POST", f"/v1/webhooks/whk_none/{what}", body))[0] == 404


async def test_jobs_have_a_secret_of_their_own(site: ApiSite) -> None:
    status, rotated = await ask(site, "POST", "/v1/webhooks/jobs/rotate", {"overlap_s": 60})
    assert status == 200
    assert rotated["secret"].startswith("whsec_")
    assert (await ask(site, "GET", "/v1/webhooks/jobs/deliveries"))[1] == {"items": [], "next": None}


async def test_only_administrators_make_webhooks(site: ApiSite) -> None:
    for scopes, expected in ((("read",), 200), (("invoke:*",), 403)):
        headers = await site.headers(*scopes)
        async with site.client.get("/v1/webhooks", headers=headers) as response:
            assert response.status == expected
    async with site.client.post(
        "/v1/webhooks", json=BODY, headers=await site.headers("write", "read")
    ) as response:
        assert response.status == 403

"""`/v1/state`: the whole once, then what changes, told to many by one look."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gpud.api import state
from gpud.core.gpu import GpuReading
from gpud.core.ids import GpuUuid, WorkerId
from gpud.core.worker import WorkerState
from gpud.ports.readings import Readings
from tests.contract.api_site import ApiSite, running_api
from tests.contract.dashboard_world import deploy, furnish, show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientResponse

FOLLOW = "/v1/state?follow=true"


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiSite]:
    monkeypatch.setattr(state, "LOOK_PERIOD_S", 0.02)
    async with running_api() as site:
        yield site


async def _event(response: ClientResponse) -> tuple[str, dict[str, Any]]:
    kind = ""
    async with asyncio.timeout(10):
        while line := (await response.content.readline()).decode():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ").strip()
            if line.startswith("data: "):
                return kind, json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended")


async def test_the_state_agrees_with_the_lists(site: ApiSite) -> None:
    await furnish(site)
    told: dict[str, Any] = {}
    for path in ("state", "endpoints", "gpus", "system"):
        async with site.client.get(f"/v1/{path}", headers=site.admin) as response:
            assert response.status == 200, await response.text()
            told[path] = await response.json()
    for short, whole in zip(told["state"]["endpoints"], told["endpoints"]["items"], strict=True):
        same = set(short) & set(whole) - {"image"}
        assert {name: short[name] for name in same} == {name: whole[name] for name in same}
        assert short["image"] == whole["image"]["reference"]
        mine = [one for one in told["state"]["workers"] if one["endpoint"] == short["name"]]
        assert mine == whole["workers"]
    assert told["state"]["gpus"] == told["gpus"]["items"]
    (daemon,) = told["state"]["daemon"]
    assert daemon == {name: told["system"][name] for name in daemon}


async def test_a_follower_gets_the_whole_and_then_only_what_changed(site: ApiSite) -> None:
    await deploy(site, "chat")
    await deploy(site, "whisper")
    worker = site.control.add_worker("wk_" + "a" * 16, "chat")
    async with site.client.get(FOLLOW, headers=site.admin) as response:
        kind, whole = await _event(response)
        assert (kind, [one["id"] for one in whole["workers"]]) == ("snapshot", [worker.id])

        show(site, "whisper", waiting=3)
        kind, change = await _event(response)
        assert (kind, change["remove"]) == ("change", {})
        (changed,) = change["upsert"].pop("endpoints")
        assert (changed["name"], changed["waiting"], change["upsert"]) == ("whisper", 3, {})

        site.control.workers[worker.id] = replace(worker, state=WorkerState.DRAINING)
        _, change = await _event(response)
        assert [one["state"] for one in change["upsert"]["workers"]] == ["draining"]

        del site.control.workers[WorkerId(worker.id)]
        _, change = await _event(response)
        assert change["remove"] == {"workers": [worker.id]}


async def test_who_was_away_is_told_the_whole_again(site: ApiSite) -> None:
    await deploy(site, "chat")
    async with site.client.get(FOLLOW, headers=site.admin) as response:
        await _event(response)
    await deploy(site, "whisper")
    async with site.client.get(FOLLOW, headers=site.admin | {"Last-Event-ID": "1"}) as response:
        kind, told = await _event(response)
        assert kind == "snapshot"
        names = [one["name"] for one in told["endpoints"]]
        while "whisper" not in names:  # a snapshot may be as old as a look lasts; what is new follows
            _, told = await _event(response)
            names += [one["name"] for one in told["upsert"]["endpoints"]]
    assert names == ["chat", "whisper"]


async def test_many_followers_share_one_look_and_without_them_nobody_looks(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = site.app[state.FEED]
    await asyncio.sleep(0.05)
    assert feed.looks == 0
    monkeypatch.setattr(state, "LOOK_PERIOD_S", 0.2)
    followers = [await site.client.get(FOLLOW, headers=site.admin) for _ in range(10)]
    for each in followers:
        await _event(each)
    assert feed.looks <= 2
    await deploy(site, "chat")
    changes = [await _event(each) for each in followers]
    assert {json.dumps(change) for _, change in changes} == {json.dumps(changes[0][1])}
    assert feed.looks <= 5
    for each in followers:
        each.close()
    async with asyncio.timeout(10):
        while len(site.app[state.VIEWERS]):  # noqa: ASYNC110 waits on a condition, with a deadline
            await asyncio.sleep(0.02)
    looks = feed.looks
    await asyncio.sleep(0.3)
    assert feed.looks == looks


async def test_followers_end_with_their_key_and_with_the_daemon(site: ApiSite) -> None:
    key, token = await site.keyring.create(label="", scopes=["read"])
    mine = await site.client.get(FOLLOW, headers={"Authorization": f"Bearer {token}"})
    other = await site.client.get(FOLLOW, headers=site.admin)
    await _event(mine)
    await site.keyring.disable(key.id)
    assert (await asyncio.wait_for(mine.content.read(), 10)).strip() == b""
    await site.app.shutdown()
    assert b"snapshot" in await asyncio.wait_for(other.content.read(), 10)


async def test_gpus_say_what_they_were_read_to_do() -> None:
    uuid = GpuUuid("GPU-1")
    reading = GpuReading(
        uuid=uuid, used_mib=1, total_mib=2, gpu_percent=12.5, power_w=70.0, temperature_c=41.0
    )
    async with (
        running_api(readings=Readings(gpu_readings=lambda: {uuid: reading})) as site,
        site.client.get("/v1/gpus", headers=site.admin) as response,
    ):
        items = (await response.json())["items"]
    told = [(one["utilization_percent"], one["power_w"], one["temperature_c"]) for one in items]
    assert told == [(None, None, None), (12.5, 70.0, 41.0)]

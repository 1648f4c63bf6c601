"""What was recorded: workers, usage, events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gpud.api.events import FOLLOWERS
from gpud.api.following import FOLLOWERS_MAX
from gpud.api.services import SERVICES
from gpud.core.budget import BudgetPeriod
from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.metering import Phase, Segment
from gpud.core.records import (
    EndpointSaved,
    EventRecorded,
    SegmentClosed,
    SegmentOpened,
    WorkerInserted,
    WorkerMoved,
)
from gpud.core.worker import Cause, Worker, WorkerState
from gpud.errors import StoreUnusable
from gpud.money_settings import BudgetSettings, BudgetsSettings, GpuPriceSettings, PriceSettings
from gpud.settings import Settings
from tests.contract.api_site import ApiSite, running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientResponse

PRICES = Settings(prices=PriceSettings(currency="EUR", gpu_hour_micros=3_600_000))
HOUR_NS = 3_600_000_000_000


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    async with running_api(PRICES) as site:
        yield site


async def get(site: ApiSite, path: str, **params: str) -> Any:
    async with site.client.get(path, params=params, headers=site.admin) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def add_workers(site: ApiSite, count: int, endpoint: str = "llm") -> list[Worker]:
    """Workers of a stored endpoint, the last one the newest."""
    stored, _ = await site.control.deploy(EndpointSpec(name=EndpointName(endpoint), image="a/b"))
    workers = [
        Worker(
            id=WorkerId(f"wk_{endpoint:a<15}{'abcdefgh'[number]}"),
            endpoint=stored.name,
            revision=stored.revision,
            state=WorkerState.PENDING,
            generation=0,
            since_s=0.0,
            created_at_ms=1_700_000_000_000 + number,
            port=8000,
        )
        for number in range(count)
    ]
    changes = [WorkerInserted(worker=worker) for worker in workers]
    await site.store.fleet.record([EndpointSaved(endpoint=stored), *changes])
    return workers


async def test_workers_are_listed_newest_first_in_pages(site: ApiSite) -> None:
    workers = await add_workers(site, 5)
    (other,) = await add_workers(site, 1, "other")
    site.control.workers |= {worker.id: worker for worker in (*workers, other)}
    for more in ({}, {"include_gone": "true"}):
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await get(site, "/v1/workers", endpoint="llm", limit="2", cursor=cursor, **more)
            seen += [one["id"] for one in page["items"]]
            cursor = page["next"]
        assert seen == [worker.id for worker in reversed(workers)]
        page = await get(site, "/v1/workers", **more)
        assert {one["id"] for one in page["items"]} == {other.id, *seen}
    async with site.client.get("/v1/workers?cursor=bm90IG91cnM", headers=site.admin) as response:
        assert response.status == 400


async def test_a_list_shows_workers_as_the_fleet_sees_them_which_may_be_ahead_of_the_disk(
    site: ApiSite,
) -> None:
    recorded, unrecorded = await add_workers(site, 2)
    ready = replace(recorded, state=WorkerState.READY, generation=4, cause=Cause.PROBE_PASSED)
    site.control.workers |= {ready.id: ready}
    for more in ({}, {"include_gone": "true"}):
        rows = (await get(site, "/v1/workers", **more))["items"]
        assert next(one["state"] for one in rows if one["id"] == ready.id) == "ready"
    del site.control.deployed[EndpointName("llm")]  # it drains
    (worker,) = (await get(site, "/v1/workers"))["items"]
    assert (worker["id"], worker["state"]) == (ready.id, "ready")
    (worker,) = (await get(site, "/v1/state"))["workers"]
    assert (worker["id"], worker["state"]) == (ready.id, "ready")
    assert unrecorded.id in {
        one["id"] for one in (await get(site, "/v1/workers", include_gone="true"))["items"]
    }


async def test_a_worker_that_has_ended_is_shown_as_it_was_recorded(site: ApiSite) -> None:
    (worker,) = await add_workers(site, 1)
    gone = replace(
        worker,
        state=WorkerState.GONE,
        generation=1,
        cause=Cause.PULL_FAILED,
        detail="No such image.",
        failed=True,
    )
    move = WorkerMoved(worker=gone, from_state=WorkerState.PENDING, from_generation=0)
    await site.store.fleet.record([move])
    shown = await get(site, f"/v1/workers/{worker.id}")
    assert (shown["state"], shown["cause"], shown["detail"]) == ("gone", "pull_failed", "No such image.")
    assert shown["failed"] is True
    assert (await get(site, "/v1/workers"))["items"] == []
    assert (await get(site, "/v1/workers", include_gone="true"))["items"] == [shown]
    async with site.client.get("/v1/workers/wk_none", headers=site.admin) as response:
        assert response.status == 404


def a_segment(worker: Worker, start_boot_ns: int, *gpus: str) -> Segment:
    return Segment(
        worker_id=worker.id,
        seq=0,
        phase=Phase.ACTIVE,
        endpoint=worker.endpoint,
        revision=worker.revision,
        gpu_uuids=tuple(GpuUuid(gpu) for gpu in gpus),
        boot_id="boot-1",
        start_boot_ns=start_boot_ns,
        start_wall_ms=1_700_000_000_000,
    )


async def test_usage_is_priced_and_lines_add_up_to_the_total(site: ApiSite) -> None:
    (worker,) = await add_workers(site, 1)
    opened = a_segment(worker, 0, "GPU-0", "GPU-1")
    closed = replace(opened, end_boot_ns=HOUR_NS // 2 + 1_500_000, close_reason="exited")
    await site.store.fleet.record([SegmentOpened(segment=opened), SegmentClosed(segment=closed)])
    report = await get(site, "/v1/usage")
    (line,) = report["items"]
    assert (report["currency"], report["gpu_hour_micros"]) == ("EUR", 3_600_000)
    assert line["key"] == "llm"
    assert line["gpu_ms"] == 3_600_003
    assert line["wall_ms"] == 1_800_001
    assert line["billed_s"] == 3601
    assert line["cost_micros"] == 3_600_003
    assert line["phases_ms"]["active"] == 3_600_003
    assert report["total"] == {name: line[name] for name in report["total"]}
    by_gpu = await get(site, "/v1/usage", by="gpu")
    assert [one["key"] for one in by_gpu["items"]] == ["GPU-0", "GPU-1"]
    assert (await get(site, "/v1/usage", endpoint="other"))["items"] == []


async def test_budgets_say_what_was_used_of_them_and_what_they_refuse() -> None:
    limits = (
        BudgetSettings(endpoint="llm", per=BudgetPeriod.DAY, gpu_s=10, warn_percent=(50,)),
        BudgetSettings(endpoint="llm", micros=7200, warn_percent=(50, 80)),
        BudgetSettings(key="key_nobody", gpu_s=60),
    )
    settings = Settings(prices=PRICES.prices, budgets=BudgetsSettings(limits=limits))
    async with running_api(settings) as site:
        (worker,) = await add_workers(site, 1)
        started_ms = site.clock.at_ms() - site.clock.at_ms() % 86_400_000 + 1000
        opened = replace(a_segment(worker, 0, "GPU-0"), start_wall_ms=started_ms)
        closed = replace(opened, end_boot_ns=6_000_000_000, close_reason="exited")
        await site.store.fleet.record([SegmentOpened(segment=opened), SegmentClosed(segment=closed)])
        told = await get(site, "/v1/budgets")
        assert (told["currency"], told["check_s"], told["next"]) == ("EUR", 15, None)
        day, month, key = told["items"]
        assert (day["id"], day["state"], day["passed_percent"]) == (
            "endpoint llm gpu time a day",
            "warned",
            50,
        )
        assert (day["used_gpu_ms"], day["amount_gpu_ms"], day["used_percent"]) == (6000, 10_000, 60.0)
        assert (day["used_micros"], day["detail"], day["refuses"]) == (None, "", "")
        assert (month["used_micros"], month["state"], month["passed_percent"]) == (6000, "warned", 80)
        assert (key["state"], key["used_gpu_ms"], key["key"]) == ("within", 0, "key_nobody")
        opened = replace(opened, seq=1, start_boot_ns=6_000_000_000, start_wall_ms=started_ms + 6000)
        closed = replace(opened, end_boot_ns=10_000_000_000, close_reason="exited")
        await site.store.fleet.record([SegmentOpened(segment=opened), SegmentClosed(segment=closed)])
        day, month, _ = (await get(site, "/v1/budgets"))["items"]
        assert day["state"] == month["state"] == "spent"
        assert day["detail"].startswith("The budget of endpoint llm, 10 GPU seconds a day, is spent")
        assert "429 budget-spent" in day["refuses"]


async def test_a_running_worker_is_on_the_bill_up_to_now(site: ApiSite) -> None:
    (worker,) = await add_workers(site, 1)
    opened = a_segment(worker, site.clock.boot_ns() - 5_000_000_000, "GPU-0")
    opened = replace(opened, start_wall_ms=site.clock.at_ms() - 5000)
    await site.store.fleet.record([SegmentOpened(segment=opened)])
    (line,) = (await get(site, "/v1/usage"))["items"]
    assert 5000 <= line["gpu_ms"] < 60_000


async def test_what_was_metered_is_exported_in_pages(site: ApiSite) -> None:
    (worker,) = await add_workers(site, 1)
    opened = a_segment(worker, 0, "GPU-0")
    closed = replace(opened, end_boot_ns=1_500_000_001, close_reason="flip")
    second = replace(opened, seq=1, phase=Phase.STOP, start_boot_ns=1_500_000_001)
    await site.store.fleet.record([SegmentOpened(segment=opened), SegmentClosed(segment=closed)])
    ended = replace(second, end_boot_ns=1_600_000_000, close_reason="end")
    await site.store.fleet.record([SegmentOpened(segment=second), SegmentClosed(segment=ended)])
    page = await get(site, "/v1/usage/segments", limit="1")
    (one,) = page["items"]
    assert (one["worker_id"], one["seq"], one["duration_ns"]) == (worker.id, 0, 1_500_000_001)
    assert (one["phase"], one["billable"], one["gpu_uuids"]) == ("active", True, ["GPU-0"])
    rest = await get(site, "/v1/usage/segments", cursor=page["next"])
    assert [(each["seq"], each["billable"]) for each in rest["items"]] == [(1, False)]
    assert rest["next"] is None
    async with site.client.get("/v1/usage/segments?cursor=eHg", headers=site.admin) as response:
        assert response.status == 400


async def test_a_gpu_model_has_its_own_price() -> None:
    async with running_api() as bare:
        model = (await get(bare, "/v1/gpus"))["items"][0]
    prices = PriceSettings(
        gpu_hour_micros=7, gpus=(GpuPriceSettings(gpu=model["name"], gpu_hour_micros=3_600_000),)
    )
    async with running_api(Settings(prices=prices)) as site:
        (worker,) = await add_workers(site, 1)
        opened = a_segment(worker, 0, model["uuid"])
        closed = replace(opened, end_boot_ns=HOUR_NS, close_reason="exited")
        await site.store.fleet.record([SegmentOpened(segment=opened), SegmentClosed(segment=closed)])
        report = await get(site, "/v1/usage")
        assert (report["gpu_hour_micros"], report["total"]["cost_micros"]) == (7, 3_600_000)


@pytest.mark.parametrize(
    "query",
    [
        "by=month",
        "by=minute",
        "by=second&since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:01Z",
        "since=yesterday",
        "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z",
        "until=1700000000",
    ],
)
async def test_a_report_that_cannot_be_is_refused(site: ApiSite, query: str) -> None:
    async with site.client.get(f"/v1/usage?{query}", headers=site.admin) as response:
        assert response.status == 400
        assert (await response.json(content_type=None))["fields"]


async def test_the_audit_says_that_the_books_hold(site: ApiSite) -> None:
    assert await get(site, "/v1/audit") == {"ok": True, "breaches": []}


async def record_events(site: ApiSite, *kinds: str, endpoint: str = "llm") -> None:
    await site.store.fleet.record(
        [
            EventRecorded(kind=kind, at_ms=site.clock.at_ms(), endpoint=endpoint, facts={"total_ms": 5})
            for kind in kinds
        ]
    )


@pytest.mark.parametrize(
    ("order", "expected"),
    [("newest", ["e.d", "e.c", "e.b", "e.a"]), ("oldest", ["e.a", "e.b", "e.c", "e.d"])],
)
async def test_events_come_in_pages_in_either_order(site: ApiSite, order: str, expected: list[str]) -> None:
    await record_events(site, "e.a", "e.b", "e.c", "e.d")
    await record_events(site, "x.y", endpoint="other")
    seen: list[str] = []
    cursor: str | None = ""
    page: dict[str, Any] = {}
    while cursor is not None:
        page = await get(site, "/v1/events", endpoint="llm", limit="3", order=order, cursor=cursor)
        seen += [one["kind"] for one in page["items"]]
        cursor = page["next"]
    assert seen == expected
    assert page["items"][0]["facts"] == {"total_ms": 5}


async def read_events(response: ClientResponse, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            line = (await response.content.readline()).decode()
            assert line, "the stream ended"
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
    return found


async def test_a_follower_is_told_new_events_as_they_are_recorded(site: ApiSite) -> None:
    await record_events(site, "old.one")
    async with site.client.get("/v1/events?follow=true&endpoint=llm", headers=site.admin) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        await record_events(site, "not.mine", endpoint="other")
        await record_events(site, "new.one", "new.two")
        told = await read_events(response, 2)
    assert [event["kind"] for event in told] == ["new.one", "new.two"]


async def test_a_follower_that_returns_misses_nothing(site: ApiSite) -> None:
    await record_events(site, "e.a", "e.b", "e.c")
    (first, *_) = (await get(site, "/v1/events", order="oldest"))["items"]
    headers = site.admin | {"Last-Event-ID": str(first["seq"])}
    async with site.client.get("/v1/events?follow=true", headers=headers) as response:
        assert [event["kind"] for event in await read_events(response, 2)] == ["e.b", "e.c"]


async def test_followers_end_when_the_daemon_stops_and_when_they_leave() -> None:
    async with running_api() as site:
        followers = site.app[FOLLOWERS]
        async with site.client.get("/v1/events?follow=true", headers=site.admin) as response:
            assert len(followers) == 1
        del response
        async with asyncio.timeout(10):
            while followers:  # noqa: ASYNC110 waits on a condition, with a deadline
                await asyncio.sleep(0.05)
        staying = await site.client.get("/v1/events?follow=true", headers=site.admin)
        await site.app.shutdown()
        assert await asyncio.wait_for(staying.content.read(), 10) == b""


@pytest.mark.parametrize("failed_before", [0, 20])
async def test_a_follower_whose_key_is_disabled_is_told_no_more(site: ApiSite, failed_before: int) -> None:
    for _ in range(failed_before):  # Others at its address have used up the attempts of the minute.
        await site.client.get("/v1/events", headers={"Authorization": "Bearer wrong"})
    key, token = await site.keyring.create(label="", scopes=["read"])
    headers = {"Authorization": f"Bearer {token}"}
    async with site.client.get("/v1/events?follow=true", headers=headers) as response:
        await record_events(site, "e.a")
        assert [event["kind"] for event in await read_events(response, 1)] == ["e.a"]
        await site.keyring.disable(key.id)
        await record_events(site, "e.b")
        assert (await asyncio.wait_for(response.content.read(), 10)).strip() == b""


async def test_a_follower_whom_the_store_fails_sees_its_stream_end(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(**_query: object) -> None:
        raise StoreUnusable("The disk is gone.")

    async with site.client.get("/v1/events?follow=true", headers=site.admin) as response:
        monkeypatch.setattr(site.app[SERVICES].reads, "list_events", fails)
        assert await asyncio.wait_for(response.content.read(), 10) == b""


async def test_followers_are_bounded(site: ApiSite) -> None:
    with contextlib.ExitStack() as taken:
        for _ in range(FOLLOWERS_MAX):
            taken.enter_context(site.app[FOLLOWERS].place())
        async with site.client.get("/v1/events?follow=true", headers=site.admin) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0

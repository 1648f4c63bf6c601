"""What-if over the API: the record, the bill and the replay in its own process, side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gpud.api.schemas.base import timestamp
from gpud.core.history import Stretch
from gpud.core.ids import EndpointName
from gpud.core.records import ArrivalsRecorded, EventRecorded
from tests.contract.api_site import running_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.api_site import ApiSite

ECHO = EndpointName("echo")
HOUR_MS = 3_600_000
PATH = "/v1/endpoints/echo/simulate"


@pytest.fixture
async def site() -> AsyncIterator[ApiSite]:
    """An endpoint with six calls of the last day, an hour apart, each of which started a worker."""
    async with running_api() as site:
        body = {
            "name": "echo",
            "image": "echo:1",
            "port": 8000,
            "scale": {"max_workers": 1},
            "pause": {"after_idle_s": 1000},
            "sleep": {"preset": "vllm", "after_idle_s": 2000},
        }
        made = await site.client.post("/v1/endpoints", json=body, headers=site.admin)
        assert made.status == 201
        now_ms = site.clock.at_ms()
        _make_older(site, now_ms - 24 * HOUR_MS)
        stretch = Stretch()
        for hours in range(1, 7):
            stretch.add(now_ms - hours * HOUR_MS, 30_000, 2_000)
        ready = EventRecorded(
            kind="worker.ready",
            at_ms=now_ms - 2 * HOUR_MS,
            endpoint="echo",
            worker_id="wk_x",
            facts={"reserve_ms": 1.0, "create_ms": 400.0, "start_ms": 599.0, "ready_ms": 29_000.0},
        )
        woken = EventRecorded(
            kind="worker.woken",
            at_ms=now_ms - HOUR_MS,
            endpoint="echo",
            worker_id="wk_x",
            facts={"rung": "sleeping", "wait_ms": 5.0, "wake_ms": 3000.0, "ready_ms": 500.0},
        )
        recorded = ArrivalsRecorded(endpoint=ECHO, batch=stretch.batch())
        await site.store.fleet.record([recorded, ready, woken])
        yield site


def _make_older(site: ApiSite, created_at_ms: int) -> None:
    deployed = site.control.deployed
    deployed[ECHO] = replace(deployed[ECHO], created_at_ms=created_at_ms)


async def _ask(site: ApiSite, body: dict[str, Any], *, status: int = 200) -> dict[str, Any]:
    answer = await site.client.post(PATH, json=body, headers=site.admin)
    assert answer.status == status, await answer.text()
    told: dict[str, Any] = await answer.json()
    return told


async def test_other_settings_are_told_beside_what_happened(site: ApiSite) -> None:
    told = await _ask(site, {"scale": {"idle_timeout_s": 7200}})
    actual, present, changed = told["actual"], told["present"], told["changed"]
    assert (actual["requests"], actual["wait_ms_p50"]) == (6, 30_000)
    assert (actual["cold_starts"], actual["wakes"]) == (1, 1)
    assert (present["requests"], present["cold_starts"]) == (6, 6)
    assert 29_900 <= present["wait_ms_p50"] <= 30_100
    assert (changed["cold_starts"], changed["wakes"]) == (1, 5)
    assert changed["wait_ms_p50"] == 3500, "it sleeps between the calls, and wakes as it did once"
    assert 3 * HOUR_MS < changed["gpu_ms"] < 4 * HOUR_MS
    assert present["gpu_ms"] < 1 * HOUR_MS
    assert told["assumed"] == ["No way back from paused is on record: 0.001 s are assumed."]


async def test_without_other_settings_the_present_ones_are_replayed_alone(site: ApiSite) -> None:
    assert (await _ask(site, {}))["changed"] is None


async def test_a_setting_that_is_none_is_refused_by_its_field(site: ApiSite) -> None:
    told = await _ask(site, {"scale": {"idle_timeout_s": -1}}, status=422)
    assert "scale.idle_timeout_s" in told["fields"]
    told = await _ask(site, {"scale": {"no_such": 1}}, status=422)
    assert "scale.no_such" in told["fields"]


async def test_a_period_without_requests_is_not_found_and_says_what_is_kept(site: ApiSite) -> None:
    since = timestamp(site.clock.at_ms() - 1_800_000).isoformat()
    told = await _ask(site, {"since": since}, status=404)
    assert "history.keep_days" in told["detail"]

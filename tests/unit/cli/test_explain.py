from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gpud.core.pacing import ScaleReason
from tests.unit.cli import documents

if TYPE_CHECKING:
    from tests.unit.cli.canned import CannedDaemon
    from tests.unit.cli.conftest import Gpud

WAIT = {
    "reason": "waiting_for_gpu",
    "detail": "1 GPUs are needed; held by api, whose turn ends in 42 s.",
    "facts": {"held_by": ["api"], "needed": 1, "until_in_s": 42.0},
    "remedy": "It goes on when a holder's turn ends.",
}


START = {
    "worker_id": "wk_1",
    "revision": "3f2a1b0c9d8e",
    "ready_at": documents.ago(minutes=3),
    "why": "concurrency",
    "wanted": "1 request waited. Rule: concurrency.",
    "total_ms": 4210.5,
    "usual_ms": 1210.0,
    "wait_ms": 0.2,
    "evict_ms": 0.0,
    "pull_ms": 0.0,
    "reserve_ms": 1.3,
    "create_ms": 22.0,
    "engine_start_ms": 187.0,
    "listen_ms": 4000.0,
    "ready_ms": 0.0,
    "first_byte_ms": 12.0,
    "slower": {
        "culprit": "listen",
        "culprit_ms": 4000.0,
        "culprit_usual_ms": 1000.0,
        "detail": "Slower than usual (1.21 s): listen took 4.00 s instead of 1.00 s.",
    },
}


@pytest.fixture(autouse=True)
def no_starts(daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints/llm/starts", {"items": [], "next": None})


def test_an_unmet_wish_is_told_with_its_reason_its_end_and_its_remedy(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    shown = documents.endpoint(scale_reason="queue_delay", waits=[WAIT], waiting=3)
    daemon.on("GET", "/v1/endpoints/llm", shown)
    ran = gpud("explain", "llm")
    assert ran.code == 0
    for words in ("3 waiting", "2 workers", "wait too long", "held by api", "Expected in 42", "turn ends"):
        assert words in ran.out


def test_a_pull_tells_how_far_it_is(gpud: Gpud, daemon: CannedDaemon) -> None:
    known = {"bytes_done": 1 << 29, "bytes_total": 1 << 30}
    wait = {"reason": "image_pulling", "detail": "Pulling a/b.", "facts": known, "remedy": "It goes on."}
    daemon.on("GET", "/v1/endpoints/llm", documents.endpoint(waits=[wait]))
    assert "are here" in gpud("explain", "llm").out


def test_an_endpoint_that_waits_for_nothing_says_so(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints/llm", documents.endpoint())
    assert "nothing" in gpud("explain", "llm").out


def test_the_json_holds_the_decision_and_its_waits(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints/llm", documents.endpoint(waits=[WAIT]))
    shown = json.loads(gpud("explain", "llm", "--json").out)
    assert shown["waits"] == [WAIT]
    assert set(shown) == {
        "name",
        "condition",
        "desired",
        "scale_reason",
        "waits",
        "window",
        "forecast",
        "last_start",
    }


def test_the_last_start_is_told_by_phase_with_what_was_slow(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints/llm", documents.endpoint())
    daemon.on("GET", "/v1/endpoints/llm/starts", {"items": [START], "next": None})
    out = gpud("explain", "llm").out
    for words in ("usually 1", "engine start 187 ms", "first byte 12 ms", "listen took 4.00 s instead"):
        assert words in out
    assert "Woken by: 1 request waited. Rule: concurrency." in out
    assert "evict" not in out, "a phase that took no time is left out"


def test_starts_are_listed_with_their_culprits(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints/llm/starts", {"items": [START, START | {"slower": None}], "next": None})
    ran = gpud("endpoint", "starts", "llm")
    assert ran.code == 0
    assert "The last start: Slower than usual" in ran.out
    assert "187 ms" in ran.out
    assert ran.out.count("1 request waited. Rule: concurrency.") == 2
    assert len(json.loads(gpud("endpoint", "starts", "llm", "--json").out)["items"]) == 2


def test_an_endpoint_that_never_started_says_so(gpud: Gpud) -> None:
    ran = gpud("endpoint", "starts", "llm")
    assert (ran.code, ran.out) == (0, "")
    assert "has started yet" in ran.err


def test_every_reason_for_a_number_of_workers_has_its_words(gpud: Gpud, daemon: CannedDaemon) -> None:
    for reason in ScaleReason:
        daemon.on("GET", "/v1/endpoints/llm", documents.endpoint(scale_reason=reason.value))
        assert f"workers: {reason.value}\n" not in gpud("explain", "llm").out


def test_an_open_window_and_what_a_forecast_would_have_done_are_told(
    gpud: Gpud, daemon: CannedDaemon
) -> None:
    window = {"window": "0 8 * * * for 3600 s (UTC)", "workers": 2, "changes_at": "2026-11-22T09:00:00.000Z"}
    forecast = {
        "gaps": 90,
        "ready_after_s": 3480.0,
        "until_s": 3780.0,
        "forecasts": 70,
        "hits": 60,
        "cold_starts_saved": 55,
        "cold_starts_added": 3,
        "gpu_s_cost": 7200.0,
        "gpu_s_saved": 600.0,
    }
    daemon.on("GET", "/v1/endpoints/llm", documents.endpoint(window=window, forecast=forecast))
    told = gpud("explain", "llm").out
    for words in (
        "2 kept until 2026-11-22T09:00",
        "70 gaps",
        "saved 55 cold starts and added 3",
        "Nothing acts",
    ):
        assert words in told


def test_without_windows_and_forecasts_nothing_is_said_of_them(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("GET", "/v1/endpoints/llm", documents.endpoint())
    told = gpud("explain", "llm").out
    assert "Window" not in told
    assert "Forecast" not in told

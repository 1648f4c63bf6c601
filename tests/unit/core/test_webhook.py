from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.events import RECORDED
from gpud.core.webhook import (
    DISABLE_AFTER_MS,
    PAYLOAD_BYTES_MAX,
    RUNPOD_SCHEDULE_S,
    SCHEDULE_S,
    CallOutcome,
    DeliveryState,
    WebhookFormat,
    WebhookHealth,
    WebhookMessage,
    WebhookType,
    after_call,
    destination_of,
    disabled_for,
    events_told,
    is_hopeless,
    message_id,
    retry_after_s,
    slots,
    standard_body,
    type_fault,
    type_of_event,
    verdict_on,
    wait_s,
    wants,
)

NOW_MS = 1_763_730_000_000
DOWN = CallOutcome(error="refused")
fractions = st.floats(min_value=0, max_value=1, exclude_max=True)


def message(**changes: object) -> WebhookMessage:
    whole: dict[str, object] = {
        "kind": WebhookType.WORKER_FAILED,
        "subject": "event 7",
        "at_ms": NOW_MS,
        "data": {"cause": "exited"},
    }
    return WebhookMessage(**(whole | changes))  # type: ignore[arg-type]


@given(tries=st.integers(1, 20), jitter=fractions)
def test_tries_follow_the_schedule_within_a_fifth_and_then_end(tries: int, jitter: float) -> None:
    verdict = verdict_on(DOWN, spelling=WebhookFormat.STANDARD, tries=tries, at_ms=NOW_MS, jitter=jitter)
    if tries >= len(SCHEDULE_S):
        assert verdict.state is DeliveryState.FAILED
    else:
        assert verdict.state is DeliveryState.WAITING
        assert 0.8 * SCHEDULE_S[tries] <= verdict.delay_s <= 1.2 * SCHEDULE_S[tries]
    assert not verdict.disable


def test_the_whole_schedule_takes_three_days() -> None:
    assert 3 * 86_400 < sum(SCHEDULE_S) < 3.5 * 86_400
    assert SCHEDULE_S[0] == 0


@given(status=st.integers(200, 299), tries=st.integers(1, 20), jitter=fractions)
def test_every_2xx_ends_it_well(status: int, tries: int, jitter: float) -> None:
    for spelling in WebhookFormat:
        verdict = verdict_on(
            CallOutcome(status=status), spelling=spelling, tries=tries, at_ms=NOW_MS, jitter=jitter
        )
        assert verdict.state is DeliveryState.DELIVERED


@given(status=st.integers(0, 599).filter(lambda s: not 200 <= s < 300 and s != 410), jitter=fractions)
def test_everything_else_is_tried_again_redirects_included(status: int, jitter: float) -> None:
    outcome = CallOutcome(status=status)
    verdict = verdict_on(outcome, spelling=WebhookFormat.STANDARD, tries=1, at_ms=NOW_MS, jitter=jitter)
    assert verdict.state is DeliveryState.WAITING


def test_gone_disables_at_the_first_try() -> None:
    verdict = verdict_on(
        CallOutcome(status=410), spelling=WebhookFormat.STANDARD, tries=1, at_ms=NOW_MS, jitter=0.5
    )
    assert verdict.state is DeliveryState.FAILED
    assert disabled_for(verdict, WebhookHealth(), at_ms=NOW_MS)


@given(seconds=st.integers(0, 10**8), tries=st.integers(1, len(SCHEDULE_S) - 1), jitter=fractions)
def test_retry_after_wins_up_to_a_day(seconds: int, tries: int, jitter: float) -> None:
    outcome = CallOutcome(status=503, retry_after=str(seconds))
    verdict = verdict_on(outcome, spelling=WebhookFormat.STANDARD, tries=tries, at_ms=NOW_MS, jitter=jitter)
    assert verdict.delay_s == min(max(seconds, 1), 86_400)


def test_retry_after_may_be_a_date() -> None:
    assert retry_after_s("Fri, 21 Nov 2025 13:01:00 GMT", at_ms=NOW_MS) == 60
    assert retry_after_s("Fri, 21 Nov 2024 13:01:00 GMT", at_ms=NOW_MS) == 1


@given(header=st.text(max_size=40))
def test_no_retry_after_breaks_the_schedule(header: str) -> None:
    wished_s = retry_after_s(header, at_ms=NOW_MS)
    assert wished_s is None or 1 <= wished_s <= 86_400


def test_runpods_format_has_three_tries_ten_seconds_apart() -> None:
    outcome = CallOutcome(status=500, retry_after="3600")
    verdicts = [
        verdict_on(outcome, spelling=WebhookFormat.RUNPOD, tries=tries, at_ms=NOW_MS, jitter=0.9)
        for tries in range(1, len(RUNPOD_SCHEDULE_S) + 1)
    ]
    assert [(one.state, one.delay_s) for one in verdicts] == [
        (DeliveryState.WAITING, 10.0),
        (DeliveryState.WAITING, 10.0),
        (DeliveryState.FAILED, 0.0),
    ]


def test_five_days_of_nothing_but_failure_disable() -> None:
    health = WebhookHealth()
    for at_ms in range(NOW_MS, NOW_MS + DISABLE_AFTER_MS, 3_600_000):
        health = after_call(health, good=False, at_ms=at_ms)
        assert not is_hopeless(health, at_ms=at_ms)
    assert is_hopeless(health, at_ms=NOW_MS + DISABLE_AFTER_MS)
    assert not is_hopeless(after_call(health, good=True, at_ms=NOW_MS), at_ms=NOW_MS + DISABLE_AFTER_MS)


def test_a_clock_set_a_year_forward_disables_nothing() -> None:
    health = after_call(WebhookHealth(), good=False, at_ms=NOW_MS)
    a_year_on_ms = NOW_MS + 365 * 86_400_000
    health = after_call(health, good=False, at_ms=a_year_on_ms)
    assert not is_hopeless(health, at_ms=a_year_on_ms)


@given(next_at_ms=st.integers(), delay_ms=st.integers(0, 10**8), now_ms=st.integers())
def test_nothing_puts_a_delivery_off_beyond_what_was_decided(
    next_at_ms: int, delay_ms: int, now_ms: int
) -> None:
    assert 0 <= wait_s(next_at_ms=next_at_ms, delay_ms=delay_ms, now_ms=now_ms) <= delay_ms / 1000


def test_a_destination_in_trouble_keeps_one_call_open() -> None:
    assert [slots(failures_in_a_row=n) for n in range(5)] == [4, 4, 4, 1, 1]


def test_an_id_is_the_same_each_time_and_differs_by_webhook_and_message() -> None:
    assert message_id("whk_a", message()) == message_id("whk_a", message(data={}))
    ids = {
        message_id("whk_a", message()),
        message_id("whk_b", message()),
        message_id("whk_a", message(subject="event 8")),
        message_id("whk_a", message(kind=WebhookType.JOB_FAILED)),
    }
    assert len(ids) == 4


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L"]), min_size=1, max_size=8).filter(
            lambda name: name != "omitted"
        ),
        st.integers(1, 60_000).map("x".__mul__),
        max_size=6,
    )
)
def test_a_body_has_type_time_and_data_and_stays_below_its_bound(data: dict[str, str]) -> None:
    body = standard_body(message(data=data, endpoint="llm", sequence=7), "2026-11-21T14:00:00.000Z")
    assert len(body) <= PAYLOAD_BYTES_MAX
    spoken = json.loads(body)
    assert (spoken["type"], spoken["timestamp"]) == ("worker.failed", "2026-11-21T14:00:00.000Z")
    omitted = spoken["data"].pop("omitted", [])
    assert {"sequence", "endpoint"} | set(data) == set(spoken["data"]) | set(omitted)
    assert all(spoken["data"][name] == data[name] for name in data if name not in omitted)


@pytest.mark.parametrize(
    ("kind", "facts", "expected"),
    [
        ("worker.failed", {}, "worker.failed"),
        ("endpoint.scaled", {}, "endpoint.scaled"),
        ("endpoint.circuit_opened", {}, "endpoint.circuit_open"),
        ("gpu.health_changed", {"health": "unhealthy"}, "gpu.unhealthy"),
        ("gpu.health_changed", {"health": "healthy"}, None),
        ("rollout.rolled_back", {}, "endpoint.rolled_back"),
        ("worker.ready", {}, None),
        ("webhook.disabled", {}, None),
    ],
)
def test_some_events_call_out(kind: str, facts: dict[str, object], expected: str | None) -> None:
    assert kind in RECORDED
    assert type_of_event(kind, facts) == expected


def test_every_type_that_may_be_subscribed_to_is_told_by_something() -> None:
    told = events_told()
    assert set(told) <= set(RECORDED)
    jobs = {kind for kind in WebhookType if kind.startswith("job.")}
    assert set(told.values()) | jobs | {WebhookType.WEBHOOK_TEST} == set(WebhookType)


@pytest.mark.parametrize(
    ("patterns", "kind", "expected"),
    [
        (["*"], WebhookType.JOB_DEAD, True),
        (["job.*"], WebhookType.JOB_DEAD, True),
        (["job.*"], WebhookType.WORKER_FAILED, False),
        (["worker.failed"], WebhookType.WORKER_FAILED, True),
        (["job.completed"], WebhookType.WEBHOOK_TEST, True),
        ([], WebhookType.JOB_DEAD, False),
    ],
)
def test_types_are_wanted_singly_by_family_or_all(
    patterns: list[str], kind: WebhookType, expected: bool
) -> None:
    assert wants(patterns, kind) is expected


def test_unknown_types_are_refused_by_name() -> None:
    assert not type_fault("job.*")
    assert not type_fault("gpu.unhealthy")
    for wrong in ("", "jobs.*", "job", "worker.failed "):
        assert "job.*" in type_fault(wrong)


def test_a_destination_is_scheme_host_and_port() -> None:
    assert destination_of("https://App.example:8443/a/b?c=d") == "https://app.example:8443"
    assert destination_of("https://app.example?x=/y") == "https://app.example"

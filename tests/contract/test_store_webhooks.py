"""What the store promises of webhooks: the outbox is written with what it tells of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.records import EventRecorded, HeartbeatWritten, WorkerMoved
from gpud.core.webhook import (
    JOBS,
    CallOutcome,
    DeliveryState,
    Verdict,
    WebhookFormat,
    WebhookMessage,
    WebhookType,
    message_id,
)
from gpud.errors import InvariantBroken
from gpud.ports.webhooks import Webhook
from tests.contract.store_rig import KINDS, MS, HandClock, Life, S, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store

HOOK = Webhook(
    id="whk_aaaaaaaaaaaaaaaa",
    url="https://app.example/hooks",
    types=("worker.*",),
    created_at_ms=5,
)
FAILED = EventRecorded(
    kind="worker.failed", at_ms=1_763_730_000_123, endpoint="llm", worker_id="wk_1", facts={"cause": "exited"}
)
DAY_MS = 86_400_000


STEPS_S = (0, 31_536_000, -31_536_000)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, clock) as store:
        yield store


def spelled_out(folder: Path) -> list[Path]:
    """Files in which a secret stands in the clear."""
    return [path for path in folder.rglob("*") if path.is_file() and b"whsec_" in path.read_bytes()]


async def waiting(store: Store, hook: Webhook = HOOK) -> list[str]:
    return [one.id for one in await store.webhooks.deliveries(hook.id, state="waiting")]


async def test_an_event_and_its_calls_are_one_transaction(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    told: list[bool] = []
    store.webhooks.on_put(lambda: told.append(True))
    await store.fleet.record([FAILED])
    assert told == [True]
    (destination, next_at_ms, delay_ms), *rest = await store.webhooks.due()
    assert (destination, next_at_ms, delay_ms, rest) == (
        "https://app.example",
        store.webhooks.now_ms(),
        0,
        [],
    )
    (delivery,) = await store.webhooks.take(destination, limit=10)
    body = json.loads(delivery.body)
    assert body["type"] == "worker.failed"
    assert body["timestamp"] == "2025-11-21T13:00:00.123Z"
    assert body["data"] == {
        "sequence": 1,
        "cause": "exited",
        "event": "worker.failed",
        "worker_id": "wk_1",
        "endpoint": "llm",
    }


async def test_a_change_that_is_refused_leaves_no_call(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    life = await Life(store, HandClock(), 1).begin()
    stale = WorkerMoved(
        worker=life.worker, from_state=life.worker.state, from_generation=life.worker.generation + 7
    )
    with pytest.raises(InvariantBroken):
        await store.fleet.record([FAILED, stale])
    assert await store.webhooks.due() == ()


async def test_only_those_who_want_it_are_told(store: Store) -> None:
    elsewhere = replace(HOOK, id="whk_b", endpoint="other")
    other_types = replace(HOOK, id="whk_c", types=("job.*",))
    of_endpoint = replace(HOOK, id="whk_d", endpoint="llm", types=("*",))
    for hook in (HOOK, elsewhere, other_types, of_endpoint):
        await store.webhooks.add(hook, "whsec_a")
    await store.fleet.record([FAILED])
    assert [len(await waiting(store, hook)) for hook in (HOOK, elsewhere, other_types, of_endpoint)] == [
        1,
        0,
        0,
        1,
    ]


async def test_putting_a_message_twice_adds_nothing(store: Store) -> None:
    await store.webhooks.add(replace(HOOK, types=("*",)), "whsec_a")
    message = WebhookMessage(
        kind=WebhookType.JOB_COMPLETED, subject="job_1", at_ms=5, data={}, job_url="https://other.example/x"
    )
    assert await store.webhooks.put(message) == 2
    assert await store.webhooks.put(message) == 0
    (of_job,) = await store.webhooks.deliveries(JOBS)
    assert (of_job.id, of_job.url) == (message_id(JOBS, message), "https://other.example/x")


async def test_a_jobs_address_may_be_called_as_runpod_does(store: Store) -> None:
    message = WebhookMessage(
        kind=WebhookType.JOB_FAILED,
        subject="job_1",
        at_ms=5,
        data={"x": 1},
        job_url="https://other.example/x",
        job_format=WebhookFormat.RUNPOD,
        runpod_body=b'{"id":"job_1"}',
    )
    await store.webhooks.put(message)
    (delivery,) = await store.webhooks.take("https://other.example", limit=5)
    assert (delivery.format, delivery.body) == (WebhookFormat.RUNPOD, b'{"id":"job_1"}')


async def test_a_try_is_logged_and_the_next_one_is_due_when_it_was_decided(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED])
    (delivery,) = await store.webhooks.take("https://app.example", limit=1)
    again = Verdict(state=DeliveryState.WAITING, delay_s=30.0)
    first = CallOutcome(status=500, error="Answered 500.", answer=b"no", took_ms=7)
    await store.webhooks.settle(delivery, first, again, at_ms=1000)
    due_ms = store.webhooks.now_ms() + 30_000
    assert await store.webhooks.due() == (("https://app.example", due_ms, 30_000),)
    after = await store.webhooks.delivery(HOOK.id, delivery.id)
    assert after is not None
    assert (after.attempts, after.tries, after.body) == (1, 1, delivery.body)
    done = Verdict(state=DeliveryState.DELIVERED)
    await store.webhooks.settle(after, CallOutcome(status=204, answer=b"ok"), done, at_ms=2000)
    assert await store.webhooks.due() == ()
    log = await store.webhooks.attempts(delivery.id)
    assert [(one.number, one.status, one.answer) for one in log] == [(1, 500, b""), (2, 204, b"ok")]


async def test_settling_what_was_settled_already_changes_nothing(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED])
    (delivery,) = await store.webhooks.take("https://app.example", limit=1)
    done = Verdict(state=DeliveryState.DELIVERED)
    await store.webhooks.settle(delivery, CallOutcome(status=200), done, at_ms=1000)
    await store.webhooks.settle(
        delivery, CallOutcome(), Verdict(state=DeliveryState.WAITING, delay_s=1), at_ms=1
    )
    (after,) = await store.webhooks.deliveries(HOOK.id)
    assert (after.state, after.attempts) == (DeliveryState.DELIVERED, 1)


async def test_gone_disables_drops_what_waits_and_records_an_event(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED, FAILED])
    (delivery, _) = await store.webhooks.take("https://app.example", limit=2)
    gone = Verdict(state=DeliveryState.FAILED, disable=True)
    assert await store.webhooks.settle(delivery, CallOutcome(status=410), gone, at_ms=9)
    assert await waiting(store) == []
    hook = await store.webhooks.webhook(HOOK.id)
    assert hook is not None
    assert "410" in hook.disabled_reason
    assert [row.kind for row in await store.reads.list_events()][-1] == "webhook.disabled"
    await store.fleet.record([FAILED])
    assert await waiting(store) == [], "a disabled one is not called"
    assert await store.webhooks.change(replace(hook, disabled_reason=""))
    assert await store.webhooks.replay(HOOK.id, since_ms=0, until_ms=1 << 60, every=False) == 3


@pytest.mark.parametrize("wall_step_s", STEPS_S)
async def test_failing_for_five_days_disables(store: Store, clock: HandClock, wall_step_s: int) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED])
    again = Verdict(state=DeliveryState.WAITING, delay_s=1.0)
    reasons = []
    for half_day in range(12):
        (delivery,) = await store.webhooks.take("https://app.example", limit=1) or (None,)
        if delivery is None:
            break
        clock.wall += (half_day == 5) * wall_step_s * S
        reasons.append(await store.webhooks.settle(delivery, CallOutcome(), again, at_ms=clock.at_ms()))
        clock.advance(DAY_MS // 2 * MS)
    assert [bool(reason) for reason in reasons] == [False] * 10 + [True]


async def test_secrets_are_encrypted_and_overlap_after_a_rotation(
    store: Store, clock: HandClock, tmp_path: Path
) -> None:
    await store.webhooks.add(HOOK, "whsec_first")
    assert await store.webhooks.secrets(HOOK.id) == ("whsec_first",)
    until_ms = store.webhooks.now_ms() + 100
    assert await store.webhooks.rotate(HOOK.id, "whsec_second", old_until_ms=until_ms, at_ms=0)
    clock.advance(99 * MS)
    assert await store.webhooks.secrets(HOOK.id) == ("whsec_second", "whsec_first")
    clock.advance(MS)
    assert await store.webhooks.secrets(HOOK.id) == ("whsec_second",)
    assert not await store.webhooks.rotate("whk_none", "whsec_x", old_until_ms=1, at_ms=0)
    assert not spelled_out(tmp_path)


async def test_the_signer_of_jobs_is_made_when_it_is_first_asked_for(store: Store) -> None:
    assert await store.webhooks.secrets(JOBS) == ()
    assert await store.webhooks.rotate(JOBS, "whsec_jobs", old_until_ms=0, at_ms=0)
    assert await store.webhooks.secrets(JOBS) == ("whsec_jobs",)
    assert await store.webhooks.webhooks() == ()


async def test_a_delivery_is_sent_again_with_the_same_id_and_body(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED])
    (delivery,) = await store.webhooks.take("https://app.example", limit=1)
    done = Verdict(state=DeliveryState.DELIVERED)
    await store.webhooks.settle(delivery, CallOutcome(status=200), done, at_ms=9)
    assert await store.webhooks.redeliver(HOOK.id, delivery.id)
    assert not await store.webhooks.redeliver("whk_other", delivery.id)
    (again,) = await store.webhooks.take("https://app.example", limit=1)
    assert (again.id, again.body, again.tries, again.attempts) == (delivery.id, delivery.body, 0, 1)


async def test_deleting_a_webhook_takes_its_deliveries_along(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED])
    assert await store.webhooks.delete(HOOK.id)
    assert not await store.webhooks.delete(HOOK.id)
    assert await store.webhooks.due() == ()


async def test_ended_deliveries_are_forgotten_and_waiting_ones_never(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED, FAILED])
    (ended, _) = await store.webhooks.take("https://app.example", limit=2)
    await store.webhooks.settle(
        ended, CallOutcome(status=200), Verdict(state=DeliveryState.DELIVERED), at_ms=9
    )
    assert await store.webhooks.forget(before_ms=store.webhooks.now_ms()) == 0
    assert await store.webhooks.forget(before_ms=store.webhooks.now_ms() + 1) == 1
    assert await store.webhooks.attempts(ended.id) == []
    assert len(await waiting(store)) == 1


async def test_pages_of_deliveries_leave_none_out(store: Store) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([replace(FAILED, at_ms=1000 + n // 2) for n in range(9)])
    seen: list[str] = []
    before = (0, "")
    while page := await store.webhooks.deliveries(HOOK.id, before=before, limit=2):
        seen += [one.id for one in page]
        before = (page[-1].created_at_ms, page[-1].id)
    assert len(seen) == len(set(seen)) == 9


async def test_the_schedule_is_kept_over_a_restart(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened("file", tmp_path, clock) as store:
        await store.webhooks.add(HOOK, "whsec_a")
        await store.fleet.record([FAILED])
        (delivery,) = await store.webhooks.take("https://app.example", limit=1)
        again = Verdict(state=DeliveryState.WAITING, delay_s=300.0)
        await store.webhooks.settle(delivery, CallOutcome(status=500), again, at_ms=1000)
        due_ms = store.webhooks.now_ms() + 300_000
    clock.advance(7 * S)
    async with opened("file", tmp_path, clock) as store:
        assert store.webhooks.now_ms() == due_ms - 293_000
        assert await store.webhooks.due() == (("https://app.example", due_ms, 300_000),)
        assert await store.webhooks.secrets(HOOK.id) == ("whsec_a",)


@pytest.mark.parametrize("wall_step_s", STEPS_S)
async def test_no_step_of_the_wall_clock_puts_a_try_off_or_a_message_behind_another(
    store: Store, clock: HandClock, wall_step_s: int
) -> None:
    await store.webhooks.add(HOOK, "whsec_a")
    await store.fleet.record([FAILED])
    (first,) = await store.webhooks.take("https://app.example", limit=1)
    again = Verdict(state=DeliveryState.WAITING, delay_s=30.0)
    await store.webhooks.settle(first, CallOutcome(status=500), again, at_ms=clock.at_ms())
    clock.wall += wall_step_s * S
    clock.advance(30 * S)
    assert await store.webhooks.due() == (("https://app.example", store.webhooks.now_ms(), 30_000),)
    clock.advance(S)
    await store.fleet.record([replace(FAILED, at_ms=clock.at_ms())])
    assert (await store.webhooks.take("https://app.example", limit=1))[0].id == first.id


@pytest.mark.parametrize("wall_step_s", STEPS_S)
async def test_over_a_reboot_a_try_waits_no_longer_than_was_decided(tmp_path: Path, wall_step_s: int) -> None:
    clock = HandClock()
    async with opened("file", tmp_path, clock) as store:
        await store.webhooks.add(HOOK, "whsec_a")
        await store.fleet.record([FAILED])
        clock.advance(DAY_MS * MS)
        (delivery,) = await store.webhooks.take("https://app.example", limit=1)
        again = Verdict(state=DeliveryState.WAITING, delay_s=300.0)
        await store.webhooks.settle(delivery, CallOutcome(status=500), again, at_ms=clock.at_ms())
    clock.boot_id, clock.boot, clock.wall = "boot-2", 5 * S, clock.wall + wall_step_s * S
    async with opened("file", tmp_path, clock) as store:
        ((_, due_ms, delay_ms),) = await store.webhooks.due()
        assert due_ms - store.webhooks.now_ms() <= delay_ms == 300_000


async def test_a_boot_begins_no_earlier_than_the_one_before_was_last_alive(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened("file", tmp_path, clock) as store:
        began_ms = store.webhooks.now_ms()
        clock.advance(DAY_MS * MS)
        beat = HeartbeatWritten(boot_id=clock.boot_id, boot_ns=clock.boot, wall_ms=clock.at_ms())
        await store.fleet.record([beat])
    clock.boot_id, clock.boot, clock.wall = "boot-2", 5 * S, 0
    async with opened("file", tmp_path, clock) as store:
        assert store.webhooks.now_ms() == began_ms + DAY_MS

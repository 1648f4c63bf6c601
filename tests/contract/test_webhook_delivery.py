"""Webhooks as receivers see them: real sockets, the real store, signatures checked by the library."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from gpud.adapters.sqlite.store import memory_database, open_inline_store, open_store
from gpud.adapters.system import SystemClock, SystemIds
from gpud.adapters.webhook_sender import WebhookSender, own_addresses
from gpud.adapters.webhook_signer import StandardSigner
from gpud.core import webhook as rules
from gpud.core.records import EventRecorded
from gpud.core.webhook import JOBS, DeliveryState, WebhookFormat, WebhookMessage, WebhookType
from gpud.core.webhook_guard import GuardRules
from gpud.errors import InvalidRequest
from gpud.webhooks.control import WebhookControl
from gpud.webhooks.dispatcher import WebhookDispatcher
from tests.contract.receivers import LOOPBACK, Names, Receiver, certificate, receiving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store
    from gpud.ports.webhooks import Attempt, Delivery

TO_LOOPBACK = [["127.0.0.1"]] * 50


@dataclass
class Site:
    """A store with a dispatcher at work on it."""

    store: Store
    control: WebhookControl
    sender: WebhookSender
    dispatcher: asyncio.Task[None]

    async def hook(self, url: str) -> tuple[str, str]:
        hook, secret = await self.control.create(url=url, types=["*"], endpoint="", description="")
        return hook.id, secret

    async def fail_a_worker(self, times: int = 1) -> None:
        at_ms = SystemClock().at_ms()
        event = EventRecorded(kind="worker.failed", at_ms=at_ms, worker_id="wk_1", facts={"cause": "exited"})
        await self.store.fleet.record([event] * times)

    async def settled(self, hook_id: str, *, attempts: int = 1) -> tuple[Delivery, Attempt]:
        """Wait until the newest delivery has had so many tries."""
        async with asyncio.timeout(20):
            while True:
                found = await self.store.webhooks.deliveries(hook_id, limit=1)
                if found and found[0].attempts >= attempts:
                    return found[0], (await self.store.webhooks.attempts(found[0].id))[-1]
                await asyncio.sleep(0.01)


@asynccontextmanager
async def at_work(
    *receivers: Receiver, store: Store | None = None, private: bool = False, **options: Any
) -> AsyncIterator[Site]:
    """Run a dispatcher that may call these receivers on loopback over plain http."""
    async with AsyncExitStack() as stack:
        clock, ids = SystemClock(), SystemIds()
        if store is None:
            database = memory_database()
            stack.callback(database.close)
            store = await open_inline_store(database, clock)
            stack.push_async_callback(store.close)
        guard = GuardRules(
            http_hosts=frozenset({"127.0.0.1", "app.example", "dead.example"}),
            networks=() if private else (LOOPBACK,),
            ports=frozenset({443, *(one.port for one in receivers)}),
        )
        sender = WebhookSender(guard, clock, **options)
        stack.push_async_callback(sender.close)
        parts: dict[str, Any] = {
            "store": store.webhooks,
            "sender": sender,
            "signer": StandardSigner(),
            "clock": clock,
            "ids": ids,
        }
        dispatcher = WebhookDispatcher(**parts, retention_s=86_400)
        task = asyncio.create_task(dispatcher.run())
        try:
            yield Site(store=store, control=WebhookControl(**parts), sender=sender, dispatcher=task)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_receiver_verifies_with_the_library_over_tls_by_its_own_name(tmp_path: Path) -> None:
    its_tls, our_tls = certificate("app.example", tmp_path)
    names = Names(app_example=TO_LOOPBACK)
    async with (
        receiving(Receiver(), its_tls) as receiver,
        at_work(receiver, resolver=names, tls=our_tls) as site,
    ):
        hook_id, secret = await site.hook(f"https://app.example:{receiver.port}/hooks?a=b")
        await site.fail_a_worker()
        ((headers, body),) = await receiver.calls(1)
        said = Webhook(secret).verify(body, headers)
        assert (said["type"], said["data"]["worker_id"]) == ("worker.failed", "wk_1")
        assert headers["host"] == f"app.example:{receiver.port}"
        assert headers["content-type"] == "application/json"
        delivery, attempt = await site.settled(hook_id)
        assert (delivery.state, delivery.id, attempt.status) == (
            DeliveryState.DELIVERED,
            headers["webhook-id"],
            204,
        )
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body.replace(b"wk_1", b"wk_2"), headers)


async def test_a_certificate_of_another_name_is_not_taken(tmp_path: Path) -> None:
    its_tls, our_tls = certificate("other.example", tmp_path)
    async with (
        receiving(Receiver(), its_tls) as receiver,
        at_work(receiver, resolver=Names(app_example=TO_LOOPBACK), tls=our_tls) as site,
    ):
        hook_id, _ = await site.hook(f"https://app.example:{receiver.port}/")
        await site.fail_a_worker()
        _, attempt = await site.settled(hook_id)
        assert attempt.status == 0
        assert "certificate" in attempt.error.lower()
        assert receiver.got == []


async def test_a_retry_repeats_body_and_id_and_signs_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SCHEDULE_S", (0.0, 0.05, 0.05))
    async with receiving(Receiver(status=500, body=b"oh no")) as receiver, at_work(receiver) as site:
        hook_id, secret = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        await site.fail_a_worker()
        calls = await receiver.calls(3)
        assert len({body for _, body in calls}) == 1
        assert len({headers["webhook-id"] for headers, _ in calls}) == 1
        for headers, body in calls:
            Webhook(secret).verify(body, headers)
        delivery, attempt = await site.settled(hook_id, attempts=3)
        assert (delivery.state, attempt.answer, attempt.error) == (
            DeliveryState.FAILED,
            b"oh no",
            "Answered 500.",
        )
        receiver.status = 200
        await site.control.redeliver(hook_id, delivery.id)
        after, _ = await site.settled(hook_id, attempts=4)
        assert after.state is DeliveryState.DELIVERED
        assert receiver.got[-1][1] == calls[0][1]


async def test_retry_after_is_heeded() -> None:
    busy = Receiver(status=503, headers={"Retry-After": "7200"})
    async with receiving(busy) as receiver, at_work(receiver) as site:
        hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        await site.fail_a_worker()
        delivery, _ = await site.settled(hook_id)
        assert (delivery.state, delivery.delay_ms) == (DeliveryState.WAITING, 7_200_000)


async def test_gone_ends_it_for_good() -> None:
    async with receiving(Receiver(status=410)) as receiver, at_work(receiver) as site:
        hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        await site.fail_a_worker()
        await site.settled(hook_id)
        hook = await site.control.get(hook_id)
        assert "410" in hook.disabled_reason
        await site.fail_a_worker()
        assert len(receiver.got) == 1


async def test_redirects_are_not_followed() -> None:
    async with receiving(Receiver()) as secret_service:
        location = {"Location": f"http://127.0.0.1:{secret_service.port}/latest/meta-data"}
        async with (
            receiving(Receiver(status=307, headers=location)) as receiver,
            at_work(receiver, secret_service) as site,
        ):
            hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
            await site.fail_a_worker()
            delivery, attempt = await site.settled(hook_id)
            assert (delivery.state, attempt.status) == (DeliveryState.WAITING, 307)
            assert "redirects are not followed" in attempt.error
            assert secret_service.got == []


async def test_of_a_huge_answer_64_kib_are_kept() -> None:
    async with receiving(Receiver(status=500, body=b"x" * 8_000_000)) as receiver, at_work(receiver) as site:
        hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        await site.fail_a_worker()
        _, attempt = await site.settled(hook_id)
        assert attempt.answer == b"x" * 65_536


async def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = Receiver(status=500, headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b not gzip at all")
    async with receiving(bomb) as receiver, at_work(receiver) as site:
        hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        await site.fail_a_worker()
        _, attempt = await site.settled(hook_id)
        assert (attempt.status, attempt.answer) == (500, bomb.body)


async def test_a_slow_receiver_is_given_up_in_time() -> None:
    slow = Receiver()
    slow.go_on.clear()
    async with receiving(slow) as receiver, at_work(receiver, timeout_s=0.3) as site:
        hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        await site.fail_a_worker()
        delivery, attempt = await site.settled(hook_id)
        assert (delivery.state, attempt.status) == (DeliveryState.WAITING, 0)
        assert "No answer within" in attempt.error


async def test_a_dead_destination_holds_up_nobody_else_and_has_four_calls_open() -> None:
    dead = Receiver()
    dead.go_on.clear()
    names = Names(dead_example=TO_LOOPBACK)
    async with (
        receiving(dead),
        receiving(Receiver()) as well,
        at_work(dead, well, resolver=names) as site,
    ):
        await site.hook(f"http://dead.example:{dead.port}/")
        await site.fail_a_worker(times=12)
        await dead.calls(4)
        hook_id, _ = await site.hook(f"http://127.0.0.1:{well.port}/")
        await site.fail_a_worker(times=12)
        await well.calls(12)
        await site.settled(hook_id)
        assert dead.open_max == 4


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["10.0.0.7"],
        ["::ffff:127.0.0.1"],
        ["93.184.215.14", "192.168.0.1"],
    ],
)
async def test_a_name_that_leads_to_a_private_address_is_never_connected_to(addresses: list[str]) -> None:
    names = Names(app_example=[addresses] * 9)
    async with receiving(Receiver()) as receiver, at_work(receiver, private=True, resolver=names) as site:
        url = f"http://app.example:{receiver.port}/"
        with pytest.raises(InvalidRequest, match="leads to") as refused:
            await site.hook(url)
        assert refused.value.fields["url"]
        outcome = await site.sender.post(url, b"{}", {})
        assert outcome.status == 0
        assert outcome.error.startswith("Not called: app.example leads to")
        assert receiver.got == []


async def test_an_answer_that_changes_after_the_check_is_judged_again() -> None:
    names = Names(app_example=[["93.184.215.14"], ["127.0.0.1"], ["127.0.0.1"]])
    async with receiving(Receiver()) as receiver, at_work(receiver, private=True, resolver=names) as site:
        hook_id, _ = await site.hook(f"http://app.example:{receiver.port}/")
        await site.fail_a_worker()
        _, attempt = await site.settled(hook_id)
        assert attempt.error.startswith("Not called: app.example leads to 127.0.0.1")
        assert receiver.got == []


async def test_a_call_goes_to_the_address_that_was_judged_and_asks_no_second_time() -> None:
    names = Names(app_example=[["127.0.0.1"]])
    async with receiving(Receiver()) as receiver, at_work(receiver, resolver=names) as site:
        outcome = await site.sender.post(f"http://app.example:{receiver.port}/", b"{}", {})
        assert (outcome.status, names.asked) == (204, ["app.example"])


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@app.example/",
        "https://app.example:22/",
        "http://elsewhere.example/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://127.0.0.1\\@app.example/",
        "https://app.example /",
        "https:///hooks",
        "//app.example/",
        "gopher://app.example/",
        "not a url",
        "https://app.example/" + "x" * 2000,
        "https://app.example:99999/",
    ],
)
async def test_bad_addresses_are_refused_before_anything_is_asked(url: str) -> None:
    names = Names()
    async with at_work(private=True, resolver=names) as site:
        assert site.sender.url_fault(url)
        with pytest.raises(InvalidRequest):
            await site.hook(url)
        outcome = await site.sender.post(url, b"{}", {})
        assert outcome.status == 0
        assert names.asked == []


async def test_a_name_that_does_not_resolve_now_may_be_subscribed() -> None:
    async with at_work(resolver=Names()) as site:
        await site.hook("https://later.example/hooks")


async def test_a_proxy_in_the_environment_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(Receiver()) as proxy, receiving(Receiver()) as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        async with at_work(receiver) as site:
            outcome = await site.sender.post(f"http://127.0.0.1:{receiver.port}/", b"{}", {})
            assert outcome.status == 204
            assert proxy.got == []


async def test_both_secrets_sign_after_a_rotation() -> None:
    async with receiving(Receiver()) as receiver, at_work(receiver) as site:
        hook_id, old = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        _, new = await site.control.rotate(hook_id)
        await site.control.test(hook_id)
        ((headers, body),) = await receiver.calls(1)
        assert old != new
        for secret in (old, new):
            assert Webhook(secret).verify(body, headers)["type"] == "webhook.test"


async def test_a_jobs_address_is_signed_with_the_jobs_secret_or_called_as_runpod_does() -> None:
    async with receiving(Receiver()) as receiver, at_work(receiver) as site:
        job: dict[str, Any] = {"kind": WebhookType.JOB_COMPLETED, "at_ms": 1, "data": {"id": "job_1"}}
        url = f"http://127.0.0.1:{receiver.port}/done"
        await site.store.webhooks.put(WebhookMessage(subject="job_1", job_url=url, **job))
        await receiver.calls(1)
        _, secret = await site.control.rotate(JOBS)
        runpod: dict[str, Any] = {"job_format": WebhookFormat.RUNPOD, "runpod_body": b'{"id":"job_2"}'}
        await site.store.webhooks.put(WebhookMessage(subject="job_2", job_url=url, **runpod, **job))
        (_, (plain, plain_body)) = await receiver.calls(2)
        assert plain_body == b'{"id":"job_2"}'
        assert not [name for name in plain if name.startswith("webhook-")]
        await site.store.webhooks.put(WebhookMessage(subject="job_3", job_url=url, **job))
        headers, body = (await receiver.calls(3))[2]
        assert Webhook(secret).verify(body, headers)["data"]["id"] == "job_1"


async def test_what_was_under_way_at_a_crash_is_sent_again_by_the_next_daemon(tmp_path: Path) -> None:
    slow = Receiver()
    slow.go_on.clear()
    clock = SystemClock()
    async with receiving(slow) as receiver:
        store = await open_store(tmp_path / "data", clock)
        async with at_work(receiver, store=store) as site:
            hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
            await site.fail_a_worker()
            await receiver.calls(1)
        await store.close()
        slow.go_on.set()
        store = await open_store(tmp_path / "data", clock)
        async with at_work(receiver, store=store) as site:
            delivery, _ = await site.settled(hook_id)
            assert delivery.state is DeliveryState.DELIVERED
        await store.close()
        first, second = receiver.got
        assert (first[0]["webhook-id"], first[1]) == (second[0]["webhook-id"], second[1])


async def test_a_replay_sends_what_failed_and_all_of_it_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SCHEDULE_S", (0.0,))
    async with receiving(Receiver(status=500)) as receiver, at_work(receiver) as site:
        hook_id, _ = await site.hook(f"http://127.0.0.1:{receiver.port}/")
        await site.fail_a_worker()
        await site.settled(hook_id)
        receiver.status = 200
        assert await site.control.replay(hook_id, since_ms=0, until_ms=0, every=False) == 1
        await site.settled(hook_id, attempts=2)
        assert await site.control.replay(hook_id, since_ms=0, until_ms=0, every=False) == 0
        assert await site.control.replay(hook_id, since_ms=0, until_ms=0, every=True) == 1
        _, attempt = await site.settled(hook_id, attempts=3)
        assert attempt.status == 200
        assert json.loads(receiver.got[2][1]) == json.loads(receiver.got[0][1])


def test_the_machines_own_addresses_are_known() -> None:
    own = {str(address) for address in own_addresses()}
    assert "127.0.0.1" in own
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):
            probe.connect(("192.0.2.1", 9))
        here = probe.getsockname()[0]
    assert here in own | {"0.0.0.0"}  # noqa: S104 - a machine without a route has none

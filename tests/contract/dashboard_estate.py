"""What people keep on the box that the dashboard is tried on: images, webhooks, budgets, the audit log."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gpud.core.audit_log import AuditEntry, digest_of
from gpud.core.budget import BudgetPeriod
from gpud.core.records import EventRecorded
from gpud.core.webhook import CallOutcome, DeliveryState, Verdict
from gpud.money_settings import BudgetSettings, BudgetsSettings
from gpud.ports.images import LocalImage, PullProgress, RegistryCredential
from gpud.ports.webhooks import Webhook
from tests.contract.dashboard_world import GIB, HOSTILE, IMAGES

if TYPE_CHECKING:
    from tests.contract.api_site import ApiSite

_HOUR_MS = 3_600_000
PASSWORD = "never-to-be-shown"
HOOK = "whk_" + "a" * 16
OLD_HOOK = "whk_" + "b" * 16
ENTRIES = 130
"""In the audit log."""
BUDGETS = BudgetsSettings(
    limits=(
        BudgetSettings(endpoint="chat", per=BudgetPeriod.MONTH, gpu_s=180_000, warn_percent=(10, 80)),
        BudgetSettings(endpoint="whisper", per=BudgetPeriod.MONTH, micros=5_000_000),
        BudgetSettings(key="key_abcdefghijkl", per=BudgetPeriod.DAY, gpu_s=36_000),
    )
)


async def endow(site: ApiSite, odd: str = HOSTILE) -> None:
    """Put everything in; the endpoints are there already."""
    hostile = f" {odd}" if odd == HOSTILE else ""  # where no such text would come to stand by itself
    _images(site, hostile)
    credential = RegistryCredential(host="ghcr.io", username=f"robot{hostile}"[:60], password=PASSWORD)
    await site.store.access.put_registry("ghcr", credential, site.clock.at_ms() - 90 * _HOUR_MS)
    await _webhooks(site, odd, hostile)
    await _audit_log(site, odd)


def _images(site: ApiSite, hostile: str) -> None:
    now_ms = site.clock.at_ms()
    names = [*IMAGES.values(), "team/old:7", f"mine:1{hostile}"]
    for number, name in enumerate(names):
        digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        deployed = [one for one in site.control.deployed.values() if one.spec.image == name]
        pins = (digest, deployed[0].image.pin if deployed else f"{name.partition(':')[0]}@{digest}")
        site.control.local_images[pins[-1]] = LocalImage(
            id=digest,
            pins=pins,
            references=() if name == "team/old:7" else (name,),
            size_bytes=(3 + 2 * number) * GIB,
            created_at_ms=now_ms - (400 - 40 * number) * _HOUR_MS,
            used_at_ms=None if number == len(names) - 1 else now_ms - number * 30 * _HOUR_MS,
        )
    pin = f"nvcr.io/nvidia/tritonserver@sha256:{hashlib.sha256(b'triton').hexdigest()}"
    site.control.running_pulls[pin] = PullProgress(
        layers=22, layers_done=9, bytes_total=14 * GIB, bytes_done=6 * GIB
    )


async def _webhooks(site: ApiSite, odd: str, hostile: str) -> None:
    now_ms, store = site.clock.at_ms(), site.store.webhooks
    await store.add(
        Webhook(
            id=HOOK,
            url="https://app.example/hooks",
            types=("worker.failed", "budget.threshold"),
            description=f"for those on call{hostile}",
            created_at_ms=now_ms - 300 * _HOUR_MS,
        ),
        "whsec_" + "A" * 43,
    )
    await store.add(
        Webhook(
            id=OLD_HOOK,
            url="https://old.example/hooks",
            types=("job.*",),
            endpoint="chat",
            disabled_reason="Its receiver answered 410: it wants nothing more.",
            created_at_ms=now_ms - 900 * _HOUR_MS,
        ),
        "whsec_" + "B" * 43,
    )
    for number in range(4):
        failed = EventRecorded(
            kind="worker.failed",
            at_ms=now_ms - (4 - number) * 60_000,
            endpoint="broken",
            worker_id=f"wk_{number:016d}",
            facts={"cause": "exited", "detail": odd},
        )
        await site.store.fleet.record([failed])
    delivered, failed_one, waits, _ = await store.take("https://app.example", limit=4)
    done = Verdict(state=DeliveryState.DELIVERED)
    await store.settle(delivered, CallOutcome(status=204, took_ms=38), done, at_ms=store.now_ms())
    refused = CallOutcome(status=500, error="It answered 500.", answer=odd.encode(), took_ms=112)
    for verdict in (Verdict(state=DeliveryState.WAITING, delay_s=5), Verdict(state=DeliveryState.FAILED)):
        present = await store.delivery(HOOK, failed_one.id)
        assert present is not None
        await store.settle(present, refused, verdict, at_ms=store.now_ms())
    unanswered = CallOutcome(error="There was no answer within 10 s.", took_ms=10_000)
    again = Verdict(state=DeliveryState.WAITING, delay_s=300)
    await store.settle(waits, unanswered, again, at_ms=store.now_ms())


async def _audit_log(site: ApiSite, odd: str) -> None:
    now_ms = site.clock.at_ms()
    kinds = (
        ("put_endpoint", "PUT", "/v1/endpoints/chat", "endpoints/chat", 200),
        ("prewarm_image", "POST", "/v1/images/prewarm", "", 202),
        ("delete_endpoint", "DELETE", "/v1/endpoints/broken", "endpoints/broken", 409),
        ("exec_worker", "GET", "/v1/workers/wk_aaaaaaaaaaaaaaaa/exec", "workers/wk_aaaaaaaaaaaaaaaa", 101),
    )
    for number in range(ENTRIES):
        operation, method, path, subject, status = kinds[number % len(kinds)]
        changes = operation == "put_endpoint"
        entry = AuditEntry(
            at_ms=now_ms - (ENTRIES - number) * 60_000,
            request_id=f"req_{number:016d}",
            caller="local" if number % 3 else "key_abcdefghijkl",
            source="uid 0" if number % 3 else "192.0.2.7",
            operation=operation,
            method=method,
            path=path,
            subject=subject,
            status=status,
            before=digest_of({"number": number}) if changes and number else "",
            after=digest_of({"number": number + 1}) if changes else "",
            detail=f"command: /bin/sh -c {odd}" if operation == "exec_worker" else f"entry {number}",
        )
        await site.store.audit_log.append(entry, forget_before_ms=0)

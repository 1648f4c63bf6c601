from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import pytest
import structlog

from gpud.adapters.sqlite.store import memory_database, open_inline_store
from gpud.api.auth import ApiKeyRing, AttemptLimit
from gpud.errors import Forbidden, TooManyAttempts, Unauthenticated
from tests.fakes.clock import FakeClock, SeededIds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gpud.ports.store import AccessStore


class SteppedClock(FakeClock):
    """A clock that stands still but for steps."""

    at = 1_000.0

    def now_s(self) -> float:
        return self.at

    def at_ms(self) -> int:
        return round(self.at * 1000)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def access(clock: SteppedClock) -> AsyncIterator[AccessStore]:
    database = memory_database()
    store = await open_inline_store(database, clock)
    yield store.access
    await store.close()
    database.close()


@pytest.fixture
def ring(access: AccessStore, clock: SteppedClock) -> ApiKeyRing:
    return ApiKeyRing(access, clock, SeededIds())


async def test_a_fresh_key_opens_what_its_scopes_name(ring: ApiKeyRing) -> None:
    key, token = await ring.create(label="ci", scopes=["read", "invoke:llm"])
    assert ring.authorize(token, "read").id == key.id
    assert ring.authorize(token, "invoke:llm").id == key.id
    with pytest.raises(Forbidden, match="this needs write"):
        ring.authorize(token, "write")
    with pytest.raises(Forbidden):
        ring.authorize(token, "invoke:other")


async def test_another_ring_on_the_same_store_knows_the_key_and_not_its_secret(
    ring: ApiKeyRing, access: AccessStore, clock: SteppedClock
) -> None:
    key, token = await ring.create(label="ci", scopes=["read"])
    later = ApiKeyRing(access, clock, SeededIds())
    await later.load()
    assert later.authorize(token, "read").id == key.id
    secret = token.rpartition("_")[2]
    assert secret not in repr(await access.list_keys())
    assert secret.encode() not in key.secret_sha256


async def test_a_missing_malformed_unknown_or_wrong_key_is_refused(ring: ApiKeyRing) -> None:
    _, token = await ring.create(label="", scopes=["admin"])
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    unknown = "gpud_" + "a" * 12 + "_" + "a" * 52
    for bad in (None, "", "nonsense", wrong, unknown):
        with pytest.raises(Unauthenticated):
            ring.authorize(bad, "read")
    with pytest.raises(Unauthenticated) as about_wrong:
        ring.authorize(wrong, "read")
    with pytest.raises(Unauthenticated) as about_unknown:
        ring.authorize(unknown, "read")
    assert about_wrong.value.detail == about_unknown.value.detail


async def test_an_unknown_id_costs_the_same_comparison_as_a_wrong_secret(
    ring: ApiKeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    compare = hmac.compare_digest

    def counting(left: bytes, right: bytes) -> bool:
        compared.append(len(left) + len(right))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    _, token = await ring.create(label="", scopes=["read"])
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    for bad in (wrong, "gpud_" + "a" * 12 + "_" + "a" * 52):
        with pytest.raises(Unauthenticated):
            ring.authorize(bad, "read")
    assert compared == [64, 64]


async def test_a_disabled_key_stops_working_at_once_and_for_good(
    ring: ApiKeyRing, access: AccessStore, clock: SteppedClock
) -> None:
    key, token = await ring.create(label="", scopes=["read"])
    assert await ring.disable(key.id)
    with pytest.raises(Unauthenticated, match="disabled"):
        ring.authorize(token, "read")
    later = ApiKeyRing(access, clock, SeededIds())
    await later.load()
    with pytest.raises(Unauthenticated, match="disabled"):
        later.authorize(token, "read")
    assert not await ring.disable("key_nothing")


async def test_a_key_expires_at_its_time_and_not_before(ring: ApiKeyRing, clock: SteppedClock) -> None:
    _, token = await ring.create(label="", scopes=["read"], expires_at_ms=clock.at_ms() + 1000)
    clock.at += 0.999
    ring.authorize(token, "read")
    clock.at += 0.001
    with pytest.raises(Unauthenticated, match="expired"):
        ring.authorize(token, "read")


async def test_the_last_use_is_kept_to_the_minute_and_written_once(
    ring: ApiKeyRing, access: AccessStore, clock: SteppedClock
) -> None:
    clock.at = 6_000_030.0
    key, token = await ring.create(label="", scopes=["read"])
    for _ in range(3):
        ring.authorize(token, "read")
    (shown,) = ring.list_keys()
    assert shown.last_used_at_ms == 6_000_000_000
    (stored,) = await access.list_keys()
    assert stored.last_used_at_ms == 0
    await ring.flush()
    (stored,) = await access.list_keys()
    assert stored.last_used_at_ms == 6_000_000_000
    assert ring.list_keys()[0].last_used_at_ms == 6_000_000_000
    assert key.id == stored.id


async def test_a_refused_use_is_no_use(ring: ApiKeyRing) -> None:
    _, token = await ring.create(label="", scopes=["read"])
    with pytest.raises(Forbidden):
        ring.authorize(token, "write")
    assert ring.list_keys()[0].last_used_at_ms == 0


async def test_neither_token_nor_secret_is_ever_logged(ring: ApiKeyRing) -> None:
    with structlog.testing.capture_logs() as logged:
        key, token = await ring.create(label="", scopes=["read"])
        ring.authorize(token, "read")
        with pytest.raises(Unauthenticated):
            ring.authorize(token + "x", "read")
        await ring.disable(key.id)
    assert [entry["event"] for entry in logged] == ["key.created", "key.disabled"]
    assert token.rpartition("_")[2] not in repr(logged)


async def test_an_address_that_keeps_failing_is_told_to_wait_and_a_valid_key_from_it_passes(
    ring: ApiKeyRing, clock: SteppedClock
) -> None:
    _, token = await ring.create(label="", scopes=["read"])
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            ring.authorize_from("192.0.2.7", "nonsense", "read")
    with pytest.raises(TooManyAttempts) as caught:
        ring.authorize_from("192.0.2.7", "nonsense", "read")
    assert caught.value.retry_after_s == 60
    ring.authorize_from("192.0.2.7", token, "read")
    with pytest.raises(Unauthenticated):
        ring.authorize_from("192.0.2.8", "nonsense", "read")
    clock.at += 60
    with pytest.raises(Unauthenticated):
        ring.authorize_from("192.0.2.7", "nonsense", "read")


async def test_a_request_without_any_key_counts_as_no_attempt(ring: ApiKeyRing) -> None:
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            ring.authorize_from("192.0.2.7", None, "read")


def test_the_memory_of_failed_attempts_is_bounded(clock: SteppedClock) -> None:
    limit = AttemptLimit(clock, peers_max=100)
    for i in range(1000):
        limit.count(f"10.0.{i // 250}.{i % 250}")
    assert len(limit) == 100


def test_one_ipv6_network_counts_as_one_address(clock: SteppedClock) -> None:
    limit = AttemptLimit(clock, attempts_max=2)
    limit.count("2001:db8::1")
    limit.count("2001:db8::2")
    with pytest.raises(TooManyAttempts):
        limit.count("2001:db8::3")
    limit.count("2001:db8:0:1::3")
    limit.count("uid 1000")

"""What the store of keys, credentials and repeated answers promises."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.ids import KeyId
from gpud.errors import Conflict, IdempotencyMismatch, StoreUnusable
from gpud.ports.images import RegistryCredential
from gpud.ports.store import ApiKey, ReplayedAnswer, StoredRegistry
from tests.contract.store_rig import KINDS, HandClock, S, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store

KEY = ApiKey(
    id=KeyId("key_aaaa"),
    label="ci",
    secret_sha256=bytes(range(32)),
    scopes=("read", "invoke:llm"),
    created_at_ms=5,
    expires_at_ms=99,
)
CREDENTIAL = RegistryCredential(host="registry.example:5000", username="joe", password="pässword-of-joe")
ANSWER = ReplayedAnswer(fingerprint=b"f1", status=201, body=b'{"ok":true}')


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, HandClock()) as store:
        yield store


async def test_keys_come_back_as_they_were_added_oldest_first(store: Store) -> None:
    older = replace(KEY, id=KeyId("key_zzzz"), created_at_ms=1, disabled=True, last_used_at_ms=4)
    await store.access.add_key(KEY)
    await store.access.add_key(older)
    assert await store.access.list_keys() == (older, KEY)


async def test_a_key_id_is_used_once(store: Store) -> None:
    await store.access.add_key(KEY)
    with pytest.raises(Conflict, match="key_aaaa"):
        await store.access.add_key(replace(KEY, label="other"))
    assert await store.access.list_keys() == (KEY,)


async def test_a_disabled_key_is_listed_as_such(store: Store) -> None:
    await store.access.add_key(KEY)
    assert await store.access.disable_key(KEY.id)
    assert await store.access.disable_key(KEY.id)
    assert await store.access.list_keys() == (replace(KEY, disabled=True),)
    assert not await store.access.disable_key(KeyId("key_none"))


async def test_the_latest_use_of_a_key_is_remembered(store: Store) -> None:
    await store.access.add_key(KEY)
    for at_ms in (60_000, 180_000, 120_000):
        await store.access.note_key_use(KEY.id, at_ms)
    assert (await store.access.list_keys())[0].last_used_at_ms == 180_000


async def test_a_credential_comes_back_for_a_pull_and_is_listed_without_its_password(store: Store) -> None:
    await store.access.put_registry("home", CREDENTIAL, 7)
    assert await store.access.registry("home") == CREDENTIAL
    assert await store.access.list_registries() == (
        StoredRegistry(name="home", host="registry.example:5000", username="joe", created_at_ms=7),
    )
    assert await store.access.registry("none") is None


async def test_a_credential_is_replaced_and_forgotten(store: Store) -> None:
    await store.access.put_registry("home", CREDENTIAL, 7)
    await store.access.put_registry("home", replace(CREDENTIAL, password="new"), 8)
    changed = await store.access.registry("home")
    assert changed is not None
    assert changed.password == "new"
    assert await store.access.delete_registry("home")
    assert not await store.access.delete_registry("home")
    assert await store.access.registry("home") is None


async def test_the_first_request_with_a_key_claims_it_and_the_answer_is_repeated(store: Store) -> None:
    access = store.access
    assert await access.begin_idempotent("key_a", "k1", b"f1") is None
    with pytest.raises(Conflict, match="still being answered"):
        await access.begin_idempotent("key_a", "k1", b"f1")
    await access.finish_idempotent("key_a", "k1", ANSWER)
    assert await access.begin_idempotent("key_a", "k1", b"f1") == ANSWER
    assert await access.begin_idempotent("key_b", "k1", b"f1") is None


async def test_a_key_used_for_another_request_is_refused(store: Store) -> None:
    await store.access.begin_idempotent("key_a", "k1", b"f1")
    with pytest.raises(IdempotencyMismatch):
        await store.access.begin_idempotent("key_a", "k1", b"other")
    await store.access.finish_idempotent("key_a", "k1", ANSWER)
    with pytest.raises(IdempotencyMismatch):
        await store.access.begin_idempotent("key_a", "k1", b"other")


async def test_a_request_given_up_may_be_repeated(store: Store) -> None:
    await store.access.begin_idempotent("key_a", "k1", b"f1")
    await store.access.finish_idempotent("key_a", "k1", None)
    assert await store.access.begin_idempotent("key_a", "k1", b"f1") is None


async def test_an_answer_is_not_given_up_nor_changed_afterwards(store: Store) -> None:
    await store.access.begin_idempotent("key_a", "k1", b"f1")
    await store.access.finish_idempotent("key_a", "k1", ANSWER)
    await store.access.finish_idempotent("key_a", "k1", None)
    await store.access.finish_idempotent("key_a", "k1", replace(ANSWER, status=500))
    assert await store.access.begin_idempotent("key_a", "k1", b"f1") == ANSWER


@pytest.mark.parametrize("wall_step_s", [0, 31_536_000, -31_536_000])
async def test_answers_are_forgotten_after_a_day_whatever_the_wall_clock_does(
    tmp_path: Path, wall_step_s: int
) -> None:
    clock = HandClock()
    async with opened("inline", tmp_path, clock) as store:
        await store.access.begin_idempotent("key_a", "k1", b"f1")
        await store.access.finish_idempotent("key_a", "k1", ANSWER)
        clock.wall += wall_step_s * S
        clock.advance(24 * 3600 * S)
        assert await store.access.begin_idempotent("key_a", "k1", b"f1") == ANSWER
        clock.advance(S)
        assert await store.access.begin_idempotent("key_a", "k1", b"f1") is None


async def test_of_a_hundred_parallel_requests_with_one_key_one_is_carried_out(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.access.begin_idempotent("key_a", "k1", b"f1") for _ in range(100)),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 99


async def test_a_claim_whose_daemon_died_is_given_up_at_the_next_start(tmp_path: Path) -> None:
    async with opened("file", tmp_path, HandClock()) as store:
        await store.access.begin_idempotent("key_a", "dead", b"f1")
        await store.access.begin_idempotent("key_a", "done", b"f1")
        await store.access.finish_idempotent("key_a", "done", ANSWER)
    async with opened("file", tmp_path, HandClock()) as store:
        assert await store.access.begin_idempotent("key_a", "dead", b"f1") is None
        assert await store.access.begin_idempotent("key_a", "done", b"f1") == ANSWER


async def test_no_file_of_the_store_holds_a_password(tmp_path: Path) -> None:
    async with opened("file", tmp_path, HandClock()) as store:
        await store.access.put_registry("home", CREDENTIAL, 7)
        files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert any(path.name == "gpud.db-wal" for path in files)
        for path in files:
            assert CREDENTIAL.password.encode() not in path.read_bytes()


async def test_the_master_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    async with opened("file", tmp_path, HandClock()) as store:
        await store.access.put_registry("home", CREDENTIAL, 7)
    key_path = tmp_path / "data" / "master.key"
    assert key_path.stat().st_mode & 0o777 == 0o600
    assert len(key_path.read_bytes()) == 32
    async with opened("file", tmp_path, HandClock()) as store:
        assert await store.access.registry("home") == CREDENTIAL


async def test_another_master_key_is_refused_while_credentials_are_stored(tmp_path: Path) -> None:
    async with opened("file", tmp_path, HandClock()) as store:
        await store.access.put_registry("home", CREDENTIAL, 7)
    key_path = tmp_path / "data" / "master.key"
    old_key = key_path.read_bytes()
    key_path.write_bytes(b"\1" * 32)
    with pytest.raises(StoreUnusable, match=r"is not the master key that 1 stored"):
        async with opened("file", tmp_path, HandClock()):
            pass
    key_path.write_text(old_key.hex() + "\n")
    async with opened("file", tmp_path, HandClock()) as store:
        assert await store.access.registry("home") == CREDENTIAL
        await store.access.delete_registry("home")
    key_path.write_bytes(b"\1" * 32)
    async with opened("file", tmp_path, HandClock()) as store:
        await store.access.put_registry("home", CREDENTIAL, 8)
        assert await store.access.registry("home") == CREDENTIAL


SWAP = (
    "UPDATE registry SET (password_nonce, password_sealed) = "
    "(SELECT o.password_nonce, o.password_sealed FROM registry AS o WHERE o.name = 'other') "
    "WHERE name = 'home'"
)


@pytest.mark.parametrize(
    "tampering",
    [
        SWAP,
        "UPDATE registry SET password_sealed = zeroblob(length(password_sealed)) WHERE name = 'home'",
        "UPDATE install SET install_id = 'another-install'",
    ],
    ids=["moved from another name", "changed", "brought from another installation"],
)
async def test_a_sealed_password_opens_only_where_it_was_sealed(tmp_path: Path, tampering: str) -> None:
    async with opened("file", tmp_path, HandClock()) as store:
        await store.access.put_registry("home", CREDENTIAL, 7)
        await store.access.put_registry("other", CREDENTIAL, 7)
    with closing(sqlite3.connect(tmp_path / "data" / "gpud.db")) as outside:
        outside.execute(tampering)
        outside.commit()
    async with opened("file", tmp_path, HandClock()) as store:
        with pytest.raises(StoreUnusable, match="'home' cannot be decrypted"):
            await store.access.registry("home")

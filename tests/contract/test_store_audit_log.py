"""What the audit log promises of its entries."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.audit_log import AuditEntry, AuditFilter
from tests.contract.store_rig import KINDS, HandClock, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gpud.adapters.sqlite.store import Store

ENTRY = AuditEntry(
    at_ms=1_000,
    request_id="req_a",
    caller="key_a",
    source="192.0.2.7",
    operation="put_endpoint",
    method="PUT",
    path="/v1/endpoints/llm",
    subject="endpoints/llm",
    status=200,
    before="",
    after="ab" * 32,
)
ALL = AuditFilter()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path, HandClock()) as store:
        yield store


async def write(store: Store, *entries: AuditEntry, forget_before_ms: int = 0) -> None:
    for entry in entries:
        await store.audit_log.append(entry, forget_before_ms=forget_before_ms)


async def test_entries_come_back_as_written_newest_first_or_oldest_first(store: Store) -> None:
    second = replace(ENTRY, at_ms=2_000, status=409, before="cd" * 32)
    await write(store, ENTRY, second)
    first, second = replace(ENTRY, seq=1), replace(second, seq=2)
    assert await store.audit_log.page(ALL) == (second, first)
    assert await store.audit_log.page(ALL, before_seq=2) == (first,)
    assert await store.audit_log.after(ALL, seq=0) == (first, second)
    assert await store.audit_log.after(ALL, seq=1, limit=5) == (second,)
    assert await store.audit_log.after(ALL, seq=0, limit=1) == (first,)


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        (AuditFilter(caller="local"), (2,)),
        (AuditFilter(operation="put_endpoint"), (2, 1)),
        (AuditFilter(subject="keys/key_b"), (3,)),
        (AuditFilter(since_ms=2_000), (3, 2)),
        (AuditFilter(until_ms=2_000), (1,)),
        (AuditFilter(caller="key_a", since_ms=1_500), (3,)),
    ],
)
async def test_entries_are_found_by_caller_operation_subject_and_time(
    store: Store, wanted: AuditFilter, seqs: tuple[int, ...]
) -> None:
    await write(
        store,
        ENTRY,
        replace(ENTRY, at_ms=2_000, caller="local"),
        replace(ENTRY, at_ms=3_000, operation="disable_key", subject="keys/key_b"),
    )
    assert tuple(entry.seq for entry in await store.audit_log.page(wanted)) == seqs
    assert tuple(entry.seq for entry in await store.audit_log.after(wanted, seq=0)) == seqs[::-1]


async def test_expired_entries_go_when_one_is_written_and_numbers_are_never_used_again(store: Store) -> None:
    await write(store, ENTRY, replace(ENTRY, at_ms=2_000))
    await write(store, replace(ENTRY, at_ms=9_000), forget_before_ms=2_000)
    assert [entry.seq for entry in await store.audit_log.page(ALL)] == [3, 2]
    await write(store, replace(ENTRY, at_ms=99_000), forget_before_ms=99_000)
    assert [entry.seq for entry in await store.audit_log.page(ALL)] == [4]


async def test_an_entry_outlives_the_process_and_cannot_be_changed(tmp_path: Path) -> None:
    async with opened("file", tmp_path, HandClock()) as store:
        await write(store, ENTRY)
    with (
        closing(sqlite3.connect(tmp_path / "data" / "gpud.db")) as raw,
        pytest.raises(sqlite3.IntegrityError, match="never changes"),
    ):
        raw.execute("UPDATE audit_log SET caller = 'somebody else'")
    async with opened("file", tmp_path, HandClock()) as store:
        assert await store.audit_log.page(ALL) == (replace(ENTRY, seq=1),)

"""Checkpoints and readers on a real database file."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.sqlite import checkpoints
from gpud.adapters.sqlite.checkpoints import Checkpointer, WalFill
from gpud.adapters.sqlite.connection import open_writer
from gpud.adapters.sqlite.hops import ReaderPool
from gpud.adapters.sqlite.store import open_store
from gpud.core.records import EventRecorded
from gpud.errors import Unavailable
from tests.contract.store_rig import HandClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MIB = 1 << 20
FRAME_BYTES = 4096 + 24


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gpud.db"


@pytest.fixture
def wal_path(path: Path) -> Path:
    return path.with_name("gpud.db-wal")


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_writer(path, install_id="12345678", at_ms=1)
    connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, payload BLOB) STRICT")
    yield connection
    connection.close()


def fill(connection: sqlite3.Connection, count_bytes: int) -> None:
    connection.execute("INSERT INTO t (payload) VALUES (zeroblob(?))", (count_bytes,))


def log_frames(connection: sqlite3.Connection) -> int:
    """SQLite's own count; asking for it checkpoints."""
    frames: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
    return frames


def test_the_fill_of_the_log_is_what_sqlite_says_it_is(
    connection: sqlite3.Connection, wal_path: Path
) -> None:
    gauge = WalFill(wal_path)
    chance = random.Random(7)
    for _ in range(40):
        for _ in range(chance.randrange(1, 5)):
            fill(connection, chance.randrange(1, 200_000))
        counted = gauge.bytes_used()
        if chance.random() < 0.5:
            assert counted == log_frames(connection) * FRAME_BYTES
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert gauge.bytes_used() == 0
    gauge.close()


def test_a_checkpoint_is_due_after_four_mebibytes_and_not_again_until_four_more(
    connection: sqlite3.Connection, wal_path: Path
) -> None:
    checkpointer = Checkpointer(wal_path)
    due_at = []
    for n in range(1, 41):
        fill(connection, MIB // 2)
        if checkpointer.is_due(0.0):
            due_at.append(n)
            checkpointer.run(connection, 0.0)
            assert not checkpointer.is_due(0.0)
    assert due_at == [8, 16, 24, 32, 40]
    assert wal_path.stat().st_size < 5 * MIB
    checkpointer.close()


def test_a_checkpoint_is_due_each_minute(connection: sqlite3.Connection, wal_path: Path) -> None:
    checkpointer = Checkpointer(wal_path)
    fill(connection, 10)
    assert not checkpointer.is_due(100.0)
    assert not checkpointer.is_due(159.9)
    assert checkpointer.is_due(160.0)
    checkpointer.run(connection, 160.0)
    assert not checkpointer.is_due(219.9)
    checkpointer.close()


def test_a_log_that_grew_too_long_is_cut_off(
    connection: sqlite3.Connection, wal_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "TRUNCATE_AT_BYTES", 6 * MIB)
    checkpointer = Checkpointer(wal_path)
    fill(connection, 5 * MIB)
    checkpointer.run(connection, 0.0)
    assert wal_path.stat().st_size > 5 * MIB
    fill(connection, 7 * MIB)
    checkpointer.run(connection, 1.0)
    assert wal_path.stat().st_size == 0
    checkpointer.close()


def test_a_reader_that_holds_a_checkpoint_up_is_waited_for(
    connection: sqlite3.Connection, path: Path, wal_path: Path
) -> None:
    checkpointer = Checkpointer(wal_path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchone()
    fill(connection, 5 * MIB)
    assert checkpointer.is_due(0.0)
    checkpointer.run(connection, 0.0)
    assert not checkpointer.is_due(0.5)
    assert checkpointer.is_due(1.0)
    reader.execute("COMMIT")
    checkpointer.run(connection, 1.0)
    assert not checkpointer.is_due(2.5)
    reader.close()
    checkpointer.close()


async def test_a_busy_store_keeps_its_log_short(tmp_path: Path) -> None:
    store = await open_store(tmp_path, HandClock())
    facts: dict[str, object] = {"text": "x" * 4000}

    async def write(count: int) -> None:
        for _ in range(count):
            await store.fleet.record([EventRecorded(kind="a.b", at_ms=1, facts=facts)])

    try:
        await asyncio.gather(*(write(100) for _ in range(64)))
        assert (tmp_path / "gpud.db").stat().st_size > 16 * MIB
        assert (tmp_path / "gpud.db-wal").stat().st_size < 12 * MIB
    finally:
        await store.close()
    assert not (tmp_path / "gpud.db-wal").exists()


@pytest.fixture
async def readers(path: Path, connection: sqlite3.Connection, tmp_path: Path) -> AsyncIterator[ReaderPool]:
    assert connection.total_changes >= 0
    readers = ReaderPool(tmp_path)
    await readers.open(path, count=2)
    yield readers
    await readers.close()


FOREVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


async def test_a_read_that_takes_too_long_is_ended_and_the_next_one_works(readers: ReaderPool) -> None:
    with pytest.raises(Unavailable, match="took longer than reads may"):
        await readers.read(lambda connection: connection.execute(FOREVER).fetchone(), limit_s=0.05)
    for _ in range(4):
        assert await readers.read(lambda connection: connection.execute("SELECT 1").fetchone()[0]) == 1


async def test_a_slow_read_does_not_keep_others_waiting(readers: ReaderPool) -> None:
    go_on = threading.Event()
    slow = asyncio.create_task(readers.read(lambda _connection: go_on.wait(30)))
    await asyncio.sleep(0)
    for _ in range(5):
        assert await readers.read(lambda connection: connection.execute("SELECT 1").fetchone()[0]) == 1
    assert not slow.done()
    go_on.set()
    assert await slow


async def test_a_read_sees_one_moment_while_writes_go_on(
    readers: ReaderPool, connection: sqlite3.Connection
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def count_twice(reader: sqlite3.Connection) -> tuple[int, int]:
        before = reader.execute("SELECT count(*) FROM t").fetchone()[0]
        began.set()
        go_on.wait(30)
        return before, reader.execute("SELECT count(*) FROM t").fetchone()[0]

    reading = asyncio.create_task(readers.read(count_twice))
    assert await asyncio.to_thread(began.wait, 30)
    fill(connection, 10)
    go_on.set()
    assert await reading == (0, 0)
    assert await readers.read(lambda reader: reader.execute("SELECT count(*) FROM t").fetchone()[0]) == 1


async def test_a_reader_cannot_write(readers: ReaderPool) -> None:
    with pytest.raises(Exception, match="readonly"):
        await readers.read(partial(fill, count_bytes=1))

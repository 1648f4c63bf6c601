from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from gpud.adapters.sqlite.committer import BATCH_OPS_MAX, QUEUE_OPS_MAX, GroupCommitter
from gpud.errors import DependencyDown, InvariantBroken, StorageFull, StoreUnusable, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")


class Hop:
    """Carries functions to a connection inline; can hold them back, and fail before or after them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.open = asyncio.Event()
        self.open.set()
        self.hops = 0
        self.now_s = 0.0
        self.error_after: Exception | None = None

    async def __call__(self, function: Callable[[sqlite3.Connection], T], /) -> T:
        self.hops += 1
        await self.open.wait()
        self.now_s += 1.0
        result = function(self._connection)
        if self.error_after is not None:
            raise self.error_after
        return result


@pytest.fixture
async def hop() -> AsyncIterator[Hop]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, payload BLOB) STRICT")
    yield Hop(connection)
    connection.close()


@pytest.fixture
async def committer(hop: Hop) -> AsyncIterator[GroupCommitter]:
    committer = GroupCommitter(hop, now_s=lambda: hop.now_s)
    yield committer
    hop.open.set()
    await committer.close()


def insert(x: int, payload_bytes: int = 0) -> Callable[[sqlite3.Connection], int]:
    def operation(connection: sqlite3.Connection) -> int:
        return connection.execute("INSERT INTO t VALUES (?, zeroblob(?))", (x, payload_bytes)).rowcount

    return operation


def rows(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_operation_brings_its_result_back(committer: GroupCommitter) -> None:
    assert await committer.write(insert(1)) == 1
    assert await committer.write(rows) == [1]


async def test_what_arrives_while_a_batch_commits_is_the_next_batch(
    committer: GroupCommitter, hop: Hop
) -> None:
    hop.open.clear()
    first = asyncio.create_task(committer.write(insert(1)))
    await settle()
    later = [asyncio.create_task(committer.write(insert(x))) for x in range(2, 12)]
    await settle()
    assert hop.hops == 1
    assert committer.stats.waiting_operations == 10
    hop.open.set()
    await asyncio.gather(first, *later)
    assert hop.hops == 2
    assert (committer.stats.commits, committer.stats.operations) == (2, 11)


async def test_a_batch_has_an_upper_bound_and_order_is_kept(committer: GroupCommitter, hop: Hop) -> None:
    order: list[int] = []

    def note(x: int) -> Callable[[sqlite3.Connection], None]:
        return lambda _connection: order.append(x)

    count = 2 * BATCH_OPS_MAX + 1
    await asyncio.gather(*(committer.write(note(x)) for x in range(count)))
    assert hop.hops == 3
    assert order == list(range(count))


async def test_the_queue_is_bounded_and_writers_beyond_it_wait(committer: GroupCommitter, hop: Hop) -> None:
    hop.open.clear()
    tasks = [asyncio.create_task(committer.write(insert(x))) for x in range(QUEUE_OPS_MAX + 600)]
    await settle()
    assert committer.stats.waiting_operations == QUEUE_OPS_MAX
    for task in tasks[-50:]:
        task.cancel()
    hop.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes.count(1) == QUEUE_OPS_MAX + 550
    assert await committer.write(rows) == list(range(QUEUE_OPS_MAX + 550))


@pytest.mark.parametrize("error", [KeyError("x"), InvariantBroken("no"), ValueError("y")])
async def test_an_operation_that_raises_is_undone_alone(committer: GroupCommitter, error: Exception) -> None:
    def failing(connection: sqlite3.Connection) -> None:
        insert(2)(connection)
        raise error

    outcomes = await asyncio.gather(
        committer.write(insert(1)),
        committer.write(failing),
        committer.write(insert(3)),
        return_exceptions=True,
    )
    assert list(outcomes) == [1, error, 1]
    assert await committer.write(rows) == [1, 3]
    assert committer.stats.refused_operations == 1


async def test_a_constraint_says_a_bug_and_keeps_its_cause(committer: GroupCommitter) -> None:
    await committer.write(insert(1))
    with pytest.raises(InvariantBroken, match="UNIQUE constraint failed") as caught:
        await committer.write(insert(1))
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)


async def test_a_full_database_fails_its_whole_batch_and_later_writes_succeed(
    committer: GroupCommitter,
) -> None:
    await committer.write(lambda connection: connection.execute("PRAGMA max_page_count = 20").fetchone())
    outcomes = await asyncio.gather(
        committer.write(insert(1)),
        committer.write(insert(2, payload_bytes=10_000_000)),
        committer.write(insert(3)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [StorageFull] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert not committer.failed.done()
    assert await committer.write(insert(4)) == 1
    assert await committer.write(rows) == [4]


async def test_a_failed_commit_fails_every_writer_of_its_batch(committer: GroupCommitter, hop: Hop) -> None:
    hop.error_after = sqlite_error("SQLITE_BUSY")
    outcomes = await asyncio.gather(
        committer.write(insert(1)), committer.write(insert(2)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [DependencyDown] * 2
    hop.error_after = None
    assert await committer.write(insert(3)) == 1


@pytest.mark.parametrize(
    "code", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE", "SQLITE_CORRUPT", "SQLITE_READONLY"]
)
async def test_a_broken_disk_ends_the_committer_and_everyone_is_told(
    committer: GroupCommitter, hop: Hop, code: str
) -> None:
    hop.open.clear()
    hop.error_after = sqlite_error(code)
    first = asyncio.create_task(committer.write(insert(1)))
    await settle()
    queued = asyncio.create_task(committer.write(insert(2)))
    await settle()
    hop.open.set()
    outcomes = await asyncio.gather(first, queued, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnusable] * 2
    assert code in (await committer.failed).detail
    with pytest.raises(StoreUnusable, match=code):
        await committer.write(insert(3))
    assert hop.hops == 1


async def test_closing_writes_what_is_queued_and_refuses_what_comes_after(hop: Hop) -> None:
    committer = GroupCommitter(hop, now_s=lambda: hop.now_s)
    hop.open.clear()
    tasks = [asyncio.create_task(committer.write(insert(x))) for x in range(300)]
    await settle()
    closing = asyncio.create_task(committer.close())
    await settle()
    with pytest.raises(Unavailable):
        await committer.write(insert(999))
    hop.open.set()
    await closing
    assert await asyncio.gather(*tasks) == [1] * 300
    await committer.close()


async def test_abandoning_writes_nothing_more(hop: Hop) -> None:
    committer = GroupCommitter(hop, now_s=lambda: hop.now_s)
    hop.open.clear()
    under_way = asyncio.create_task(committer.write(insert(1)))
    await settle()
    queued = asyncio.create_task(committer.write(insert(2)))
    await settle()
    committer.abandon()
    outcomes = await asyncio.gather(under_way, queued, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert isinstance(outcomes[1], Unavailable)


async def test_the_watchdog_sees_how_long_a_batch_has_taken(committer: GroupCommitter, hop: Hop) -> None:
    assert committer.stats.busy_s == 0.0
    hop.open.clear()
    task = asyncio.create_task(committer.write(insert(1)))
    await settle()
    hop.now_s = 7.0
    assert committer.stats.busy_s == 7.0
    hop.open.set()
    await task
    stats = committer.stats
    assert (stats.busy_s, stats.commits, stats.commit_s, stats.commit_s_max) == (0.0, 1, 8.0, 8.0)


async def test_nothing_is_acknowledged_before_its_commit(committer: GroupCommitter, hop: Hop) -> None:
    in_transaction: list[bool] = []
    connection: Any = hop._connection

    async def write() -> None:
        await committer.write(insert(len(in_transaction)))
        in_transaction.append(connection.in_transaction)

    for _ in range(3):
        await write()
    assert in_transaction == [False, False, False]

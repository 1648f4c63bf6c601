"""Makes many writes durable at once: the group committer.

Operations queue up; one `BEGIN IMMEDIATE` holds a batch of them, each in its own savepoint, and
futures resolve after COMMIT. A batch is one hop to the connection's thread. There is no timer:
what arrives while one batch commits is the next batch, so an idle store adds no wait.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from gpud.adapters.sqlite.failures import is_fatal, translate
from gpud.errors import GpudError, StoreUnusable, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from gpud.adapters.sqlite.checkpoints import Checkpointer
    from gpud.adapters.sqlite.hops import Execute

T = TypeVar("T")

Operation = Callable[[sqlite3.Connection], T]
"""Runs on the connection's thread, inside a transaction; must not touch anything else."""


BATCH_OPS_MAX = 256
QUEUE_OPS_MAX = 8192

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Done:
    value: object


@dataclass(frozen=True, slots=True)
class _Refused:
    error: Exception


_Outcome = _Done | _Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitStats:
    """What the committer has done since the start.

    Args:
        commits: Transactions committed.
        operations: Operations in them.
        refused_operations: Operations that failed alone or with their batch.
        commit_s: Time spent in batches, summed.
        commit_s_max: The longest batch.
        waiting_operations: Queued now.
        busy_s: How long the batch under way has taken; 0 when there is none.
    """

    commits: int = 0
    operations: int = 0
    refused_operations: int = 0
    commit_s: float = 0.0
    commit_s_max: float = 0.0
    waiting_operations: int = 0
    busy_s: float = 0.0


class GroupCommitter:
    """The one writer of a store.

    `failed` resolves, to the error, when the database cannot be trusted any more; whoever runs
    the store must then end. `committed` is called after each commit. Until `close` it owns one task.

    Args:
        execute: Hop to the writing connection.
        now_s: Monotonic seconds, for the statistics.
        data_dir: Where the database is, for messages; None in memory.
        checkpointer: Keeps the write-ahead log short; None where there is none.
    """

    def __init__(
        self,
        execute: Execute,
        *,
        now_s: Callable[[], float],
        data_dir: Path | None = None,
        checkpointer: Checkpointer | None = None,
    ) -> None:
        self._execute = execute
        self._now_s = now_s
        self._data_dir = data_dir
        self._checkpointer = checkpointer
        self._queue: deque[tuple[Operation[Any], asyncio.Future[Any]]] = deque()
        self._room = asyncio.Semaphore(QUEUE_OPS_MAX)
        self._arrived = asyncio.Event()
        self._closing = False
        self._commits = self._operations = self._refused = 0
        self._commit_s = self._commit_s_max = 0.0
        self._batch_began_s: float | None = None
        self.committed: Callable[[], None] = lambda: None
        self.failed: asyncio.Future[StoreUnusable] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._commit_batches(), name="store-committer")

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation in a transaction; it is on disk when this returns.

        Cancelling the caller does not take back an operation that is queued: it is carried
        out whole, and nobody hears of it.

        Raises:
            StorageFull: The disk is full; nothing was written.
            StoreUnusable: The database cannot be trusted any more, and the daemon is ending.
            Unavailable: The store is being closed, or another program holds it locked.
            GpudError: What the operation itself raised; it left no trace.
        """
        await self._room.acquire()
        if self.failed.done() or self._closing:
            self._room.release()
            raise self._refusal()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, future))
        self._arrived.set()
        return await future

    @property
    def stats(self) -> CommitStats:
        """What was done so far, and how long the present batch has been under way."""
        began_s = self._batch_began_s
        return CommitStats(
            commits=self._commits,
            operations=self._operations,
            refused_operations=self._refused,
            commit_s=self._commit_s,
            commit_s_max=self._commit_s_max,
            waiting_operations=len(self._queue),
            busy_s=0.0 if began_s is None else self._now_s() - began_s,
        )

    async def close(self) -> None:
        """Commit what is queued, then take no more."""
        self._closing = True
        self._arrived.set()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    def abandon(self) -> None:
        """Stop at once, as a killed process would: what is not committed is not written."""
        self._closing = True
        self._task.cancel()

    async def _commit_batches(self) -> None:
        try:
            while not (self._closing and not self._queue):
                if self._arrived.is_set():
                    # Those whose writes were just committed get their turn to add the next ones.
                    await asyncio.sleep(0)
                else:
                    await self._arrived.wait()
                if not await self._commit_batch(self._take()):
                    return
        finally:
            for _operation, future in self._take_all():
                _fail(future, self._refusal())

    def _take(self) -> list[tuple[Operation[Any], asyncio.Future[Any]]]:
        count = min(len(self._queue), BATCH_OPS_MAX)
        batch = [self._queue.popleft() for _ in range(count)]
        for _ in batch:
            self._room.release()
        if not self._queue and not self._closing:
            self._arrived.clear()
        return batch

    def _take_all(self) -> list[tuple[Operation[Any], asyncio.Future[Any]]]:
        rest = list(self._queue)
        self._queue.clear()
        for _ in rest:
            self._room.release()
        return rest

    async def _commit_batch(self, batch: list[tuple[Operation[Any], asyncio.Future[Any]]]) -> bool:
        if not batch:
            return True
        operations = [operation for operation, _future in batch]
        began_s = self._batch_began_s = self._now_s()
        try:
            outcomes, checkpoint_due = await self._execute(partial(self._run, operations, began_s))
        except Exception as error:  # noqa: BLE001 - it is handed to everyone who waits
            return self._refuse_batch(batch, error)
        except asyncio.CancelledError:
            for _operation, future in batch:
                future.cancel()
            raise
        finally:
            self._batch_began_s = None
        took_s = self._now_s() - began_s
        self._commits += 1
        self._commit_s += took_s
        self._commit_s_max = max(self._commit_s_max, took_s)
        for (_operation, future), outcome in zip(batch, outcomes, strict=True):
            self._settle(future, outcome)
        self.committed()
        if checkpoint_due and self._checkpointer is not None:
            return await self._checkpoint(self._checkpointer)
        return True

    def _run(
        self, operations: list[Operation[Any]], now_s: float, connection: sqlite3.Connection
    ) -> tuple[list[_Outcome], bool]:
        outcomes = commit(operations, connection)
        return outcomes, self._checkpointer is not None and self._checkpointer.is_due(now_s)

    async def _checkpoint(self, checkpointer: Checkpointer) -> bool:
        try:
            await self._execute(partial(checkpointer.run, now_s=self._now_s()))
        except sqlite3.Error as error:
            refusal = translate(error, self._data_dir)
            if is_fatal(refusal):
                self._end(refusal, error)
                return False
            _log.warning("store.checkpoint_failed", reason=refusal.slug, detail=str(error))
        return True

    def _settle(self, future: asyncio.Future[Any], outcome: _Outcome) -> None:
        match outcome:
            case _Done(value):
                self._operations += 1
                if not future.done():
                    future.set_result(value)
            case _Refused(error):
                self._refused += 1
                _fail(future, self._say(error))

    def _refuse_batch(
        self, batch: list[tuple[Operation[Any], asyncio.Future[Any]]], error: Exception
    ) -> bool:
        self._refused += len(batch)
        for _operation, future in batch:
            # One exception object each: they are raised in different tasks.
            _fail(future, self._say(error))
        refusal = self._say(error)
        if not is_fatal(refusal):
            return True
        self._end(refusal, error)
        return False

    def _say(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        said = translate(error, self._data_dir)
        said.__cause__ = error
        return said

    def _end(self, refusal: Exception, cause: Exception) -> None:
        _log.error("store.failed", detail=str(refusal), cause=str(cause))
        if not self.failed.done() and isinstance(refusal, StoreUnusable):
            self.failed.set_result(refusal)

    def _refusal(self) -> GpudError:
        if self.failed.done() and not self.failed.cancelled():
            return StoreUnusable(self.failed.result().detail)
        return Unavailable("gpud is stopping and writes nothing more. Try again once it is back.")


def commit(operations: list[Operation[Any]], connection: sqlite3.Connection) -> list[_Outcome]:
    """Run operations in one transaction, each in its own savepoint, and commit.

    Returns:
        One outcome an operation, in order; a refused one left no trace.

    Raises:
        sqlite3.Error: Nothing of the whole batch is written.
    """
    outcomes: list[_Outcome] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for operation in operations:
            connection.execute("SAVEPOINT operation")
            try:
                outcomes.append(_Done(operation(connection)))
            except Exception as error:
                if _spoils_batch(error, connection):
                    raise
                connection.execute("ROLLBACK TO operation")
                outcomes.append(_Refused(error))
            connection.execute("RELEASE operation")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _spoils_batch(error: Exception, connection: sqlite3.Connection) -> bool:
    # A full disk or a broken file concerns everyone; some errors also end the transaction.
    if not connection.in_transaction:
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) not in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

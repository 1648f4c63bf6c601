"""Makes many writes durable at once: the group committer.

Operations queue up; one `BEGIN IMMEDIATE` holds a batch of them (`batches`), and futures resolve after
COMMIT. A batch is one hop to the connection's thread. There is no timer: what arrives while one batch
commits is the next batch, so an idle store adds no wait.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from gpud.adapters.sqlite.batches import Operation, Refused, commit
from gpud.adapters.sqlite.failures import is_fatal, translate
from gpud.errors import GpudError, StoreUnusable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpud.adapters.sqlite.checkpoints import Checkpointer
    from gpud.adapters.sqlite.hops import Execute

R = TypeVar("R")
T = TypeVar("T")

BATCH_OPS_MAX = 256
QUEUE_OPS_MAX = 8192

_log = structlog.get_logger()


class _Entry:
    """An operation that is queued.

    Args:
        operation: What to run.
        future: Of whoever waits for it.
        then: Makes of its result what they get; called in the order of commits, though they have left.
        otherwise: Called when nothing was written.
        takes_room: It holds one of the queue's places.
    """

    __slots__ = ("future", "operation", "otherwise", "takes_room", "then")

    def __init__(
        self,
        operation: Operation[Any],
        future: asyncio.Future[Any],
        then: Callable[[Any], Any] | None = None,
        otherwise: Callable[[], None] | None = None,
        *,
        takes_room: bool = True,
    ) -> None:
        self.operation = operation
        self.future = future
        self.then = then
        self.otherwise = otherwise
        self.takes_room = takes_room

    def done(self, value: object) -> None:
        """It is on disk."""
        if self.then is not None:
            try:
                value = self.then(value)
            except Exception as error:  # noqa: BLE001 - it is handed to whoever waits
                _fail(self.future, error)
                return
        if not self.future.done():
            self.future.set_result(value)

    def refused(self, error: Exception) -> None:
        """Nothing of it was written."""
        if self.otherwise is not None:
            self.otherwise()
        _fail(self.future, error)


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
        self._queue: deque[_Entry] = deque()
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
        self._queue.append(_Entry(operation, future))
        self._arrived.set()
        return await future

    async def carry(
        self, operation: Operation[T], then: Callable[[T], R], otherwise: Callable[[], None]
    ) -> R:
        """Queue an operation at once; one of `then` and `otherwise` is called, though the caller may leave.

        For operations that something else bounds in number, since this one never waits for room.

        Args:
            operation: What to run.
            then: Takes note of its result, once it is on disk, and makes of it what is returned.
            otherwise: Takes note that nothing was written.

        Raises:
            GpudError: As `write` says.
        """
        if self.failed.done() or self._closing:
            otherwise()
            raise self._refusal()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append(_Entry(operation, future, then, otherwise, takes_room=False))
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
                await self._arrived.wait()
                # What follows from the write that has just come, or from those just committed, joins in.
                await asyncio.sleep(0)
                if not await self._commit_batch(self._take()):
                    return
        finally:
            for entry in self._take_all():
                entry.refused(self._refusal())

    def _take(self) -> list[_Entry]:
        count = min(len(self._queue), BATCH_OPS_MAX)
        batch = [self._queue.popleft() for _ in range(count)]
        self._give_room_back(batch)
        if not self._queue and not self._closing:
            self._arrived.clear()
        return batch

    def _take_all(self) -> list[_Entry]:
        rest = list(self._queue)
        self._queue.clear()
        self._give_room_back(rest)
        return rest

    def _give_room_back(self, entries: list[_Entry]) -> None:
        for entry in entries:
            if entry.takes_room:
                self._room.release()

    async def _commit_batch(self, batch: list[_Entry]) -> bool:
        if not batch:
            return True
        operations = [entry.operation for entry in batch]
        began_s = self._batch_began_s = self._now_s()
        try:
            outcomes, checkpoint_due = await self._execute(partial(self._run, operations, began_s))
        except Exception as error:  # noqa: BLE001 - it is handed to everyone who waits
            return self._refuse_batch(batch, error)
        except asyncio.CancelledError:
            for entry in batch:
                entry.future.cancel()
            raise
        finally:
            self._batch_began_s = None
        took_s = self._now_s() - began_s
        self._commits += 1
        self._commit_s += took_s
        self._commit_s_max = max(self._commit_s_max, took_s)
        self._settle(batch, outcomes)
        self.committed()
        if checkpoint_due and self._checkpointer is not None:
            return await self._checkpoint(self._checkpointer)
        return True

    def _run(
        self, operations: list[Operation[Any]], now_s: float, connection: sqlite3.Connection
    ) -> tuple[list[Any], bool]:
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

    def _settle(self, batch: list[_Entry], outcomes: list[Any]) -> None:
        refused = 0
        for entry, outcome in zip(batch, outcomes, strict=True):
            if type(outcome) is Refused:
                refused += 1
                entry.refused(self._say(outcome.error))
            else:
                entry.done(outcome)
        self._refused += refused
        self._operations += len(batch) - refused

    def _refuse_batch(self, batch: list[_Entry], error: Exception) -> bool:
        self._refused += len(batch)
        for entry in batch:
            # One exception object each: they are raised in different tasks.
            entry.refused(self._say(error))
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


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

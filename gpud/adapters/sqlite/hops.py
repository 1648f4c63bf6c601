"""Carries functions to SQLite connections: to their threads, or inline where there are none."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import aiosqlite

from gpud.adapters.sqlite.connection import READ_LIMIT_S, ReadDeadline, open_reader
from gpud.adapters.sqlite.failures import translate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

T = TypeVar("T")


class Execute(Protocol):
    """Carries a function to a connection and brings back its result."""

    def __call__(self, function: Callable[[sqlite3.Connection], T], /) -> Awaitable[T]:
        """Run `function` with the connection, wherever that lives."""
        ...


class Read(Protocol):
    """Runs a function on a snapshot of the database that never changes under it."""

    async def __call__(
        self, function: Callable[[sqlite3.Connection], T], /, *, limit_s: float = READ_LIMIT_S
    ) -> T:
        """Run `function` in a read transaction.

        Raises:
            Unavailable: It took longer than `limit_s`.
        """
        ...


async def open_connection(connector: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """Open a connection on a thread of its own; when that fails, the thread has ended as well.

    aiosqlite does not wait for its thread after a failed opening, which then may find the loop
    closed and print a traceback. So it is given a connection in any case.
    """
    failures: list[BaseException] = []

    def connect() -> sqlite3.Connection:
        try:
            return connector()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)
            return sqlite3.connect(":memory:")

    connection = aiosqlite.Connection(connect, iter_chunk_size=1)
    # A daemon that dies with its store open must not be kept alive by the store's threads.
    connection._thread.daemon = True  # noqa: SLF001 - aiosqlite offers no other way
    await connection
    if failures:
        await connection.close()
        raise failures[0]
    return connection


def on_thread(connection: aiosqlite.Connection) -> Execute:
    """Execute on the thread of an aiosqlite connection, one hop a function.

    aiosqlite's public methods hop once a statement, and a hop costs more than most statements.
    """

    async def execute(function: Callable[[sqlite3.Connection], T], /) -> T:
        hop: Callable[[Callable[[], T]], Awaitable[T]] = connection._execute  # noqa: SLF001 - see above
        return await hop(lambda: function(connection._conn))  # noqa: SLF001 - the same

    return execute


def inline(connection: sqlite3.Connection) -> Execute:
    """Execute at once, in the caller; for simulations, which must not have threads."""

    async def execute(function: Callable[[sqlite3.Connection], T], /) -> T:
        return function(connection)

    return execute


def inline_reads(connection: sqlite3.Connection) -> Read:
    """Read on the writing connection; nothing else can be in its transaction, for nothing waits there."""

    async def read(function: Callable[[sqlite3.Connection], T], /, *, limit_s: float = READ_LIMIT_S) -> T:
        try:
            return _snapshot(function, ReadDeadline(), limit_s, connection)
        except sqlite3.Error as error:
            raise translate(error, None) from error

    return read


class ReaderPool:
    """A few read-only connections; a slow read holds up only those behind it on the same one."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._readers: list[_Reader] = []

    async def open(self, path: Path, *, count: int) -> None:
        """Open the connections; the database must exist."""
        for _ in range(count):
            deadline = ReadDeadline()
            connection = await open_connection(partial(open_reader, path, deadline))
            self._readers.append(_Reader(connection, deadline))

    async def read(
        self, function: Callable[[sqlite3.Connection], T], /, *, limit_s: float = READ_LIMIT_S
    ) -> T:
        """Run a function in a read transaction on the least busy connection.

        Raises:
            Unavailable: It took longer than `limit_s`.
            StoreUnusable: The database cannot be read any more.
        """
        reader = min(self._readers, key=lambda reader: reader.waiting)
        reader.waiting += 1
        try:
            return await reader.execute(partial(_snapshot, function, reader.deadline, limit_s))
        except sqlite3.Error as error:
            raise translate(error, self._data_dir) from error
        finally:
            reader.waiting -= 1

    async def close(self) -> None:
        """Close every connection, waiting for reads under way."""
        for reader in self._readers:
            with suppress(sqlite3.Error):
                await reader.connection.close()
        self._readers.clear()


class _Reader:
    def __init__(self, connection: aiosqlite.Connection, deadline: ReadDeadline) -> None:
        self.connection = connection
        self.deadline = deadline
        self.execute = on_thread(connection)
        self.waiting = 0


def _snapshot(
    function: Callable[[sqlite3.Connection], T],
    deadline: ReadDeadline,
    limit_s: float,
    connection: sqlite3.Connection,
) -> T:
    deadline.start(limit_s)
    try:
        connection.execute("BEGIN")
        try:
            return function(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    finally:
        deadline.stop()

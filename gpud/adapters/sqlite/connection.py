"""Opens the database: creates it once, refuses what is not ours or not whole, sets it up."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from gpud.adapters.sqlite.failures import translate, translate_os
from gpud.adapters.sqlite.migrate import APPLICATION_ID, migrate, migrations
from gpud.adapters.sqlite.statements import SQL
from gpud.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables came with it."""

READ_LIMIT_S = 5.0
"""A longer read would keep the write-ahead log from being checkpointed."""

_log = structlog.get_logger()
_PROGRESS_INSTRUCTIONS = 20_000
_STATEMENTS_KEPT = 512
"""Prepared ones; more than there are, those of many rows included."""
_WAL_LIMIT_BYTES = 64 << 20


def sqlite_warning(version: tuple[int, int, int]) -> str | None:
    """Say what is known to be wrong with a SQLite version, or None.

    Versions before 3.51.3, except 3.44.6 and 3.50.7 and their successors, can corrupt a
    database in WAL mode when two connections write and checkpoint at the same moment. gpud
    writes and checkpoints on one connection alone, which avoids it.
    """
    if (3, 7, 0) <= version <= (3, 51, 2):
        mended = {(3, 44): 6, (3, 50): 7}.get(version[:2])
        if mended is None or version[2] < mended:
            return (
                f"SQLite {'.'.join(map(str, version))} has a fault in its write-ahead log that other "
                "programs writing to the database could bring out; open it read-only while gpud runs, "
                "or upgrade SQLite."
            )
    return None


def open_writer(path: Path, *, install_id: str, at_ms: int) -> sqlite3.Connection:
    """Open the writing connection, on the thread that will own it.

    A database that does not exist is made under another name and renamed when it is whole, so
    an empty or half-made file is never taken for a new one.

    Args:
        path: Of the database file.
        install_id: For a new database.
        at_ms: Unix wall time, for a new database.

    Raises:
        StoreUnusable: The file is damaged, somebody else's, or of a newer gpud.
        StorageFull: There is no room to make it.
    """
    _refuse_old_sqlite()
    with _translated(path):
        if not path.exists():
            _create(path, install_id=install_id, at_ms=at_ms)
        path.chmod(0o600)
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=_STATEMENTS_KEPT)
        try:
            _refuse_foreign(connection, path)
            _refuse_damaged(connection, path)
            migrate(connection, migrations(), path=path)
            set_up(connection)
            _start_log(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def set_up(connection: sqlite3.Connection) -> None:
    """Give the writing connection its settings; a database in memory ignores the file's."""
    connection.row_factory = sqlite3.Row
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {_WAL_LIMIT_BYTES}",
        "foreign_keys = ON",
        "busy_timeout = 5000",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def open_memory(*, install_id: str, at_ms: int) -> sqlite3.Connection:
    """Make a database in memory, for simulations and tests."""
    _refuse_old_sqlite()
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _fill(connection, install_id=install_id, at_ms=at_ms)
    set_up(connection)
    return connection


def open_reader(path: Path, deadline: ReadDeadline) -> sqlite3.Connection:
    """Open a read-only connection that gives up when `deadline` has passed."""
    with _translated(path):
        uri = f"file:{quote(str(path))}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        connection.row_factory = sqlite3.Row
        for pragma in (
            "query_only = ON",
            "busy_timeout = 5000",
            "trusted_schema = OFF",
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.set_progress_handler(deadline.has_passed, _PROGRESS_INSTRUCTIONS)
    return connection


class ReadDeadline:
    """When the read under way must end; asked by SQLite every few thousand steps."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._at_s: float | None = None

    def start(self, limit_s: float) -> None:
        """Begin to count."""
        self._at_s = self._now_s() + limit_s

    def stop(self) -> None:
        """Count no more."""
        self._at_s = None

    def has_passed(self) -> bool:
        """Whether the read has taken too long; True interrupts it."""
        return self._at_s is not None and self._now_s() > self._at_s


class _translated:  # noqa: N801 - reads as the verb of a with statement
    """Turns errors of SQLite and the system into gpud's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case sqlite3.DatabaseError() if _is_damage(error):
                raise StoreUnusable(_damaged(self._path, str(error))) from error
            case sqlite3.Error():
                raise translate(error, self._path.parent) from error
            case OSError():
                raise translate_os(error, f"{self._path} cannot be opened") from error
            case _:
                pass


def _refuse_old_sqlite() -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreUnusable(
            f"SQLite {sqlite3.sqlite_version} is too old: gpud needs {'.'.join(map(str, OLDEST_SQLITE))}. "
            "Use a Python built with a newer one."
        )


def _create(path: Path, *, install_id: str, at_ms: int) -> None:
    log_path = path.with_name(path.name + "-wal")
    if log_path.exists():
        raise StoreUnusable(
            f"{path} is missing but its write-ahead log {log_path.name} is there, "
            "so it was moved or deleted. Bring it back from where it is or from a backup; "
            f"or remove {log_path.name} as well, to start with nothing."
        )
    new_path = path.with_name(path.name + ".new")
    for leftover in (new_path, new_path.with_name(new_path.name + "-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new_path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(new_path, isolation_level=None)) as connection:
            # Only possible before the first table.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _fill(connection, install_id=install_id, at_ms=at_ms)
        new_path.rename(path)
    except BaseException:
        with suppress(OSError):
            new_path.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)
    _log.info("store.created", path=str(path), install_id=install_id)


def _fill(connection: sqlite3.Connection, *, install_id: str, at_ms: int) -> None:
    migrate(connection, migrations())
    connection.execute(SQL["install_insert"], {"install_id": install_id, "created_at_ms": at_ms})


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size == 0:
        raise StoreUnusable(_damaged(path, "it is empty"))
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        raise StoreUnusable(
            f"{path} is another program's database (application id {application_id:#x}), "
            "so gpud leaves it alone. Set paths.data_dir to a directory of gpud's own."
        )


def _refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        first = re.sub(r"\s+", " ", verdict)
        raise StoreUnusable(_damaged(path, first))


def _start_log(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        raise StoreUnusable(
            f"{path} cannot have a write-ahead log here (journal mode {mode}). "
            "Set paths.data_dir to a directory on a local disk."
        )
    # A transaction makes SQLite open the log, which the checkpointer then finds.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged: {why}. gpud changes nothing in it. "
        f"Restore a backup (see docs/howto/recovery.md), or move it away to start with nothing."
    )

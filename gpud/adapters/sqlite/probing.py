"""Tries whether a disk can hold the database, and reads a database's numbers without opening it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.connection import sqlite_warning
from gpud.adapters.sqlite.migrate import APPLICATION_ID

if TYPE_CHECKING:
    from pathlib import Path

_HEADER_BYTES = 100


def write_ahead_log_fault(path: Path) -> str:
    """Make a database there with a write-ahead log; says why it cannot be, empty when it can."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                return f"SQLite cannot keep a write-ahead log there (journal mode {mode})"
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA user_version = 1")  # a write, through the log and synced
    except sqlite3.Error as error:
        return f"SQLite cannot write there: {error}"
    return ""


def schema_of(path: Path) -> int | None:
    """The number of a database's schema, from its first page; None when it is no database of gpud's.

    Opening it would take part in its locking, which is the daemon's alone.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return None
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        return None
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        return None
    return int.from_bytes(header[60:64], "big")


def sqlite_told() -> tuple[str, str]:
    """The version of SQLite, and what is known to be wrong with it; empty when nothing is."""
    return sqlite3.sqlite_version, sqlite_warning(sqlite3.sqlite_version_info) or ""

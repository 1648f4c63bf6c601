"""What a SQLite error means for gpud: try later, a bug, or the end of this daemon."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from typing import TYPE_CHECKING

from gpud.errors import DependencyDown, GpudError, InvariantBroken, StorageFull, StoreUnusable, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

_SYNC_FAILED = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OUT_OF_REACH = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_FULL = (ENOSPC, EDQUOT)
_PROBE_BYTES = 65_536


def translate(error: sqlite3.Error, data_dir: Path | None) -> GpudError:
    """Say what a SQLite error means.

    A failed fsync leaves the kernel's page cache in a state nobody knows, so gpud does not go
    on over it: it ends and reads back what is on the disk. A full disk is no such thing.

    Args:
        error: As raised by `sqlite3`.
        data_dir: Where the database is; None for one in memory.

    Returns:
        `StorageFull`, `DependencyDown` and `Unavailable` may pass; `StoreUnusable` ends the
        daemon; `InvariantBroken` is a bug.
    """
    extended = getattr(error, "sqlite_errorcode", None)
    if extended is None:
        return InvariantBroken(f"The store was used wrongly: {error}.")
    code = extended & 0xFF
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(extended, data_dir)):
        return StorageFull(
            f"The disk of {data_dir or 'the store'} is full, so nothing was written. "
            "Free some space; gpud goes on by itself."
        )
    if code == sqlite3.SQLITE_IOERR or code in _DAMAGED or code in _OUT_OF_REACH:
        return StoreUnusable(
            f"The database in {data_dir or 'memory'} cannot be used any more: {error} ({name}). "
            "Look at the kernel log for disk errors; gpud stops so as to lose nothing."
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DependencyDown(
            f"Another program holds the database in {data_dir or 'memory'} locked, so nothing was written. "
            "Close it and try again."
        )
    if code == sqlite3.SQLITE_INTERRUPT:
        return Unavailable("The query took longer than reads may. Ask for a shorter period or fewer rows.")
    if code == sqlite3.SQLITE_NOMEM:
        return StoreUnusable("SQLite is out of memory. gpud stops and starts again.")
    return InvariantBroken(f"The store refused a statement: {error} ({name}).")


def translate_os(error: OSError, what: str) -> GpudError:
    """Say what a refusal by the system means.

    Args:
        error: As raised.
        what: What was refused, as the beginning of a sentence.
    """
    if error.errno in _FULL:
        return StorageFull(f"{what}: {error.strerror}. Free some space and start again.")
    return StoreUnusable(
        f"{what}: {error.strerror}. Run gpud as a user who owns its data directory, or set paths.data_dir."
    )


def is_fatal(error: BaseException) -> bool:
    """Whether the daemon must end after this."""
    return isinstance(error, StoreUnusable)


def _is_full(extended: int, data_dir: Path | None) -> bool:
    if extended in _SYNC_FAILED or data_dir is None:
        return False
    # SQLite does not tell the errno. A disk or quota that is full says so to any write.
    path = data_dir / f".full-{os.getpid()}"
    try:
        with path.open("wb") as probe:
            probe.write(b"\0" * _PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as refused:
        return refused.errno in _FULL
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return False

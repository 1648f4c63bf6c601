"""Copies the database as it is at one moment, also while the daemon writes to it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from gpud.adapters.sqlite.failures import translate, translate_os
from gpud.adapters.sqlite.migrate import APPLICATION_ID
from gpud.adapters.sqlite.sealing import Sealer
from gpud.adapters.sqlite.statements import SQL
from gpud.errors import StoreUnusable

if TYPE_CHECKING:
    from pathlib import Path

_JOBS_SINCE = 2
"""The schema with which there are jobs."""
_ONE_STEP = -1


class Copied(NamedTuple):
    """What is in a copy.

    Args:
        schema: Number of its schema.
        install_id: Of the installation.
        payloads: Names of the files its jobs refer to.
    """

    schema: int
    install_id: str
    payloads: tuple[str, ...]


def copy_database(path: Path, to: Path) -> Copied:
    """Copy the database in one step of reading, which holds no writer up.

    In several steps SQLite would begin anew whenever another process writes. While it reads, the write-ahead
    log cannot be cut off and grows by what is written.

    Args:
        path: Of the database.
        to: Of the copy; must not exist.

    Raises:
        StoreUnusable: It cannot be read, or the copy is not whole.
        StorageFull: There is no room for the copy.
    """
    try:
        os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with (
            closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(to, isolation_level=None)) as copy,
        ):
            copy.execute("PRAGMA synchronous = OFF")
            source.backup(copy, pages=_ONE_STEP)
            # One file that needs no log beside it, whoever opens it.
            copy.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.Error as error:
        raise translate(error, to.parent) from error
    except OSError as error:
        raise translate_os(error, f"The copy {to} cannot be made") from error
    return inspect(to)


def inspect(path: Path, *, master_key: bytes | None = None) -> Copied:
    """Look whether a copy is whole, and what is in it.

    Args:
        path: Of the copy.
        master_key: Must be the one that its secrets are encrypted with; None to leave that open.

    Raises:
        StoreUnusable: It is damaged, somebody else's, or of another key.
    """
    try:
        with closing(_open_copy(path)) as copy:
            if copy.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StoreUnusable(f"{path.name} is another program's database.")
            verdict = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise StoreUnusable(f"{path.name} is damaged: {verdict}.")
            schema: int = copy.execute("PRAGMA user_version").fetchone()[0]
            row = copy.execute(SQL["install_read"]).fetchone()
            rows = copy.execute(SQL["job_payload_files"]).fetchall() if schema >= _JOBS_SINCE else []
    except sqlite3.Error as error:
        raise StoreUnusable(f"{path.name} is damaged: {error}.") from error
    known = row["master_key_check"]
    if master_key is not None and known is not None:
        check = Sealer(master_key, install_id=row["install_id"]).key_check
        if check != known:
            raise StoreUnusable("The master key is not the one that the database's secrets were sealed with.")
    return Copied(schema, row["install_id"], tuple(row["ref"] for row in rows))


def _open_copy(path: Path) -> sqlite3.Connection:
    copy = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    copy.row_factory = sqlite3.Row
    return copy

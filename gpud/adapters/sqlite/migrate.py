"""Brings a database to the present schema: forwards only, each step whole or not at all."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import structlog

from gpud.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

APPLICATION_ID = 0x67707564
"""`gpud` in ASCII: marks the file as ours."""

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step; never edited once released."""

    version: int
    name: str
    script: str


def migrations() -> tuple[Migration, ...]:
    """List the steps this version knows, in order.

    Raises:
        ValueError: The numbers have a gap; only a broken installation has that.
    """
    found = []
    for file in resources.files(__package__ or "").joinpath("migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            text = file.read_text(encoding="utf-8")
            found.append(Migration(version=int(match[1]), name=file.name, script=text))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the numbers of gpud's migrations have a gap")
    return tuple(found)


def migrate(
    connection: sqlite3.Connection, steps: Sequence[Migration], *, path: Path | None = None
) -> tuple[int, int]:
    """Apply the steps a database lacks, after keeping a copy of it.

    Args:
        connection: Without a transaction; foreign keys must not be enforced yet.
        steps: Every known step, in order.
        path: Of the database, for the copy and for messages; None in memory or when it is new.

    Returns:
        The version before and after.

    Raises:
        StoreUnusable: It was written by a newer gpud, or a step fails; nothing was changed.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = len(steps)
    if version > newest:
        raise StoreUnusable(
            f"{path or 'The database'} was written by a newer gpud "
            f"(schema {version}, this one knows {newest}). "
            "Install that version again, or restore a backup made before the upgrade."
        )
    missing = steps[version:]
    if missing and path is not None:
        _back_up(connection, path, version)
    for step in missing:
        _apply(connection, step, path)
        if path is not None:
            _log.info("store.migrated", version=step.version, migration=step.name)
    return version, newest


def _apply(connection: sqlite3.Connection, step: Migration, path: Path | None) -> None:
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{step.script}\n;PRAGMA user_version = {step.version};\n"
            f"PRAGMA application_id = {APPLICATION_ID};"
        )
        dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
        if dangling is not None:
            raise sqlite3.IntegrityError(f"rows of {dangling[0]} refer to missing rows of {dangling[2]}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise StoreUnusable(
            f"{path or 'The database'} could not be brought to schema {step.version} ({step.name}): {error}. "
            "It is as it was before; the older gpud still reads it."
        ) from error


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    copy_path = path.with_name(f"{path.name}.before-{version + 1:04d}")
    partial_path = copy_path.with_name(copy_path.name + ".partial")
    try:
        partial_path.unlink(missing_ok=True)
        partial_path.touch(mode=0o600)
        with closing(sqlite3.connect(partial_path)) as copy:
            connection.backup(copy)
        partial_path.replace(copy_path)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            partial_path.unlink(missing_ok=True)
        raise StoreUnusable(
            f"No copy of {path} could be made before its migration: {error}. Nothing was changed. "
            "Free some space and start again."
        ) from error
    _log.info("store.backed_up", path=str(copy_path), version=version)

"""Reads from a database, beside the daemon, what a support bundle needs: its secrets, and its sizes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.connection import ReadDeadline, open_reader
from gpud.adapters.sqlite.sealing import REGISTRY, WEBHOOK, Sealer
from gpud.adapters.sqlite.statements import SQL
from gpud.core.support import without_secrets
from gpud.errors import GpudError

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT_S = 10.0


def known_secrets(path: Path, master_key: bytes | None) -> tuple[str, ...]:
    """Everything stored that is secret, decrypted, so that it can be looked for in what leaves the box.

    Args:
        path: Of the database.
        master_key: That stored credentials are encrypted with; without it they cannot be told.

    Raises:
        GpudError: The database cannot be read.
    """
    found: list[str] = []
    with closing(open_reader(path, ReadDeadline())) as database:
        try:
            for row in database.execute(SQL["specs_all"]):
                spec = json.loads(row["spec"])
                found += without_secrets({**spec, "env": dict(spec.get("env", ()))})[1]
            found += [row["url"] for row in database.execute(SQL["webhooks_all"])]
            if master_key is not None:
                found += _unsealed(database, master_key)
        except sqlite3.Error as error:
            raise GpudError(f"The stored secrets cannot be read: {error}.") from error
    if master_key is not None:
        found.append(master_key.hex())
    return tuple(dict.fromkeys(text for text in found if text))


def _unsealed(database: sqlite3.Connection, master_key: bytes) -> list[str]:
    sealer = Sealer(master_key, install_id=database.execute(SQL["install_read"]).fetchone()["install_id"])
    sealed = []
    for row in database.execute(SQL["registries_all"]).fetchall():
        kept = database.execute(SQL["registry_read"], {"name": row["name"]}).fetchone()
        sealed.append((REGISTRY, row["name"], kept["password_nonce"], kept["password_sealed"]))
    for row in database.execute(SQL["webhooks_all"]):
        sealed.append((WEBHOOK, row["id"], row["secret_nonce"], row["secret_sealed"]))
        if row["old_secret_nonce"] is not None:
            sealed.append((WEBHOOK, row["id"], row["old_secret_nonce"], row["old_secret_sealed"]))
    found = []
    for kind, name, nonce, text in sealed:
        with suppress(GpudError):  # of another key
            found.append(sealer.unseal(nonce, text, kind=kind, name=name))
    return found


def table_sizes(path: Path) -> list[dict[str, object]]:
    """How many bytes and cells each table and index has; empty where SQLite cannot tell in time."""
    deadline = ReadDeadline()
    try:
        with closing(open_reader(path, deadline)) as database:
            deadline.start(_LIMIT_S)
            return [dict(row) for row in database.execute(SQL["table_sizes"])]
    except (sqlite3.Error, GpudError):
        return []

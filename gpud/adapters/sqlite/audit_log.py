"""The audit log, on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.statements import SQL
from gpud.core.audit_log import AuditEntry, AuditFilter

if TYPE_CHECKING:
    import sqlite3

    from gpud.adapters.sqlite.committer import GroupCommitter
    from gpud.adapters.sqlite.hops import Read

FORGOTTEN_AT_ONCE = 1000
"""Expired entries deleted with one that is written: more than come, and no long write."""

ENTRIES_MAX = 1000
"""Most entries of one page."""

_FAR_FUTURE = 1 << 62


class SqliteAuditLog:
    """The audit log (port `AuditLogStore`)."""

    def __init__(self, committer: GroupCommitter, read: Read) -> None:
        self._committer = committer
        self._read = read

    async def append(self, entry: AuditEntry, *, forget_before_ms: int) -> None:
        """Write an entry, and delete some of those that are older."""
        params = asdict(entry)
        del params["seq"]
        old = {"before_ms": forget_before_ms, "limit": FORGOTTEN_AT_ONCE}

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["audit_log_insert"], params)
            connection.execute(SQL["audit_log_forget"], old)

        await self._committer.write(write)

    async def page(
        self, wanted: AuditFilter, *, before_seq: int = 0, limit: int = 100
    ) -> tuple[AuditEntry, ...]:
        """Entries newest first, those below `before_seq` (0: from the newest)."""
        return await self._rows("audit_log_before", wanted, before_seq or _FAR_FUTURE, limit)

    async def after(self, wanted: AuditFilter, *, seq: int, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Entries oldest first, those above `seq`."""
        return await self._rows("audit_log_after", wanted, seq, limit)

    async def _rows(
        self, statement: str, wanted: AuditFilter, seq: int, limit: int
    ) -> tuple[AuditEntry, ...]:
        params = {
            "caller": wanted.caller,
            "operation": wanted.operation,
            "subject": wanted.subject,
            "since_ms": wanted.since_ms,
            "until_ms": wanted.until_ms or _FAR_FUTURE,
            "seq": seq,
            "limit": max(1, min(limit, ENTRIES_MAX)),
        }
        return await self._read(
            lambda connection: tuple(
                AuditEntry(**dict(row)) for row in connection.execute(SQL[statement], params)
            )
        )

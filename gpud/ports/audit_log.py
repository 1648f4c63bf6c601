"""Where calls that change something are written down, and how they are read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpud.core.audit_log import AuditEntry, AuditFilter


class AuditLogStore(Protocol):
    """The audit log: entries are added and, after their time, deleted; none ever changes."""

    async def append(self, entry: AuditEntry, *, forget_before_ms: int) -> None:
        """Write an entry, and delete some of those that are older; it is on disk when this returns.

        Raises:
            StorageFull: The disk is full; nothing was written.
        """
        ...

    async def page(
        self, wanted: AuditFilter, *, before_seq: int = 0, limit: int = 100
    ) -> tuple[AuditEntry, ...]:
        """Entries newest first, those below `before_seq` (0: from the newest)."""
        ...

    async def after(self, wanted: AuditFilter, *, seq: int, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Entries oldest first, those above `seq`."""
        ...

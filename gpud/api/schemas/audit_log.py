"""The audit log as the API shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gpud.api.schemas.base import Document, PageQuery, Timestamp, timestamp

if TYPE_CHECKING:
    from gpud.core.audit_log import AuditEntry


class AuditLogQuery(PageQuery):
    """Which entries are asked for."""

    caller: Annotated[str, Field(max_length=100)] = ""
    """Only calls of this API key, by its id; `local` for the Unix socket."""
    operation: Annotated[str, Field(max_length=100)] = ""
    """Only calls of this operation, by its `operationId`."""
    subject: Annotated[str, Field(max_length=500)] = ""
    """Only calls about this thing, such as `endpoints/llm`."""
    since: Timestamp | None = None
    """Only calls that ended at this time or later."""
    until: Timestamp | None = None
    """Only calls that ended before this time."""
    after: Annotated[int | None, Field(ge=0, lt=1 << 62)] = None
    """Oldest first, those with a larger `seq`: 0 for all. For exports that go on where the last one ended."""


class AuditEntryDocument(Document):
    """A call that changed something, or was to."""

    seq: int
    """Orders entries."""
    at: Timestamp
    request_id: str
    caller: str
    """Id of the API key; `local` for the administrator at the Unix socket."""
    source: str
    """Address of the client, or its user id at the Unix socket."""
    operation: str
    method: str
    path: str
    """Without parameters."""
    subject: str
    """What it was about, such as `endpoints/llm`; empty for calls about no single thing."""
    status: int
    before: str
    """SHA-256 of what the thing was declared to be before the call; empty when there was none."""
    after: str
    """The same after it."""
    detail: str
    """What the rest does not say, such as the command of a session in a worker, and how it ended."""


class AuditLogPage(Document):
    """Entries of the audit log."""

    items: tuple[AuditEntryDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


def audit_entry_document(entry: AuditEntry) -> AuditEntryDocument:
    """Show an entry."""
    return AuditEntryDocument(
        seq=entry.seq,
        at=timestamp(entry.at_ms),
        request_id=entry.request_id,
        caller=entry.caller,
        source=entry.source,
        operation=entry.operation,
        method=entry.method,
        path=entry.path,
        subject=entry.subject,
        status=entry.status,
        before=entry.before,
        after=entry.after,
        detail=entry.detail,
    )

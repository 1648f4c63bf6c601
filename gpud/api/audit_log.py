"""The audit log: who changed what, newest first, or oldest first for an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer, cursor_for, position_of
from gpud.api.schemas.audit_log import AuditLogPage, AuditLogQuery, audit_entry_document
from gpud.api.schemas.base import at_ms
from gpud.api.services import SERVICES
from gpud.core.audit_log import AuditFilter
from gpud.errors import InvalidRequest

if TYPE_CHECKING:
    from aiohttp import web


async def list_audit_log(request: web.Request) -> web.StreamResponse:
    """Entries in pages; a cursor remembers in which order it was given."""
    query, log = query_of(request, AuditLogQuery), request.app[SERVICES].audit_log
    wanted = AuditFilter(
        caller=query.caller,
        operation=query.operation,
        subject=query.subject,
        since_ms=at_ms(query.since),
        until_ms=at_ms(query.until),
    )
    position = _seq_of(position_of(query.cursor))
    if query.after is None:
        rows = await log.page(wanted, before_seq=position, limit=query.limit + 1)
    else:
        rows = await log.after(wanted, seq=max(query.after, position), limit=query.limit + 1)
    page = rows[: query.limit]
    following = cursor_for(str(page[-1].seq)) if len(rows) > len(page) else None
    return answer(AuditLogPage(items=tuple(audit_entry_document(row) for row in page), next=following))


def _seq_of(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        why = "must be `next` of an earlier answer"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why})
    return int(text)


OPERATIONS_HERE = (
    Operation(
        name="list_audit_log",
        method="GET",
        path="/v1/audit-log",
        handler=list_audit_log,
        scope=Scope.ADMIN,
        summary="List calls that changed something: who, from where, what",
        tag="system",
        query=AuditLogQuery,
        answer=AuditLogPage,
    ),
)

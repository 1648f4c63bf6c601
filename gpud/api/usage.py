"""Usage and its price, and whether the books hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer
from gpud.api.schemas.access import (
    AuditDocument,
    UsageDocument,
    UsageQuery,
    UsageTotal,
    usage_line,
)
from gpud.api.schemas.base import at_ms, timestamp
from gpud.api.services import SERVICES

if TYPE_CHECKING:
    from aiohttp import web


async def show_usage(request: web.Request) -> web.StreamResponse:
    """A usage report; running workers count up to now."""
    services = request.app[SERVICES]
    query = query_of(request, UsageQuery)
    prices = services.settings.prices
    until_ms = at_ms(query.until) or services.clock.at_ms()
    rows = await services.reads.usage(
        by=query.by, endpoint=query.endpoint, since_ms=at_ms(query.since), until_ms=at_ms(query.until)
    )
    lines = tuple(usage_line(row, gpu_hour_micros=prices.gpu_hour_micros) for row in rows)
    total = UsageTotal(
        gpu_ms=sum(line.gpu_ms for line in lines),
        wall_ms=sum(line.wall_ms for line in lines),
        billed_s=sum(line.billed_s for line in lines),
        sessions=sum(line.sessions for line in lines),
        cost_micros=sum(line.cost_micros for line in lines),
    )
    report = UsageDocument(
        by=query.by,
        since=query.since,
        until=timestamp(until_ms),
        currency=prices.currency,
        gpu_hour_micros=prices.gpu_hour_micros,
        items=lines,
        total=total,
    )
    return answer(report)


async def show_audit(request: web.Request) -> web.StreamResponse:
    """Check the invariants of metering and leases."""
    breaches = await request.app[SERVICES].reads.audit()
    return answer(AuditDocument(ok=not breaches, breaches=breaches))


OPERATIONS_HERE = (
    Operation(
        name="show_usage",
        method="GET",
        path="/v1/usage",
        handler=show_usage,
        scope=Scope.READ,
        summary="Report GPU time and its price",
        tag="usage",
        query=UsageQuery,
        answer=UsageDocument,
    ),
    Operation(
        name="show_audit",
        method="GET",
        path="/v1/audit",
        handler=show_audit,
        scope=Scope.READ,
        summary="Check the invariants of metering and leases",
        tag="usage",
        answer=AuditDocument,
    ),
)

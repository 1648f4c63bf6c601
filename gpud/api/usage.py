"""Usage and its price, and whether the books hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.parsing import query_of
from gpud.api.rendering import answer, cursor_for, position_of
from gpud.api.schemas.access import AuditDocument
from gpud.api.schemas.base import at_ms, timestamp
from gpud.api.schemas.segments import SegmentPage, SegmentsQuery, segment_document
from gpud.api.schemas.usage import UsageDocument, UsageQuery, UsageTotal, usage_line
from gpud.api.services import SERVICES
from gpud.api.tariffs import tariff_of
from gpud.core.energy import EnergyTariff
from gpud.core.usage import FINER_NS, NS_PER_MS, UsageBy
from gpud.errors import InvalidRequest

if TYPE_CHECKING:
    from aiohttp import web


LINES_MAX = 86_400
"""Of a report by minute or second: a day of seconds, sixty of minutes."""


async def show_usage(request: web.Request) -> web.StreamResponse:
    """A usage report; running workers count up to now."""
    services = request.app[SERVICES]
    query = query_of(request, UsageQuery)
    prices = services.settings.prices
    until_ms = at_ms(query.until) or services.clock.at_ms()
    _require_few_lines(query.by, until_ms - at_ms(query.since))
    rows = await services.reads.usage(
        by=query.by,
        endpoint=query.endpoint,
        since_ms=at_ms(query.since),
        until_ms=at_ms(query.until),
        tariff=await tariff_of(services),
        running=services.readings.running(),
    )
    labels = (
        {str(key.id): key.label for key in services.keyring.list_keys()} if query.by is UsageBy.KEY else {}
    )
    energy = services.settings.energy
    rates = EnergyTariff(kwh_micros=energy.kwh_micros, co2_g_per_kwh=energy.co2_g_per_kwh)
    lines = tuple(usage_line(row, rates, label=labels.get(row.key, "")) for row in rows)
    total = UsageTotal(
        gpu_ms=sum(line.gpu_ms for line in lines),
        wall_ms=sum(line.wall_ms for line in lines),
        billed_s=sum(line.billed_s for line in lines),
        sessions=sum(line.sessions for line in lines),
        cost_micros=sum(line.cost_micros for line in lines),
        energy_mj=sum(line.energy_mj for line in lines),
        sampled_mj=sum(line.sampled_mj for line in lines),
        energy_cost_micros=sum(line.energy_cost_micros for line in lines),
        co2_mg=sum(line.co2_mg for line in lines),
    )
    report = UsageDocument(
        by=query.by,
        since=query.since,
        until=timestamp(until_ms),
        currency=prices.currency,
        gpu_hour_micros=prices.gpu_hour_micros,
        kwh_micros=energy.kwh_micros,
        co2_g_per_kwh=energy.co2_g_per_kwh,
        items=lines,
        total=total,
    )
    return answer(report)


def _require_few_lines(by: UsageBy, period_ms: int) -> None:
    if by not in FINER_NS:
        return
    most_ms = LINES_MAX * FINER_NS[by] // NS_PER_MS
    if period_ms > most_ms:
        why = f"must be at most {most_ms // 3_600_000} hours before until in a report by {by.value}"
        raise InvalidRequest(f"since: {why}.", fields={"since": why})


async def list_segments(request: web.Request) -> web.StreamResponse:
    """What was metered, segment by segment; each is named for good by its worker and number."""
    query = query_of(request, SegmentsQuery)
    rows = await request.app[SERVICES].reads.segments(
        endpoint=query.endpoint,
        since_ms=at_ms(query.since),
        until_ms=at_ms(query.until),
        after=_after(position_of(query.cursor)),
        limit=query.limit + 1,
    )
    page = rows[: query.limit]
    following = cursor_for(f"{page[-1].worker_id}.{page[-1].seq}") if len(rows) > len(page) else None
    return answer(SegmentPage(items=tuple(segment_document(row) for row in page), next=following))


def _after(position: str) -> tuple[str, int]:
    if not position:
        return "", -1
    worker_id, _, seq = position.rpartition(".")
    if not (seq.isascii() and seq.isdigit() and len(seq) <= 18):
        why = "must be `next` of an earlier answer"
        raise InvalidRequest(f"cursor: {why}.", fields={"cursor": why})
    return worker_id, int(seq)


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
        name="list_usage_segments",
        method="GET",
        path="/v1/usage/segments",
        handler=list_segments,
        scope=Scope.READ,
        summary="Export what was metered, segment by segment",
        tag="usage",
        query=SegmentsQuery,
        answer=SegmentPage,
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

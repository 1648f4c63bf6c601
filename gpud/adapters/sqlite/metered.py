"""Sums up usage: by hour where whole hours count, by segment where a period cuts through one."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpud.adapters.sqlite import metered_rows
from gpud.adapters.sqlite.energetics import energy_by_line, with_energy
from gpud.adapters.sqlite.statements import SQL
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.key_shares import with_shares
from gpud.core.metering import BILLABLE, Phase
from gpud.core.unleased import parts, spans, unleased
from gpud.core.usage import (
    FINER_NS,
    HOUR_NS,
    NS_PER_MS,
    Moment,
    Period,
    Session,
    Stretch,
    UsageBy,
    UsageRow,
    cut_hour,
    ended_at,
    ended_by,
    hours_cut,
    stretches_of,
    usage_rows,
    whole_hours,
)
from gpud.core.usage_keys import by_key, with_the_rest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from gpud.core.pricing import Tariff
    from gpud.ports.store import Running

_FAR_FUTURE = 1 << 62


def last_seen(connection: sqlite3.Connection) -> tuple[str, int] | None:
    """Boot id and boot time of the last heartbeat."""
    beat = connection.execute(SQL["heartbeat_read"]).fetchone()
    return None if beat is None else (beat["boot_id"], beat["boot_ns"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a report is about.

    Args:
        by: What has a line.
        endpoint: Only this one's; empty for all.
        now: For open segments.
        running: What keys had of open segments.
        whole: Time in which nobody had a GPU is asked for too.
    """

    by: UsageBy
    endpoint: str
    now: Moment
    running: Running
    whole: bool = True


def usage_of(
    connection: sqlite3.Connection, asked: Asked, *, period: Period, tariff: Tariff
) -> tuple[UsageRow, ...]:
    """Sum what was metered in a period; open segments count up to now.

    Args:
        connection: In a read transaction.
        asked: What it is about.
        period: What counts.
        tariff: What it costs.
    """
    priced = _priced(connection, asked, period, tariff)
    sessions = _sessions(connection, asked.endpoint, period, asked.now)
    lines = usage_rows(priced, sessions, by=asked.by, price=tariff.micros)

    def stretches(part: Period, by: UsageBy) -> Iterator[Stretch]:
        return _stretches(connection, replace(asked, by=by), part)

    return with_energy(lines, energy_by_line(connection, asked.by, asked.endpoint, period, stretches))


def spent_of(
    connection: sqlite3.Connection, asked: Asked, *, period: Period, tariff: Tariff
) -> tuple[UsageRow, ...]:
    """Sum the time alone, and price it; args as `usage_of`."""
    return usage_rows(_priced(connection, asked, period, tariff), (), by=asked.by, price=tariff.micros)


def _priced(
    connection: sqlite3.Connection, asked: Asked, period: Period, tariff: Tariff
) -> Iterator[Stretch]:
    for piece, at_ns in tariff.pieces(period):
        for stretch in _stretches(connection, asked, piece):
            yield replace(stretch, priced_ns=at_ns)


def _stretches(connection: sqlite3.Connection, asked: Asked, period: Period) -> Iterator[Stretch]:
    by, endpoint = asked.by, asked.endpoint
    if not endpoint and asked.whole:
        yield from unleased_stretches(connection, period, every_ns=FINER_NS.get(by, HOUR_NS))
    if by in FINER_NS:
        yield from _finer_stretches(connection, by, endpoint, period)
    else:
        yield from _hourly_stretches(connection, by, endpoint, period)
    for row in connection.execute(SQL["segments_open"]):
        segment = ended_by(metered_rows.segment_of(row), asked.now)
        if endpoint not in ("", segment.endpoint):
            continue
        stretches = stretches_of(segment, period, every_ns=FINER_NS.get(by, HOUR_NS))
        if by is UsageBy.KEY:
            seq, shares_ns = asked.running.get(segment.worker_id, (-1, {}))
            segment = with_shares(segment, shares_ns if seq == segment.seq else {})
            stretches = by_key(segment, stretches)
        yield from stretches


def unleased_stretches(connection: sqlite3.Connection, period: Period, *, every_ns: int) -> Iterator[Stretch]:
    """Time in which the daemon ran and nobody had a GPU.

    Args:
        connection: In a read transaction.
        period: What counts.
        every_ns: Of a bucket.
    """
    watches = list(map(metered_rows.watch_of, connection.execute(SQL["gpu_watches"], _reach("", period))))
    holds = [
        metered_rows.hold_of(row)
        for boot_id, (first_ns, last_ns) in spans(watches, period).items()
        for row in connection.execute(
            SQL["leases_reaching_into"], {"boot_id": boot_id, "first_ns": first_ns, "last_ns": last_ns}
        )
    ]
    yield from unleased(parts(watches, holds), period, every_ns=every_ns)


def _finer_stretches(
    connection: sqlite3.Connection, by: UsageBy, endpoint: str, period: Period
) -> Iterator[Stretch]:
    """Straight from the closed segments, since nothing is summed up by less than an hour."""
    for row in connection.execute(SQL["segments_reaching_into"], _reach(endpoint, period)):
        yield from stretches_of(metered_rows.segment_of(row), period, every_ns=FINER_NS[by])


def _reach(endpoint: str, period: Period) -> dict[str, object]:
    return {
        "endpoint": endpoint,
        "since_ms": -_FAR_FUTURE if period.since_ns is None else period.since_ns // NS_PER_MS,
        "until_ms": _FAR_FUTURE if period.until_ns is None else -(-period.until_ns // NS_PER_MS),
    }


def _hourly_stretches(
    connection: sqlite3.Connection, by: UsageBy, endpoint: str, period: Period
) -> Iterator[Stretch]:
    yield from hour_stretches(connection, by=by, endpoint=endpoint, hours=whole_hours(period))
    for hour in hours_cut(period):
        if by is UsageBy.KEY:
            yield from _cut_hour_by_key(connection, endpoint, hour, period)
            continue
        whole = hour_stretches(connection, by=UsageBy.HOUR, endpoint=endpoint, hours=(hour, hour + 1))
        borders = {
            "start_ms": hour * HOUR_NS // NS_PER_MS,
            "end_ms": (hour + 1) * HOUR_NS // NS_PER_MS,
        }
        segments = map(metered_rows.segment_of, connection.execute(SQL["segments_begun_or_ended"], borders))
        mine = (segment for segment in segments if endpoint in ("", segment.endpoint))
        yield from cut_hour(hour, whole, mine, period)


def _cut_hour_by_key(
    connection: sqlite3.Connection, endpoint: str, hour: int, period: Period
) -> Iterator[Stretch]:
    """Straight from the closed segments."""
    start_ns, end_ns = period.clip(hour * HOUR_NS, (hour + 1) * HOUR_NS)
    part = Period(since_ns=start_ns, until_ns=end_ns)
    for row in connection.execute(SQL["segments_reaching_into"], _reach(endpoint, part)):
        segment = metered_rows.segment_of(row)
        yield from by_key(segment, stretches_of(segment, part))


def hour_stretches(
    connection: sqlite3.Connection,
    *,
    by: UsageBy,
    endpoint: str = "",
    hours: tuple[int | None, int | None] = (None, None),
) -> Iterator[Stretch]:
    """What was summed by hour, joined as far as the lines allow.

    Args:
        connection: In a read transaction.
        by: What has a line.
        endpoint: Only this one's; empty for all.
        hours: First hour since 1970 and the first not to count; None is without bound.
    """
    first, last = hours
    bucket_hours = {UsageBy.DAY: 24, UsageBy.HOUR: 1}.get(by, _FAR_FUTURE)
    params = {
        "endpoint": endpoint,
        "first": -_FAR_FUTURE if first is None else first,
        "last": _FAR_FUTURE if last is None else last,
        "bucket_hours": bucket_hours,
    }

    def stretch(row: sqlite3.Row, key: str = "") -> Stretch:
        return Stretch(
            worker_id=WorkerId(row["worker_id"]),
            endpoint=EndpointName(row["endpoint"]),
            gpu_uuids=tuple(GpuUuid(uuid) for uuid in json.loads(row["gpu_uuids"])),
            phase=Phase(row["phase"]),
            at_ns=row["bucket"] * bucket_hours * HOUR_NS,
            ns=row["ns"],
            share_ppm=row["share_ppm"],
            key=key,
        )

    whole = map(stretch, connection.execute(SQL["usage_hours"], params))
    if by is not UsageBy.KEY:
        yield from whole
        return
    used = (stretch(row, row["key"]) for row in connection.execute(SQL["usage_keys"], params))
    yield from with_the_rest(whole, used)


def _sessions(
    connection: sqlite3.Connection, endpoint: str, period: Period, now: Moment
) -> Iterator[Session]:
    billable_ns: defaultdict[str, int] = defaultdict(int)
    for row in connection.execute(SQL["usage_of_sessions"], {"endpoint": endpoint}):
        if Phase(row["phase"]) in BILLABLE:
            billable_ns[row["worker_id"]] += row["ns"]
    since_ms = 0 if period.since_ns is None else period.since_ns // NS_PER_MS
    for row in connection.execute(SQL["segments_last"], {"endpoint": endpoint, "since_ms": since_ms}):
        stored = metered_rows.segment_of(row)
        segment = ended_by(stored, now)
        if not period.holds(ended_at(segment)):
            continue
        open_ns = segment.duration_ns if stored.end_boot_ns is None and stored.phase in BILLABLE else 0
        yield Session(
            worker_id=segment.worker_id,
            endpoint=segment.endpoint,
            gpu_uuids=segment.gpu_uuids,
            billable_ns=billable_ns[segment.worker_id] + open_ns,
            ended_ns=ended_at(segment),
            share_ppm=segment.share_ppm,
        )

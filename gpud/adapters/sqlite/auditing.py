"""Feeds the audit: reads what was written down, part by part, and asks the core about it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from gpud.adapters.sqlite import metered_rows, rows
from gpud.adapters.sqlite.metered import hour_stretches
from gpud.adapters.sqlite.statements import SQL
from gpud.core.audit import (
    HourRecord,
    KeyHourRecord,
    LeaseRecord,
    hour_breaches,
    key_breaches,
    lease_overlaps,
    lease_time_breaches,
    segment_breaches,
    total_breaches,
    worker_breaches,
)
from gpud.core.ids import GpuUuid, WorkerId
from gpud.core.usage import FINER_NS, UsageBy, usage_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from gpud.core.metering import Segment
    from gpud.core.worker import Worker

Of = TypeVar("Of")

_GROUPINGS = [by for by in UsageBy if by not in FINER_NS]
"""What is summed up by hour; finer lines are made of segments, which the workers' part checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPart:
    """What was found among some workers; `last` is where to go on, empty at the end."""

    breaches: tuple[str, ...]
    last: str


def audit_holdings(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Check the file itself, that no GPU ever had two holders, and that all reports agree."""
    groupings = {by.value: usage_rows(hour_stretches(connection, by=by), (), by=by) for by in _GROUPINGS}
    return (
        *_file_breaches(connection),
        *lease_overlaps(_leases(connection, "leases_all", {})),
        *total_breaches(groupings),
    )


def audit_workers(connection: sqlite3.Connection, after: str, limit: int) -> AuditPart:
    """Check the next workers by id: leases, segments and sums of each against the others."""
    workers = [
        rows.worker_of(row)
        for row in connection.execute(SQL["workers_after"], {"after": after, "limit": limit})
    ]
    if not workers:
        return AuditPart(breaches=(), last="")
    span = {"after": after, "last": workers[-1].id}
    leases = _by_worker(_leases(connection, "leases_of_workers", span))
    hours = _by_worker(_hours(connection, span))
    keys = _by_worker(_key_hours(connection, span))
    breaches: list[str] = []
    # Workers without segments come last: they have no place in the stream of segments.
    waiting = {worker.id: worker for worker in workers}
    stream = map(metered_rows.segment_of, connection.execute(SQL["segments_of_workers"], span))
    for worker_id, session in groupby(stream, key=attrgetter("worker_id")):
        worker = waiting.pop(worker_id, None)
        if worker is not None:
            segments = list(session)
            breaches += _breaches(worker, segments, leases.get(worker_id, []), hours.get(worker_id, []))
            breaches += key_breaches(segments, keys.pop(worker_id, []))
    for worker in waiting.values():
        breaches += _breaches(worker, [], leases.get(worker.id, []), hours.get(worker.id, []))
        breaches += key_breaches([], keys.get(worker.id, []))
    return AuditPart(breaches=tuple(breaches), last=workers[-1].id)


def _breaches(
    worker: Worker, segments: list[Segment], leases: list[LeaseRecord], hours: list[HourRecord]
) -> Iterator[str]:
    yield from segment_breaches(segments)
    yield from lease_time_breaches(segments, leases)
    yield from hour_breaches(segments, hours)
    yield from worker_breaches(
        worker,
        [lease for lease in leases if lease.released_boot_ns is None],
        [segment for segment in segments if segment.end_boot_ns is None],
    )


def _file_breaches(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("PRAGMA integrity_check(10)").fetchall():
        if row[0] != "ok":
            yield f"The database file is damaged: {row[0]}."
    for row in connection.execute("PRAGMA foreign_key_check").fetchall():
        yield f"A row of {row[0]} refers to a row of {row[2]} that is missing."


def _leases(connection: sqlite3.Connection, statement: str, params: dict[str, str]) -> Iterator[LeaseRecord]:
    for row in connection.execute(SQL[statement], params):
        yield LeaseRecord(
            gpu_uuid=GpuUuid(row["gpu_uuid"]),
            worker_id=WorkerId(row["worker_id"]),
            boot_id=row["boot_id"],
            leased_boot_ns=row["leased_boot_ns"],
            released_boot_ns=row["released_boot_ns"],
            memory_mib=row["memory_mib"] or 0,
            of_mib=row["of_mib"] or 0,
        )


def _hours(connection: sqlite3.Connection, span: dict[str, str]) -> Iterator[HourRecord]:
    for row in connection.execute(SQL["usage_hours_of_workers"], span):
        yield HourRecord(
            worker_id=WorkerId(row["worker_id"]), hour=row["hour"], phase=row["phase"], ns=row["ns"]
        )


def _key_hours(connection: sqlite3.Connection, span: dict[str, str]) -> Iterator[KeyHourRecord]:
    for row in connection.execute(SQL["usage_keys_of_workers"], span):
        yield KeyHourRecord(
            worker_id=WorkerId(row["worker_id"]),
            hour=row["hour"],
            phase=row["phase"],
            key=row["key"],
            ns=row["ns"],
        )


def _by_worker(found: Iterable[Of]) -> dict[str, list[Of]]:
    return {worker_id: list(group) for worker_id, group in groupby(found, key=attrgetter("worker_id"))}

"""Reads for the API: listings, usage, and the audit of what was metered."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING

from gpud.adapters.sqlite import rows
from gpud.adapters.sqlite.statements import SQL
from gpud.core.audit import (
    LeaseRecord,
    lease_overlaps,
    lease_time_breaches,
    segment_breaches,
    total_breaches,
    worker_breaches,
)
from gpud.core.ids import GpuUuid, WorkerId
from gpud.core.usage import Moment, Period, UsageBy, UsageRow, ended_by, usage_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from gpud.adapters.sqlite.hops import Read
    from gpud.core.metering import Segment
    from gpud.core.worker import Worker
    from gpud.ports.store import EventRow
    from gpud.ports.time import Clock

ROWS_MAX = 1000
"""Most rows of one listing page."""

AUDIT_LIMIT_S = 60.0
"""An audit reads everything; it is asked for by a person, and rarely."""

_NS_PER_MS = 1_000_000
_FAR_FUTURE_MS = 1 << 62


class SqliteReadModel:
    """Reads for the API (port `ReadModel`)."""

    def __init__(self, read: Read, clock: Clock) -> None:
        self._read = read
        self._clock = clock

    async def list_workers(
        self, *, endpoint: str = "", include_gone: bool = False, after: str = "", limit: int = 100
    ) -> tuple[Worker, ...]:
        """Workers by age, newest first; `after` is the last id of the page before."""
        statement = SQL["workers_page_of_endpoint" if endpoint else "workers_page"]
        params = {
            "endpoint": endpoint,
            "include_gone": include_gone,
            "after": after,
            "limit": _capped(limit),
        }
        return await self._read(
            lambda connection: tuple(map(rows.worker_of, connection.execute(statement, params)))
        )

    async def worker(self, worker_id: str) -> Worker | None:
        """One worker, live or gone; None when there never was one, or it is forgotten."""
        params = {"id": worker_id}
        row = await self._read(lambda connection: connection.execute(SQL["worker_by_id"], params).fetchone())
        return rows.worker_of(row) if row else None

    async def list_events(
        self, *, endpoint: str = "", worker_id: str = "", after_seq: int = 0, limit: int = 100
    ) -> tuple[EventRow, ...]:
        """Events in order of `seq`, those above `after_seq`."""
        params = {"after_seq": after_seq, "limit": _capped(limit)}
        return await self._events("events_after", endpoint, worker_id, params)

    async def latest_events(
        self, *, endpoint: str = "", worker_id: str = "", before_seq: int = 0, limit: int = 100
    ) -> tuple[EventRow, ...]:
        """Events newest first, those below `before_seq` (0: from the newest)."""
        params = {"before_seq": before_seq or _FAR_FUTURE_MS, "limit": _capped(limit)}
        return await self._events("events_before", endpoint, worker_id, params)

    async def _events(
        self, statement: str, endpoint: str, worker_id: str, params: dict[str, int]
    ) -> tuple[EventRow, ...]:
        # One statement for each index, since SQLite chooses its plan before it knows the values.
        suffix = "_of_endpoint" if endpoint else "_of_worker" if worker_id else ""
        whole = params | {"endpoint": endpoint, "worker_id": worker_id}
        return await self._read(
            lambda connection: tuple(map(rows.event_of, connection.execute(SQL[statement + suffix], whole)))
        )

    async def usage(
        self, *, by: UsageBy, endpoint: str = "", since_ms: int = 0, until_ms: int = 0
    ) -> tuple[UsageRow, ...]:
        """Usage lines; open segments count up to now. `until_ms` 0 means now.

        Raises:
            Unavailable: There is too much to sum in one read; ask for a shorter period.
        """
        boot_id, boot_ns = self._clock.boot_id, self._clock.boot_ns()
        period = Period(
            since_ns=since_ms * _NS_PER_MS if since_ms else None,
            until_ns=until_ms * _NS_PER_MS if until_ms else None,
        )
        params = {
            "endpoint": endpoint,
            "since_ms": since_ms,
            "until_ms": until_ms or _FAR_FUTURE_MS,
        }

        def read(connection: sqlite3.Connection) -> tuple[UsageRow, ...]:
            now = _moment(connection, boot_id, boot_ns)
            found = connection.execute(SQL["segments_of_sessions"], params)
            segments = (ended_by(rows.segment_of(row), now) for row in found)
            return usage_rows(segments, by=by, period=period)

        return await self._read(read)

    async def audit(self) -> tuple[str, ...]:
        """Check the metering and lease invariants; one sentence for each breach."""
        boot_id, boot_ns = self._clock.boot_id, self._clock.boot_ns()

        def read(connection: sqlite3.Connection) -> tuple[str, ...]:
            now = _moment(connection, boot_id, boot_ns)
            return (
                *_file_breaches(connection),
                *_metering_breaches(connection),
                *_holding_breaches(connection),
                *_total_breaches(connection, now),
            )

        return await self._read(read, limit_s=AUDIT_LIMIT_S)


def _moment(connection: sqlite3.Connection, boot_id: str, boot_ns: int) -> Moment:
    beat = connection.execute(SQL["heartbeat_read"]).fetchone()
    last_seen = None if beat is None else (beat["boot_id"], beat["boot_ns"])
    return Moment(boot_id=boot_id, boot_ns=boot_ns, last_seen=last_seen)


def _file_breaches(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("PRAGMA integrity_check(10)").fetchall():
        if row[0] != "ok":
            yield f"The database file is damaged: {row[0]}."
    for row in connection.execute("PRAGMA foreign_key_check").fetchall():
        yield f"A row of {row[0]} refers to a row of {row[2]} that is missing."


def _metering_breaches(connection: sqlite3.Connection) -> Iterator[str]:
    leases = _leases(connection)
    yield from lease_overlaps(leases)
    unmetered = defaultdict(list)
    for lease in leases:
        unmetered[lease.worker_id].append(lease)
    for worker_id, session in groupby(_segments(connection), key=lambda segment: segment.worker_id):
        segments = list(session)
        yield from segment_breaches(segments)
        yield from lease_time_breaches(segments, unmetered.pop(worker_id, []))
    for rest in unmetered.values():
        yield from lease_time_breaches([], rest)


def _holding_breaches(connection: sqlite3.Connection) -> Iterator[str]:
    leases = defaultdict(list)
    for lease in _leases(connection):
        if lease.released_boot_ns is None:
            leases[lease.worker_id].append(lease)
    segments = defaultdict(list)
    for row in connection.execute(SQL["segments_open"]):
        segment = rows.segment_of(row)
        segments[segment.worker_id].append(segment)
    concerned = list(map(rows.worker_of, connection.execute(SQL["workers_live"])))
    concerned += map(rows.worker_of, connection.execute(SQL["workers_gone_with_holds"]))
    for worker in concerned:
        yield from worker_breaches(worker, leases[worker.id], segments[worker.id])


def _total_breaches(connection: sqlite3.Connection, now: Moment) -> Iterator[str]:
    groupings = {
        by.value: usage_rows(
            (ended_by(segment, now) for segment in _segments(connection)), by=by, period=Period()
        )
        for by in UsageBy
    }
    yield from total_breaches(groupings)


def _segments(connection: sqlite3.Connection) -> Iterator[Segment]:
    return map(rows.segment_of, connection.execute(SQL["segments_all"]))


def _leases(connection: sqlite3.Connection) -> list[LeaseRecord]:
    return [
        LeaseRecord(
            gpu_uuid=GpuUuid(row["gpu_uuid"]),
            worker_id=WorkerId(row["worker_id"]),
            boot_id=row["boot_id"],
            leased_boot_ns=row["leased_boot_ns"],
            released_boot_ns=row["released_boot_ns"],
        )
        for row in connection.execute(SQL["leases_all"])
    ]


def _capped(limit: int) -> int:
    return max(1, min(limit, ROWS_MAX))

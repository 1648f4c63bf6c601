"""Reads for the API: listings, usage, and the audit of what was metered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from gpud.adapters.sqlite import history, metered_rows, rows
from gpud.adapters.sqlite.auditing import audit_holdings, audit_workers
from gpud.adapters.sqlite.metered import Asked, last_seen, spent_of, usage_of
from gpud.adapters.sqlite.statements import SQL
from gpud.core.budget import Used
from gpud.core.pricing import Tariff
from gpud.core.usage import NS_PER_MS, Moment, Period, UsageBy, UsageRow

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from gpud.adapters.sqlite.hops import Read
    from gpud.core.cold_start import ColdStart
    from gpud.core.history import ArrivalBatch
    from gpud.core.metering import Segment
    from gpud.core.worker import Worker
    from gpud.ports.store import EventRow, Running
    from gpud.ports.time import Clock

ROWS_MAX = 1000
"""Most rows of one listing page."""

AUDIT_LIMIT_S = 60.0
"""For each part of an audit; it is asked for by a person, and rarely."""

AUDIT_WORKERS = 100
"""Workers of one part: parts are read one after the other, so that none holds a snapshot for long."""

_FAR_FUTURE = 1 << 62
_FREE = Tariff()


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
        params = {"before_seq": before_seq or _FAR_FUTURE, "limit": _capped(limit)}
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

    async def cold_starts(self, endpoint: str, *, limit: int = 100) -> tuple[ColdStart, ...]:
        """Starts of an endpoint that ended well, newest first; the newest 500 are kept."""
        params = {"endpoint": endpoint, "limit": _capped(limit)}
        return await self._read(
            lambda connection: tuple(
                map(rows.cold_start_of, connection.execute(SQL["cold_starts_of_endpoint"], params))
            )
        )

    async def usage(
        self,
        *,
        by: UsageBy,
        endpoint: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        tariff: Tariff = _FREE,
        running: Running | None = None,
    ) -> tuple[UsageRow, ...]:
        """Usage lines; open segments count up to now. `until_ms` 0 means now.

        Raises:
            Unavailable: There is too much to sum in one read; ask for a shorter period.
        """
        boot_id, boot_ns = self._clock.boot_id, self._clock.boot_ns()
        period = Period(
            since_ns=since_ms * NS_PER_MS if since_ms else None,
            until_ns=until_ms * NS_PER_MS if until_ms else None,
        )

        def read(connection: sqlite3.Connection) -> tuple[UsageRow, ...]:
            now = Moment(boot_id=boot_id, boot_ns=boot_ns, last_seen=last_seen(connection))
            asked = Asked(by=by, endpoint=endpoint, now=now, running=running or {})
            return usage_of(connection, asked, period=period, tariff=tariff)

        return await self._read(read)

    async def spent(
        self, *, by: UsageBy, since_ms: int, tariff: Tariff = _FREE, running: Running | None = None
    ) -> Mapping[str, Used]:
        """What each endpoint or key used since a moment; as `usage`, and only what budgets need."""
        boot_id, boot_ns = self._clock.boot_id, self._clock.boot_ns()
        period = Period(since_ns=since_ms * NS_PER_MS)

        def read(connection: sqlite3.Connection) -> dict[str, Used]:
            now = Moment(boot_id=boot_id, boot_ns=boot_ns, last_seen=last_seen(connection))
            asked = Asked(by=by, endpoint="", now=now, running=running or {}, whole=False)
            lines = spent_of(connection, asked, period=period, tariff=tariff)
            return {line.key: Used(gpu_ns=line.gpu_ns, cost_micros=line.cost_micros) for line in lines}

        return await self._read(read)

    async def segments(
        self,
        *,
        endpoint: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        after: tuple[str, int] = ("", -1),
        limit: int = 100,
    ) -> tuple[Segment, ...]:
        """Closed segments that ended in a period, by worker and number, those behind `after`."""
        params = {
            "endpoint": endpoint,
            "since_ms": since_ms,
            "until_ms": until_ms or _FAR_FUTURE,
            "worker_id": after[0],
            "seq": after[1],
            "limit": _capped(limit),
        }
        return await self._read(
            lambda connection: tuple(
                map(metered_rows.segment_of, connection.execute(SQL["segments_page"], params))
            )
        )

    async def arrivals(self, endpoint: str, *, since_ms: int, until_ms: int) -> tuple[ArrivalBatch, ...]:
        """The record of an endpoint's requests, in stretches that reach into a period."""
        read = partial(history.arrivals, endpoint=endpoint, since_ms=since_ms, until_ms=until_ms)
        return await self._read(read)

    async def starts(
        self, endpoint: str, *, since_ms: int, until_ms: int, woken: bool = False
    ) -> tuple[dict[str, Any], ...]:
        """The phases of each start that ended well in a period, in milliseconds, oldest first."""
        read = partial(history.starts, endpoint=endpoint, since_ms=since_ms, until_ms=until_ms, woken=woken)
        return await self._read(read)

    async def audit(self) -> tuple[str, ...]:
        """Check the metering and lease invariants; one sentence for each breach."""
        breaches = list(await self._read(audit_holdings, limit_s=AUDIT_LIMIT_S))
        after = ""
        while True:
            part = await self._read(
                partial(audit_workers, after=after, limit=AUDIT_WORKERS), limit_s=AUDIT_LIMIT_S
            )
            breaches += part.breaches
            if not part.last:
                return tuple(breaches)
            after = part.last


def _capped(limit: int) -> int:
    return max(1, min(limit, ROWS_MAX))

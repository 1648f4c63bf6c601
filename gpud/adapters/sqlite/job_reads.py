"""Reads jobs from disk, on snapshots beside the writer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.job_rows import attempt_of, job_of
from gpud.adapters.sqlite.job_usage import job_usage_page
from gpud.adapters.sqlite.statements import SQL
from gpud.ports.jobs import AttemptRecord, ChunkPlace, JobQuery, Payload

if TYPE_CHECKING:
    import sqlite3

    from gpud.adapters.sqlite.blobs import Blobs
    from gpud.adapters.sqlite.hops import Read
    from gpud.core.ids import JobId
    from gpud.core.job import Job
    from gpud.ports.job_usage import JobUsagePage, JobUsageQuery


class SqliteJobReads:
    """The reading half of the port `JobStore`.

    Args:
        read: A snapshot.
        blobs: For payloads that do not belong into a row.
    """

    def __init__(self, read: Read, blobs: Blobs) -> None:
        self._read = read
        self._blobs = blobs

    async def job(self, job_id: JobId) -> Job | None:
        """Read one job."""
        row = await self._read(
            lambda connection: connection.execute(SQL["job_by_id"], {"id": job_id}).fetchone()
        )
        return None if row is None else job_of(row)

    async def payload(self, seq: int, kind: str) -> Payload | None:
        """Read a job's `input`, `result` or `progress`."""
        params = {"seq": seq, "kind": kind}
        row = await self._read(
            lambda connection: connection.execute(SQL["job_payload_read"], params).fetchone()
        )
        return None if row is None else await self._payload(row)

    async def chunks(
        self, seq: int, delivery: int, *, after: int, limit: int
    ) -> tuple[tuple[int, bytes], ...]:
        """Read stream chunks of a delivery behind the n-th."""
        params = {"seq": seq, "delivery": delivery, "after": after, "limit": limit}
        return await self._read(
            lambda connection: tuple(
                (row["n"], row["content"]) for row in connection.execute(SQL["job_chunks"], params)
            )
        )

    async def drained(self, seq: int) -> ChunkPlace:
        """Read how far a job's chunks were drained."""
        row = await self._read(
            lambda connection: connection.execute(SQL["job_drain_read"], {"seq": seq}).fetchone()
        )
        return ChunkPlace() if row is None else ChunkPlace(delivery=row["delivery"], n=row["n"])

    async def attempts(self, seq: int) -> tuple[AttemptRecord, ...]:
        """Read the deliveries of a job that did not complete."""
        return await self._read(
            lambda connection: tuple(map(attempt_of, connection.execute(SQL["job_attempts"], {"seq": seq})))
        )

    async def page(self, query: JobQuery) -> tuple[Job, ...]:
        """List jobs, newest first."""
        params = {
            "endpoint": query.endpoint,
            "owner": query.owner,
            "state": query.state,
            "before": query.before_seq,
            "limit": query.limit,
        }
        if query.dead:
            name = "jobs_page_dead"
        else:
            name = "jobs_page" if query.endpoint is None else "jobs_page_of_endpoint"
        return await self._read(lambda connection: tuple(map(job_of, connection.execute(SQL[name], params))))

    async def usage(self, query: JobUsageQuery) -> JobUsagePage:
        """Tell what jobs used that are over."""
        return await self._read(partial(job_usage_page, query))

    async def _payload(self, row: sqlite3.Row) -> Payload:
        content = row["content"] if row["ref"] is None else await self._blobs.get(row["ref"])
        return Payload(content=content, content_type=row["content_type"])

"""What the queue does to jobs on its own, on disk: leases, aging, and what is kept no longer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.job_reads import SqliteJobReads
from gpud.adapters.sqlite.job_rows import job_of
from gpud.adapters.sqlite.job_usage import forget_job
from gpud.adapters.sqlite.statements import SQL
from gpud.core.ids import JobId
from gpud.core.job import AGING_STEP_MS, AGING_STEPS_MAX

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from gpud.adapters.sqlite.blobs import Blobs
    from gpud.adapters.sqlite.committer import GroupCommitter
    from gpud.adapters.sqlite.hops import Read
    from gpud.core.ids import EndpointName
    from gpud.core.job import Job
    from gpud.ports.jobs import ChunkPlace


class SqliteJobUpkeep(SqliteJobReads):
    """That part of the port `JobStore`.

    Args:
        committer: The store's one writer.
        read: A snapshot.
        blobs: For payloads that do not belong into a row.
    """

    def __init__(self, committer: GroupCommitter, read: Read, blobs: Blobs) -> None:
        super().__init__(read, blobs)
        self._committer = committer

    async def purge_due(self, now_ms: int, *, limit: int, used_ms: int) -> tuple[JobId, ...]:
        """Delete jobs that were kept long enough, and in the end what is known of their use."""

        def purge(connection: sqlite3.Connection) -> tuple[JobId, ...]:
            rows = connection.execute(SQL["jobs_purge_due"], {"now_ms": now_ms, "limit": limit}).fetchall()
            for row in rows:
                forget_job(connection, row["seq"])
            connection.execute(SQL["job_usage_forget"], {"before_ms": now_ms - used_ms, "limit": limit})
            return tuple(JobId(row["id"]) for row in rows)

        return await self._committer.write(purge)

    async def next_times(self) -> tuple[int | None, int | None]:
        """When the next scheduled job is due, and when the next waiting one expires."""
        return await self._committer.write(
            lambda connection: (
                connection.execute(SQL["jobs_next_due"]).fetchone()["at_ms"],
                connection.execute(SQL["jobs_next_expiry"]).fetchone()["at_ms"],
            )
        )

    async def age(self, endpoint: EndpointName, now_ms: int, *, limit: int) -> int:
        """Raise the priority of those that wait long behind others; how many."""

        def age(connection: sqlite3.Connection) -> int:
            levels = connection.execute(SQL["jobs_priority_levels"], {"endpoint": endpoint}).fetchone()
            if levels["least"] is None:
                return 0
            raised = 0
            # From the top, so that nobody rises twice in one go; equals do not wait behind others.
            for level in range(levels["most"] - 1, levels["least"] - 1, -1):
                params = {
                    "endpoint": endpoint,
                    "level": level,
                    "now_ms": now_ms,
                    "step_ms": AGING_STEP_MS,
                    "steps_max": AGING_STEPS_MAX,
                    "limit": limit,
                }
                raised += connection.execute(SQL["jobs_age"], params).rowcount
            return raised

        return await self._committer.write(age)

    async def renew_leases(self, seqs: Sequence[int], *, instance: str, until_ms: int) -> int:
        """Renew the leases of what runs; how many."""
        params = {"seqs": json.dumps(list(seqs)), "instance": instance, "until_ms": until_ms}
        return await self._committer.write(
            lambda connection: connection.execute(SQL["jobs_renew_leases"], params).rowcount
        )

    async def lapsed(self, now_ms: int, *, limit: int) -> tuple[Job, ...]:
        """Jobs IN_PROGRESS whose lease was not renewed."""
        params = {"now_ms": now_ms, "limit": limit}
        return await self._committer.write(
            lambda connection: tuple(map(job_of, connection.execute(SQL["jobs_lapsed"], params)))
        )

    async def note_drained(self, seq: int, place: ChunkPlace) -> None:
        """Write how far a job's chunks were drained."""
        params = {"seq": seq, "delivery": place.delivery, "n": place.n}
        await self._committer.write(
            lambda connection: connection.execute(SQL["job_drain_put"], params).rowcount
        )

    async def sweep_blobs(self) -> int:
        """Remove payload files that no row names any more; how many."""

        async def is_used(ref: str) -> bool:
            row = await self._committer.write(
                lambda connection: connection.execute(SQL["job_payload_refs"], {"ref": ref}).fetchone()
            )
            return row is not None

        return await self._blobs.sweep(is_used)

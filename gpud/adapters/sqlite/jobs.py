"""Jobs on disk (port `JobStore`): each call is one operation of the group committer, or one read."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.blobs import INLINE_BYTES_MAX
from gpud.adapters.sqlite.job_rows import attempt_of, job_of, ready_of
from gpud.adapters.sqlite.job_writes import JobWriter
from gpud.adapters.sqlite.statements import SQL
from gpud.core.ids import JobId
from gpud.core.job import AGING_STEP_MS, AGING_STEPS_MAX, Job, JobState, settled
from gpud.ports.jobs import AttemptRecord, Change, Claim, IdempotencyClaim, JobQuery, JobsAtStart, Payload

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from gpud.adapters.sqlite.blobs import Blobs
    from gpud.adapters.sqlite.committer import GroupCommitter
    from gpud.adapters.sqlite.hops import Read
    from gpud.core.ids import EndpointName
    from gpud.core.job import Delivered, Retention
    from gpud.core.ready_jobs import Ready

    Decide = Callable[[Job], Job | None]


class SqliteJobStore:
    """Durable jobs.

    Args:
        committer: The store's one writer.
        read: A snapshot.
        blobs: For payloads that do not belong into a row.

    Attributes:
        writer: Its `on_end` is where others add what belongs into the transaction that ends a job.
    """

    def __init__(self, committer: GroupCommitter, read: Read, blobs: Blobs) -> None:
        self._committer = committer
        self._read = read
        self._blobs = blobs
        self.writer = JobWriter()

    async def start(
        self, *, boot_id: str, boot_ns: int, wall_ms: int, kept: Retention, fraction: Callable[[], float]
    ) -> JobsAtStart:
        """Fix the timeline, and give back what an earlier run of the daemon had under way."""
        return await self._committer.write(
            partial(
                self.writer.start,
                boot_id=boot_id,
                boot_ns=boot_ns,
                wall_ms=wall_ms,
                kept=kept,
                fraction=fraction,
            )
        )

    async def accept(
        self, job: Job, payload: Payload, idempotency: IdempotencyClaim | None = None
    ) -> tuple[Job, bool]:
        """Write a new job; True with the earlier one when its key was used before.

        Raises:
            IdempotencyMismatch: The key was used with another request.
            StorageFull: Nothing was written.
        """
        params = await self._params(payload)
        seq, earlier = await self._committer.write(partial(self.writer.insert, job, params, idempotency))
        return (replace(job, seq=seq), False) if earlier is None else (job_of(earlier), True)

    async def claim(
        self, seq: int, *, now_ms: int, worker_id: str, instance: str, lease_until_ms: int
    ) -> Claim | None:
        """Hand a waiting job out; None when it does not wait any more."""
        params = {
            "seq": seq,
            "now_ms": now_ms,
            "worker_id": worker_id,
            "instance": instance,
            "lease_until_ms": lease_until_ms,
        }

        def claim(connection: sqlite3.Connection) -> tuple[Job, sqlite3.Row] | None:
            found = connection.execute(SQL["job_claim"], params).fetchone()
            if found is None:
                return None
            wanted = {"seq": seq, "kind": "input"}
            return job_of(found), connection.execute(SQL["job_payload_read"], wanted).fetchone()

        claimed = await self._committer.write(claim)
        if claimed is None:
            return None
        job, row = claimed
        return Claim(job=job, payload=await self._payload(row))

    async def complete(
        self, job: Job, *, now_ms: int, purge_at_ms: int, result: Payload | None
    ) -> Job | None:
        """End a delivery well; None when it is stale, and nothing is written."""
        params = None if result is None else await self._params(result)
        after = replace(
            job,
            state=JobState.COMPLETED,
            reason="",
            error="",
            instance="",
            finished_at_ms=now_ms,
            purge_at_ms=purge_at_ms,
        )
        return await self._committer.write(partial(self.writer.complete, job, after, params))

    async def settle(
        self,
        job: Job,
        said: Delivered,
        *,
        now_ms: int,
        fraction: float,
        kept: Retention,
        result: Payload | None = None,
        log_tail: str = "",
    ) -> Job | None:
        """End a delivery in any other way; None when it is stale."""
        params = None if result is None else await self._params(result)

        def decide(present: Job) -> Job:
            return settled(present, said, now_ms=now_ms, fraction=fraction, kept=kept)

        return await self._committer.write(
            partial(self.writer.settle, job, said, decide, now_ms=now_ms, log_tail=log_tail, result=params)
        )

    async def change(self, job_id: JobId, decide: Decide, *, now_ms: int) -> Change | None:
        """Apply a transition to a job that no worker is at; None when there is no such job."""

        def change(connection: sqlite3.Connection) -> Change | None:
            row = connection.execute(SQL["job_by_id"], {"id": job_id}).fetchone()
            return None if row is None else self._apply(row, decide, connection, now_ms)

        return await self._committer.write(change)

    async def ready(self, endpoint: EndpointName, after: Ready | None, limit: int) -> tuple[Ready, ...]:
        """Read the waiting jobs whose time has come, in order, from a place on."""

        def ready(connection: sqlite3.Connection) -> tuple[Ready, ...]:
            params: dict[str, object] = {"endpoint": endpoint, "limit": limit}
            if after is None:
                return tuple(map(ready_of, connection.execute(SQL["jobs_ready_first"], params)))
            params |= {
                "priority": -after.rank,
                "available_at_ms": after.available_at_ms,
                "seq": after.seq,
            }
            found = list(map(ready_of, connection.execute(SQL["jobs_ready_same"], params)))
            if len(found) < limit:
                params["limit"] = limit - len(found)
                found += map(ready_of, connection.execute(SQL["jobs_ready_below"], params))
            return tuple(found)

        # Not a read on a snapshot: it must be ordered with the writes around it.
        return await self._committer.write(ready)

    async def release_due(self, now_ms: int, *, limit: int) -> tuple[Job, ...]:
        """Put jobs whose time has come among the ready ones."""
        params = {"now_ms": now_ms, "limit": limit}
        return await self._committer.write(
            lambda connection: tuple(
                map(job_of, connection.execute(SQL["jobs_release_due"], params).fetchall())
            )
        )

    async def expire_due(self, now_ms: int, decide: Decide, *, limit: int) -> tuple[Change, ...]:
        """End waiting jobs whose time to start is over."""
        params: dict[str, object] = {"now_ms": now_ms, "limit": limit}
        return await self._each("jobs_expired", params, decide, now_ms)

    async def cancel_waiting(
        self, endpoint: EndpointName, decide: Decide, *, now_ms: int, after_seq: int, limit: int
    ) -> tuple[Change, ...]:
        """Apply a transition to jobs of an endpoint that wait, from a place on; tells unchanged ones too."""
        params: dict[str, object] = {"endpoint": endpoint, "after": after_seq, "limit": limit}
        return await self._each("jobs_waiting_of_endpoint", params, decide, now_ms)

    async def purge_due(self, now_ms: int, *, limit: int) -> tuple[JobId, ...]:
        """Delete jobs that were kept long enough."""

        def purge(connection: sqlite3.Connection) -> tuple[JobId, ...]:
            rows = connection.execute(SQL["jobs_purge_due"], {"now_ms": now_ms, "limit": limit}).fetchall()
            for row in rows:
                connection.execute(SQL["job_delete"], {"seq": row["seq"]})
            return tuple(JobId(row["id"]) for row in rows)

        return await self._committer.write(purge)

    async def delete(self, job_id: JobId, *, allowed: Callable[[Job], bool]) -> bool:
        """Delete one job that is over; False when there is none or it may not be deleted."""

        def delete(connection: sqlite3.Connection) -> bool:
            row = connection.execute(SQL["job_by_id"], {"id": job_id}).fetchone()
            if row is None or row["finished_at_ms"] == 0 or not allowed(job_of(row)):
                return False
            connection.execute(SQL["job_delete"], {"seq": row["seq"]})
            return True

        return await self._committer.write(delete)

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

    async def append_chunks(self, job: Job, chunks: Sequence[bytes]) -> bool:
        """Add stream chunks of a delivery; False when it is stale."""
        fence = {"seq": job.seq, "delivery": job.deliveries, "instance": job.instance}

        def append(connection: sqlite3.Connection) -> bool:
            return all(
                connection.execute(SQL["job_chunk_put"], fence | {"content": chunk}).rowcount == 1
                for chunk in chunks
            )

        return await self._committer.write(append)

    async def put_progress(self, job: Job, payload: Payload) -> bool:
        """Replace the progress of a delivery; False when it is stale."""
        params = await self._params(payload) | {"seq": job.seq, "kind": "progress"}
        fence = {"seq": job.seq, "delivery": job.deliveries, "instance": job.instance}

        def put(connection: sqlite3.Connection) -> bool:
            if connection.execute(SQL["job_fenced"], fence).fetchone() is None:
                return False
            connection.execute(SQL["job_payload_put"], params)
            return True

        return await self._committer.write(put)

    async def sweep_blobs(self) -> int:
        """Remove payload files that no row names any more; how many."""

        async def is_used(ref: str) -> bool:
            row = await self._committer.write(
                lambda connection: connection.execute(SQL["job_payload_refs"], {"ref": ref}).fetchone()
            )
            return row is not None

        return await self._blobs.sweep(is_used)

    # -- reads ---------------------------------------------------------------------------------

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

    # -- inside --------------------------------------------------------------------------------

    async def _each(
        self, name: str, params: dict[str, object], decide: Decide, now_ms: int
    ) -> tuple[Change, ...]:
        def apply(connection: sqlite3.Connection) -> tuple[Change, ...]:
            rows = connection.execute(SQL[name], params).fetchall()
            return tuple(self._apply(row, decide, connection, now_ms) for row in rows)

        return await self._committer.write(apply)

    def _apply(self, row: sqlite3.Row, decide: Decide, connection: sqlite3.Connection, now_ms: int) -> Change:
        before = job_of(row)
        after = decide(before) or before
        change = Change(before=before, after=after)
        if after != before:
            self.writer.write(change, connection, now_ms=now_ms)
        return change

    async def _params(self, payload: Payload) -> dict[str, object]:
        size = len(payload.content)
        large = size > INLINE_BYTES_MAX
        return {
            "content_type": payload.content_type,
            "size": size,
            "content": None if large else payload.content,
            "ref": await self._blobs.put(payload.content) if large else None,
        }

    async def _payload(self, row: sqlite3.Row) -> Payload:
        content = row["content"] if row["ref"] is None else await self._blobs.get(row["ref"])
        return Payload(content=content, content_type=row["content_type"])

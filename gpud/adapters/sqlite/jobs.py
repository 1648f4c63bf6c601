"""Jobs on disk (port `JobStore`): each call is one operation of the group committer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.blobs import INLINE_BYTES_MAX
from gpud.adapters.sqlite.job_rows import job_of, new_job_params, ready_of
from gpud.adapters.sqlite.job_steps import AcceptJob, ClaimNewJob, CompleteJob
from gpud.adapters.sqlite.job_upkeep import SqliteJobUpkeep
from gpud.adapters.sqlite.job_usage import forget_job
from gpud.adapters.sqlite.job_writes import JobWriter
from gpud.adapters.sqlite.statements import SQL
from gpud.core.job import Job, completed, settled
from gpud.ports.jobs import Change, Claim, IdempotencyClaim, JobsAtStart, Payload

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from gpud.adapters.sqlite.blobs import Blobs
    from gpud.adapters.sqlite.committer import GroupCommitter
    from gpud.adapters.sqlite.hops import Read
    from gpud.adapters.sqlite.job_rows import PayloadRow
    from gpud.core.ids import EndpointName, JobId
    from gpud.core.job import Delivered, Retention
    from gpud.core.ready_jobs import Ready

    Decide = Callable[[Job], Job | None]


def _nothing() -> None:
    pass


class SqliteJobStore(SqliteJobUpkeep):
    """Durable jobs.

    Args:
        committer: The store's one writer.
        read: A snapshot.
        blobs: For payloads that do not belong into a row.

    Attributes:
        writer: Its `on_end` is where others add what belongs into the transaction that ends a job.
    """

    def __init__(self, committer: GroupCommitter, read: Read, blobs: Blobs) -> None:
        super().__init__(committer, read, blobs)
        self.writer = JobWriter()

    async def start(
        self,
        *,
        boot_id: str,
        boot_ns: int,
        wall_ms: int,
        kept: Retention,
        fraction: Callable[[], float],
        instance: str = "",
        stays: Callable[[Job], bool] = lambda _: False,
        lease_ms: int = 0,
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
                instance=instance,
                stays=stays,
                lease_ms=lease_ms,
            )
        )

    async def accept(
        self,
        job: Job,
        payload: Payload,
        idempotency: IdempotencyClaim | None = None,
        *,
        then: Callable[[Job, bool], None] = lambda _job, _replayed: None,
        otherwise: Callable[[], None] = lambda: None,
    ) -> tuple[Job, bool]:
        """Write a new job; True with the earlier one when its key was used before.

        Raises:
            IdempotencyMismatch: The key was used with another request.
            StorageFull: Nothing was written.
        """
        if self.writes_at_once(payload):
            row = _in_row(payload)
        else:
            try:
                row = await self._filed(payload)
            except BaseException:
                otherwise()
                raise
        if job.seq and idempotency is None:
            step = AcceptJob(job.seq, new_job_params(job, job.seq), row(job.seq, "input"))

            def accepted(_seq: int) -> tuple[Job, bool]:
                then(job, False)  # noqa: FBT003 - told as it is returned
                return job, False

            return await self._committer.carry(step, accepted, otherwise)

        def written(found: tuple[int, sqlite3.Row | None]) -> tuple[Job, bool]:
            seq, earlier = found
            said = (replace(job, seq=seq), False) if earlier is None else (job_of(earlier), True)
            then(*said)
            return said

        return await self._committer.carry(
            partial(self.writer.insert, job, row, idempotency), written, otherwise
        )

    async def claim(
        self,
        seq: int,
        *,
        now_ms: int,
        worker_id: str,
        instance: str,
        lease_until_ms: int,
        then: Callable[[Job | None], None] = lambda _: None,
        otherwise: Callable[[], None] = lambda: None,
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

        def claimed(found: tuple[Job, sqlite3.Row] | None) -> tuple[Job, sqlite3.Row] | None:
            then(None if found is None else found[0])
            return found

        found = await self._committer.carry(claim, claimed, otherwise)
        if found is None:
            return None
        job, row = found
        return Claim(job=job, payload=await self._payload(row))

    async def claim_new(
        self,
        job: Job,
        *,
        lease_until_ms: int,
        then: Callable[[Job | None], None],
        otherwise: Callable[[], None],
    ) -> bool:
        """Hand out a job that nobody has had since it was accepted; False when its row says otherwise."""
        step = ClaimNewJob(
            job,
            now_ms=job.started_at_ms,
            worker_id=job.worker_id,
            instance=job.instance,
            lease_until_ms=lease_until_ms,
        )

        def claimed(done: bool) -> bool:
            then(job if done else None)
            return done

        return await self._committer.carry(step, claimed, otherwise)

    def writes_at_once(self, payload: Payload) -> bool:
        """Whether a payload is kept in its row, and not written to a file first."""
        return len(payload.content) <= INLINE_BYTES_MAX

    async def complete(
        self,
        job: Job,
        *,
        now_ms: int,
        purge_at_ms: int,
        result: Payload | None,
        then: Callable[[Job | None], None] = lambda _: None,
    ) -> Job | None:
        """End a delivery well; None when it is stale, and nothing is written."""
        row = None if result is None else (await self._row(result))(job.seq, "result")
        after = completed(job, now_ms=now_ms, purge_at_ms=purge_at_ms)

        def ended(after: Job | None) -> Job | None:
            then(after)
            return after

        return await self._committer.carry(CompleteJob(self.writer, job, after, row), ended, _nothing)

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
        then: Callable[[Job | None], None] = lambda _: None,
    ) -> Job | None:
        """End a delivery in any other way; None when it is stale."""
        row = None if result is None else await self._row(result)

        def decide(present: Job) -> Job:
            return settled(present, said, now_ms=now_ms, fraction=fraction, kept=kept)

        def noted(after: Job | None) -> Job | None:
            then(after)
            return after

        # Told in the order of commits: whatever is done to the job next must find it noted as it is now.
        end = partial(self.writer.settle, job, said, decide, now_ms=now_ms, log_tail=log_tail, result=row)
        return await self._committer.carry(end, noted, _nothing)

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

    async def delete(self, job_id: JobId, *, allowed: Callable[[Job], bool]) -> bool:
        """Delete one job that is over; False when there is none or it may not be deleted."""

        def delete(connection: sqlite3.Connection) -> bool:
            row = connection.execute(SQL["job_by_id"], {"id": job_id}).fetchone()
            if row is None or row["finished_at_ms"] == 0 or not allowed(job_of(row)):
                return False
            forget_job(connection, row["seq"])
            return True

        return await self._committer.write(delete)

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
        row = (await self._row(payload))(job.seq, "progress")
        fence = {"seq": job.seq, "delivery": job.deliveries, "instance": job.instance}

        def put(connection: sqlite3.Connection) -> bool:
            if connection.execute(SQL["job_fenced"], fence).fetchone() is None:
                return False
            connection.execute(SQL["job_payload_put"], row)
            return True

        return await self._committer.write(put)

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

    async def _row(self, payload: Payload) -> PayloadRow:
        """A payload's row; a large one is on disk, as a file, when this returns."""
        return _in_row(payload) if self.writes_at_once(payload) else await self._filed(payload)

    async def _filed(self, payload: Payload) -> PayloadRow:
        ref = await self._blobs.put(payload.content)

        def row(seq: int, kind: str) -> tuple[object, ...]:
            return (seq, kind, payload.content_type, len(payload.content), None, ref)

        return row


def _in_row(payload: Payload) -> PayloadRow:
    content = payload.content

    def row(seq: int, kind: str) -> tuple[object, ...]:
        return (seq, kind, payload.content_type, len(content), content, None)

    return row

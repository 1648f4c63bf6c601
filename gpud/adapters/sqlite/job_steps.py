"""The three steps every job takes, made so that many jobs take them together (`batches.Kind`)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from gpud.adapters.sqlite.batches import Kind, Mixed
from gpud.adapters.sqlite.statements import SQL, execute_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from gpud.adapters.sqlite.job_writes import JobWriter
    from gpud.core.job import Job


class AcceptJob(Kind):
    """Writes a new job; gives its `seq`.

    First of its batch, so that a job can be claimed in the same one.
    """

    __slots__ = ("payload", "row", "seq")
    turn: ClassVar[int] = -2

    def __init__(self, seq: int, row: tuple[object, ...], payload: tuple[object, ...]) -> None:
        self.seq = seq
        self.row = row
        self.payload = payload

    def __call__(self, connection: sqlite3.Connection, /) -> int:
        """Write this one."""
        return self.together((self,), connection)[0]

    @classmethod
    def together(cls, operations: Sequence[AcceptJob], connection: sqlite3.Connection) -> list[int]:
        """Write all of them."""
        execute_rows(connection, "job_insert", [step.row for step in operations])
        execute_rows(connection, "job_payload_insert", [step.payload for step in operations])
        return [step.seq for step in operations]


class ClaimNewJob(Kind):
    """Hands out a job that nobody has had or changed since it was accepted; False when it is not so.

    Before the batch's other operations: whatever of them concerns the same job then finds it handed out.
    """

    __slots__ = ("row",)
    turn: ClassVar[int] = -1

    def __init__(self, job: Job, *, now_ms: int, worker_id: str, instance: str, lease_until_ms: int) -> None:
        self.row = (job.seq, now_ms, worker_id, instance, lease_until_ms, job.effective_priority)

    def __call__(self, connection: sqlite3.Connection, /) -> bool:
        """Hand out this one."""
        return execute_rows(connection, "jobs_claim_new", (self.row,)) == 1

    @classmethod
    def together(cls, operations: Sequence[ClaimNewJob], connection: sqlite3.Connection) -> list[bool]:
        """Hand out all of them."""
        rows = [step.row for step in operations]
        if execute_rows(connection, "jobs_claim_new", rows) != len(rows):
            raise Mixed
        return [True] * len(rows)


class CompleteJob(Kind):
    """Ends a delivery well, if it is the present one; gives the job as it is then.

    After the batch's other operations, which may add to what the delivery gave.
    """

    __slots__ = ("after", "before", "result", "writer")
    turn: ClassVar[int] = 1

    def __init__(self, writer: JobWriter, before: Job, after: Job, result: tuple[object, ...] | None) -> None:
        self.writer = writer
        self.before = before
        self.after = after
        self.result = result

    def __call__(self, connection: sqlite3.Connection, /) -> Job | None:
        """End this one."""
        if execute_rows(connection, "jobs_complete", (self.row,)) != 1:
            return None
        return self._follow((self,), connection)[0]

    @classmethod
    def together(cls, operations: Sequence[CompleteJob], connection: sqlite3.Connection) -> list[Job]:
        """End all of them."""
        rows = [step.row for step in operations]
        if execute_rows(connection, "jobs_complete", rows) != len(rows):
            raise Mixed  # one of them is stale
        return cls._follow(operations, connection)

    @property
    def row(self) -> tuple[object, ...]:
        """Which delivery, and when it ended."""
        job, after = self.before, self.after
        ended = (job.seq, job.deliveries, job.instance, after.finished_at_ms, after.purge_at_ms)
        return (*ended, after.gpu_ns, after.cost_micros, after.energy_mj)

    @staticmethod
    def _follow(over: Sequence[CompleteJob], connection: sqlite3.Connection) -> list[Job]:
        """Write what goes with the ends of jobs."""
        results = [step.result for step in over if step.result is not None]
        execute_rows(connection, "job_payload_put", results)
        for endpoint, count in Counter(step.after.endpoint for step in over).items():
            total = {"endpoint": endpoint, "ending": "completed", "count": count}
            connection.execute(SQL["job_total_add"], total)
        ended = [step.after for step in over]
        over[0].writer.tell_ends(ended, connection)
        return ended

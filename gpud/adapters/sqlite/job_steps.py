"""The three steps every job takes, made so that many jobs take them together (`batches.Kind`)."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from gpud.adapters.sqlite.batches import Kind
from gpud.adapters.sqlite.statements import SQL
from gpud.ports.jobs import Change

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
        connection.execute(SQL["job_insert"], self.row)
        connection.execute(SQL["job_payload_put"], self.payload)
        return self.seq

    @classmethod
    def together(cls, operations: Sequence[AcceptJob], connection: sqlite3.Connection) -> list[int]:
        """Write all of them."""
        connection.executemany(SQL["job_insert"], [step.row for step in operations])
        connection.executemany(SQL["job_payload_put"], [step.payload for step in operations])
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
        return connection.execute(SQL["job_claim_new"], self.row).rowcount == 1

    @classmethod
    def together(cls, operations: Sequence[ClaimNewJob], connection: sqlite3.Connection) -> list[bool]:
        """Hand out all of them."""
        rows = json.dumps([step.row for step in operations])
        claimed = {row[0] for row in connection.execute(SQL["jobs_claim_new"], (rows,)).fetchall()}
        return [step.row[0] in claimed for step in operations]


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
        if connection.execute(SQL["job_complete"], self.row).rowcount != 1:
            return None
        if self.result is not None:
            connection.execute(SQL["job_payload_put"], self.result)
        self._follow((self,), connection)
        return self.after

    @classmethod
    def together(cls, operations: Sequence[CompleteJob], connection: sqlite3.Connection) -> list[Job | None]:
        """End all of them."""
        rows = json.dumps([step.row for step in operations])
        ended = {row[0] for row in connection.execute(SQL["jobs_complete"], (rows,)).fetchall()}
        answers: list[Job | None] = []
        over: list[CompleteJob] = []
        for step in operations:
            if step.before.seq in ended:
                ended.discard(step.before.seq)  # a second of the same delivery is stale
                over.append(step)
                answers.append(step.after)
            else:
                answers.append(None)
        results = [step.result for step in over if step.result is not None]
        connection.executemany(SQL["job_payload_put"], results)
        cls._follow(over, connection)
        return answers

    @property
    def row(self) -> tuple[object, ...]:
        """Which delivery, and when it ended."""
        job, after = self.before, self.after
        return (job.seq, job.deliveries, job.instance, after.finished_at_ms, after.purge_at_ms)

    @staticmethod
    def _follow(over: Sequence[CompleteJob], connection: sqlite3.Connection) -> None:
        """Write what goes with the ends of jobs."""
        for endpoint, count in Counter(step.after.endpoint for step in over).items():
            total = {"endpoint": endpoint, "ending": "completed", "count": count}
            connection.execute(SQL["job_total_add"], total)
        if over:
            changes = [Change(before=step.before, after=step.after) for step in over]
            over[0].writer.tell_ends(changes, connection)

"""What is done to jobs inside a transaction: functions of an open connection, without any waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.job_rows import attempt_params, job_of, job_params, new_job_params
from gpud.adapters.sqlite.statements import SQL
from gpud.adapters.sqlite.timeline import fix_anchor
from gpud.core.ids import EndpointName
from gpud.core.job import Delivered, Ending, Job, JobState, Retention, settled
from gpud.errors import IdempotencyMismatch
from gpud.ports.jobs import Change, IdempotencyClaim, JobsAtStart, WaitingTotals

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from gpud.adapters.sqlite.job_rows import PayloadRow

_RESTART_SPREAD_MS = 5_000


class JobWriter:
    """Applies changes of jobs to a connection whose transaction is open.

    Attributes:
        on_end: Called inside the transaction with the jobs that reached a terminal state, so that what
            follows from it, such as a webhook's outbox row, is written with it or not at all. Runs on the
            store's thread and must only use the connection it is given.
    """

    def __init__(self) -> None:
        self.on_end: Callable[[sqlite3.Connection, Sequence[Job]], None] | None = None

    def insert(
        self,
        job: Job,
        payload: PayloadRow,
        idempotency: IdempotencyClaim | None,
        connection: sqlite3.Connection,
    ) -> tuple[int, sqlite3.Row | None]:
        """Write a new job; returns its seq, and the row of an earlier one instead when its key is known.

        Args:
            job: Its `seq` is 0 when the row is to choose one.
            payload: Its input, for a seq and a kind.
            idempotency: Its caller's own name for it.
            connection: In the transaction.
        """
        names: dict[str, object] = {}
        if idempotency is not None:
            names = {"scope": idempotency.scope, "key": idempotency.key}
            known = connection.execute(SQL["job_idempotency_read"], names).fetchone()
            if known is not None:
                if known["fingerprint"] != idempotency.fingerprint:
                    raise IdempotencyMismatch(
                        f"The Idempotency-Key {idempotency.key!r} was used with another request. "
                        "Use a new key for this one."
                    )
                return 0, connection.execute(SQL["job_by_seq"], {"seq": known["job_seq"]}).fetchone()
        seq = connection.execute(SQL["job_insert"], new_job_params(job, job.seq or None)).lastrowid or 0
        connection.execute(SQL["job_payload_put"], payload(seq, "input"))
        if idempotency is not None:
            params = names | {
                "fingerprint": idempotency.fingerprint,
                "seq": seq,
                "at_ms": job.created_at_ms,
            }
            connection.execute(SQL["job_idempotency_put"], params)
        return seq, None

    def settle(
        self,
        job: Job,
        said: Delivered,
        decide: Callable[[Job], Job],
        connection: sqlite3.Connection,
        *,
        now_ms: int,
        log_tail: str = "",
        result: PayloadRow | None = None,
    ) -> Job | None:
        """End a delivery in another way, if it is the present one."""
        row = connection.execute(SQL["job_by_seq"], {"seq": job.seq}).fetchone()
        if row is None:
            return None
        present = job_of(row)
        if (
            present.state is not JobState.IN_PROGRESS
            or present.deliveries != job.deliveries
            or present.instance != job.instance
        ):
            return None
        # What it used is known to whoever had its place.
        after = replace(
            decide(present), gpu_ns=job.gpu_ns, cost_micros=job.cost_micros, energy_mj=job.energy_mj
        )
        attempt = attempt_params(present, said, ended_at_ms=now_ms, log_tail=log_tail)
        connection.execute(SQL["job_attempt_insert"], attempt)
        if result is not None and after.state.terminal:
            connection.execute(SQL["job_payload_put"], result(job.seq, "result"))
        self.write(Change(before=present, after=after), connection, now_ms=now_ms)
        return after

    def write(self, change: Change, connection: sqlite3.Connection, *, now_ms: int) -> None:
        """Write a job as a transition left it, and what goes with that."""
        before, after = change.before, change.after
        waits = after.state is JobState.IN_QUEUE
        scheduled = waits and after.available_at_ms > now_ms
        connection.execute(SQL["job_update"], job_params(after, scheduled=scheduled))
        if waits and before.state is not JobState.IN_QUEUE:
            # What an earlier delivery gave is not shown as the next one's.
            connection.execute(SQL["job_payload_drop"], {"seq": after.seq})
            connection.execute(SQL["job_chunks_drop"], {"seq": after.seq})
            total = {"endpoint": after.endpoint, "ending": "retried", "count": 1}
            connection.execute(SQL["job_total_add"], total)
        if after.state.terminal and not before.state.terminal:
            self._note_end(change, connection)

    def start(
        self,
        connection: sqlite3.Connection,
        *,
        boot_id: str,
        boot_ns: int,
        wall_ms: int,
        kept: Retention,
        fraction: Callable[[], float],
        instance: str,
        stays: Callable[[Job], bool],
        lease_ms: int,
    ) -> JobsAtStart:
        """Fix the timeline, and give back or take over what an earlier run of the daemon had under way."""
        anchor = fix_anchor(connection, boot_id=boot_id, boot_ns=boot_ns, wall_ms=wall_ms)
        now_ms = anchor.now_ms(boot_ns)
        given_back, left = [], []
        for row in connection.execute(SQL["jobs_running"]).fetchall():
            job = job_of(row)
            if stays(job):
                lease = {"seq": job.seq, "instance": instance, "until_ms": now_ms + lease_ms}
                connection.execute(SQL["job_take_over"], lease)
                left.append(replace(job, instance=instance))
                continue
            said = Delivered(
                ending=Ending.INTERRUPTED,
                error="gpud was restarted while the job ran.",
                after_ms=int(_RESTART_SPREAD_MS * fraction()),
                reason="daemon_restarted",
            )
            after = settled(job, said, now_ms=now_ms, fraction=fraction(), kept=kept)
            attempt = attempt_params(job, said, ended_at_ms=now_ms, log_tail="")
            connection.execute(SQL["job_attempt_insert"], attempt)
            self.write(Change(before=job, after=after), connection, now_ms=now_ms)
            given_back.append(Change(before=job, after=after))
        return JobsAtStart(
            anchor=anchor,
            waiting=_waiting(connection),
            scheduled=_scheduled(connection),
            totals={
                (EndpointName(row["endpoint"]), row["ending"]): row["count"]
                for row in connection.execute(SQL["job_totals"])
            },
            group_holders={
                (EndpointName(row["endpoint"]), row["group_key"]): row["seq"]
                for row in connection.execute(SQL["jobs_group_holders"])
            },
            given_back=tuple(given_back),
            newest_seq=connection.execute(SQL["job_newest_seq"]).fetchone()[0] or 0,
            kept=tuple(left),
        )

    def tell_ends(self, ended: Sequence[Job], connection: sqlite3.Connection) -> None:
        """Have what follows from the ends of jobs written with them."""
        if self.on_end is not None and ended:
            self.on_end(connection, ended)

    def _note_end(self, change: Change, connection: sqlite3.Connection) -> None:
        after = change.after
        total = {"endpoint": after.endpoint, "ending": after.state.value.lower(), "count": 1}
        connection.execute(SQL["job_total_add"], total)
        self.tell_ends((after,), connection)


def _waiting(connection: sqlite3.Connection) -> dict[EndpointName, WaitingTotals]:
    found: dict[EndpointName, WaitingTotals] = {}
    for row in connection.execute(SQL["jobs_waiting_totals"]):
        name = EndpointName(row["endpoint"])
        known = found.get(name, WaitingTotals())
        low = bool(row["low_priority"])
        found[name] = WaitingTotals(
            count=known.count + (0 if low else row["count"]),
            low_priority=known.low_priority + (row["count"] if low else 0),
            input_bytes=known.input_bytes + row["input_bytes"],
        )
    return found


def _scheduled(connection: sqlite3.Connection) -> dict[EndpointName, tuple[int, ...]]:
    found: dict[EndpointName, tuple[int, ...]] = {}
    for row in connection.execute(SQL["jobs_scheduled"]):
        name = EndpointName(row["endpoint"])
        found[name] = (*found.get(name, ()), row["seq"])
    return found

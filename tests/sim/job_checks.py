"""What must hold of jobs after every step, and in the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gpud.core.job import EXTRA_DELIVERIES, JobState

if TYPE_CHECKING:
    import sqlite3

    from tests.sim.job_world import JobWorld

_JOBS = (
    "SELECT id, state, attempt, max_attempts, deliveries, deliveries_before, redrives, finished_at_ms,"
    " webhook, endpoint, group_key FROM job"
)
_CALLS = "SELECT url, count(*) AS calls FROM webhook_delivery GROUP BY url"


class JobChecks:
    """Compares every committed state with the one before.

    Args:
        world: Whose.

    Attributes:
        acknowledged: Ids of jobs that a caller was told are taken.
    """

    def __init__(self, world: JobWorld) -> None:
        self._world = world
        self._changes = -1
        self._before: dict[str, sqlite3.Row] = {}
        self.acknowledged: set[str] = set()
        self.committed_states = 0

    def step(self) -> None:
        """Look, if something was committed."""
        database = self._world.database
        if database.total_changes == self._changes or database.in_transaction:
            return
        self._changes = database.total_changes
        self.committed_states += 1
        now = {row["id"]: row for row in database.execute(_JOBS)}
        lost = (self._before.keys() | self.acknowledged) - now.keys()
        assert not lost, f"lost: {lost}"
        for job_id, row in now.items():
            if self._before.get(job_id) != row:
                self._compare(self._before.get(job_id), row)
        running = Counter(
            (row["endpoint"], row["group_key"])
            for row in now.values()
            if row["group_key"] and row["state"] == "IN_PROGRESS"
        )
        assert not [group for group, count in running.items() if count > 1]
        self._before = now
        ends = {row["webhook"]: 1 + row["redrives"] for row in now.values()}
        for call in database.execute(_CALLS):
            assert call["calls"] <= ends[call["url"]], f"{call['url']} is told of {call['calls']} ends"

    def _compare(self, before: sqlite3.Row | None, row: sqlite3.Row) -> None:
        used = row["deliveries"] - row["deliveries_before"]
        assert 0 <= row["attempt"] <= row["max_attempts"], dict(row)
        assert used <= row["max_attempts"] + EXTRA_DELIVERIES, dict(row)
        if before is None:
            return
        assert row["deliveries"] >= before["deliveries"], dict(row)
        if JobState(before["state"]).terminal and row["redrives"] == before["redrives"]:
            same = (before["state"], before["finished_at_ms"], before["deliveries"])
            assert (row["state"], row["finished_at_ms"], row["deliveries"]) == same, (
                f"{row['id']} ended twice"
            )

    @property
    def open(self) -> int:
        """Jobs that are not over."""
        return sum(not JobState(row["state"]).terminal for row in self._before.values())

    def end(self) -> None:
        """Look at what is left when all is quiet."""
        world = self._world
        assert self.acknowledged, "Jobs must have been made, or nothing was shown."
        assert not world.faults, world.faults
        assert not world.workers.breaches, world.workers.breaches
        assert not self.open
        life = world.life
        assert life is not None
        queue = life.jobs.queue
        assert queue.running == {}
        for lane in queue.lanes.values():
            counts = (lane.waiting, lane.waiting_bytes, lane.running, len(lane.scheduled), len(lane.ready))
            assert counts == (0, 0, 0, 0, 0), counts
            assert lane.ready.holders == {}
        assert len(queue.new) == 0
        assert life.jobs.pull is not None
        held = [held for worker in life.jobs.pull._workers.values() for held in worker.held]
        assert not held, held
        calls = {row["url"]: row["calls"] for row in world.database.execute(_CALLS)}
        for row in self._before.values():
            if row["webhook"]:
                told = world.receiver.ids[row["webhook"]]
                assert calls[row["webhook"]] >= 1, f"nobody is told of {row['id']}"
                assert 1 <= len(told) <= calls[row["webhook"]], dict(row)
        assert world.database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"

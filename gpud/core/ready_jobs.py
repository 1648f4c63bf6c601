"""Which job is next? The head of one endpoint's queue, in memory; the rest of it stays on disk.

At most `room` waiting jobs are held, the foremost ones, however many wait; `incomplete` says that more
are on disk, which `refill` brings when the head runs out. So memory and the cost of a claim stay what
they are with a hundred thousand jobs behind.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpud.core.ids import JobId
    from gpud.core.job import Job

ROOM = 2048


class Ready(NamedTuple):
    """A waiting job's place; compares as the order of claims: priority, then time, then arrival."""

    rank: int
    """Its effective priority, negated."""
    available_at_ms: int
    seq: int
    id: JobId
    group_key: str = ""
    solo: bool = False


def place_of(job: Job) -> Ready:
    """Where a waiting job stands."""
    return Ready(-job.effective_priority, job.available_at_ms, job.seq, job.id, job.group_key, job.solo)


@dataclass(slots=True)
class ReadyJobs:
    """Waiting jobs of one endpoint whose time has come.

    Attributes:
        incomplete: There are more on disk, all behind `last`.
        holders: The job that each group's key belongs to until it is over.
    """

    room: int = ROOM
    incomplete: bool = False
    last: Ready | None = None
    holders: dict[str, int] = field(default_factory=dict)
    _heap: list[Ready] = field(default_factory=list)
    _known: set[int] = field(default_factory=set)
    _parked: dict[str, list[Ready]] = field(default_factory=dict)
    _late: list[Ready] | None = None

    def __len__(self) -> int:
        return len(self._known)

    @property
    def first(self) -> Ready | None:
        """The job that `take` would give; None when none may run now."""
        while self._heap:
            head = self._heap[0]
            if head.seq not in self._known:
                heappop(self._heap)
            elif self._blocked(head):
                heappop(self._heap)
                insort(self._parked.setdefault(head.group_key, []), head)
            else:
                return head
        return None

    def ahead_of(self, seq: int, waiting: int) -> int:
        """How many jobs come first, this one included; an upper bound when it is behind the head."""
        if seq not in self._known:
            return max(1, waiting)
        mine = next((e for e in self._heap if e.seq == seq), None)
        if mine is None:
            return max(1, waiting)
        return sum(1 for e in self._heap if e <= mine)

    @property
    def must_refill(self) -> bool:
        """Whether the next job may be on disk only."""
        return self.incomplete and self.first is None

    def add(self, entry: Ready) -> None:
        """A job began to wait, or its time has come; it is on disk as such."""
        if self._late is not None:
            self._late.append(entry)
        if entry.seq in self._known:
            return
        if self.incomplete and (self.last is None or entry > self.last):
            return
        if len(self._known) >= self.room and not self._makes_room(entry):
            return
        self._known.add(entry.seq)
        heappush(self._heap, entry)

    def take(self) -> Ready | None:
        """Take the next job out; the caller claims it, and puts it back with `add` if that fails."""
        head = self.first
        if head is None:
            return None
        heappop(self._heap)
        self._known.discard(head.seq)
        if head.group_key:
            self.holders[head.group_key] = head.seq
        return head

    def discard(self, seq: int) -> None:
        """A job waits no more: cancelled, expired or deleted."""
        self._known.discard(seq)

    def release(self, group_key: str, seq: int) -> None:
        """A job of a group is over: the next of its group may run."""
        if group_key and self.holders.get(group_key) == seq:
            del self.holders[group_key]
            for entry in self._parked.pop(group_key, ()):
                if entry.seq in self._known:
                    heappush(self._heap, entry)

    def begin_refill(self) -> None:
        """The disk is about to be read: what is added meanwhile may or may not be in the answer."""
        self._late = []

    def refill(self, entries: Iterable[Ready], *, more: bool) -> None:
        """Take what was read from disk, from the place `last` on.

        Args:
            entries: In order.
            more: There may be still more behind them.
        """
        end = self.last
        for entry in entries:
            end = entry
            if entry.seq not in self._known:
                self._known.add(entry.seq)
                heappush(self._heap, entry)
        self.last = end if more else None
        self.incomplete = more
        late, self._late = self._late or [], None
        for entry in late:
            self.add(entry)

    def forget(self) -> None:
        """Hold nothing any more: the order on disk has changed, and is read again from its start."""
        self._heap.clear()
        self._known.clear()
        self._parked.clear()
        self.last = None
        self.incomplete = True

    def _blocked(self, entry: Ready) -> bool:
        return bool(entry.group_key) and self.holders.get(entry.group_key, entry.seq) != entry.seq

    def _makes_room(self, entry: Ready) -> bool:
        """Drop the rear half when full; they are on disk. False when `entry` belongs there as well."""
        known = self._known
        ordered = sorted(
            [e for e in self._heap if e.seq in known]
            + [e for parked in self._parked.values() for e in parked if e.seq in known]
        )
        kept = ordered[: self.room // 2]
        self._parked.clear()
        self._heap[:] = kept  # in order, so it is a heap
        self._known = {e.seq for e in kept}
        self.incomplete = True
        self.last = kept[-1]
        return entry < kept[-1]

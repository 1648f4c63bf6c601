"""Whose time is a worker's? Each moment with requests belongs in equal parts to those that run.

A clock of each worker goes on by the part of the time that one request has. What a request had is the
clock at its end less the clock at its beginning, and what a key had is the sum of that, which is kept
without touching anything but the two requests' own entries: a request costs the same however many run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId


class Desk:
    """The clock of one worker, and what each key had of it; all in seconds.

    Attributes:
        part_s: What one request would have had since the worker was last without any.
        last_s: Loop time up to which `part_s` goes.
        by_key: For each key how many of its requests run, and what it had since it was last asked, less
            `part_s` for each that runs.
    """

    __slots__ = ("by_key", "last_s", "part_s")

    def __init__(self, now_s: float) -> None:
        self.part_s = 0.0
        self.last_s = now_s
        self.by_key: dict[str, list[float]] = {}

    def goes_on(self, now_s: float, running: int) -> float:
        """Move the clock to now, in which time so many ran; returns where it stands."""
        if now_s > self.last_s:
            self.part_s += (now_s - self.last_s) / running
            self.last_s = now_s
        return self.part_s

    def enter(self, key: str) -> float:
        """A request of a key begins; returns where the clock stands."""
        part_s = self.part_s
        of_key = self.by_key.get(key)
        if of_key is None:
            self.by_key[key] = [1.0, -part_s]
        else:
            of_key[0] += 1.0
            of_key[1] -= part_s
        return part_s

    def leave(self, key: str) -> None:
        """A request of a key ends."""
        of_key = self.by_key.get(key)
        if of_key is not None:
            of_key[0] -= 1.0
            of_key[1] += self.part_s

    def move(self, before: str, after: str, began_s: float) -> None:
        """A request that began when the clock stood at `began_s` is another key's, from its beginning."""
        for key, count, part_s in ((before, -1.0, began_s), (after, 1.0, -began_s)):
            of_key = self.by_key.setdefault(key, [0.0, 0.0])
            of_key[0] += count
            of_key[1] += part_s

    def take(self) -> dict[str, float]:
        """What each key had since this was last asked; below 0 for what is another key's after all."""
        shares = {}
        for key, (running, sum_s) in list(self.by_key.items()):
            share_s = sum_s + running * self.part_s
            if share_s:
                shares[key] = share_s
            if running > 0:
                self.by_key[key][1] = -running * self.part_s
            else:
                del self.by_key[key]
        return shares


class Desks:
    """The clocks of all workers that had a request since they were last asked."""

    __slots__ = ("_desks",)

    def __init__(self) -> None:
        self._desks: dict[WorkerId, Desk] = {}

    def of(self, worker_id: WorkerId, now_s: float, running: int) -> Desk:
        """The clock of a worker, moved to now, at which so many run."""
        desk = self._desks.get(worker_id)
        if desk is None:
            desk = self._desks[worker_id] = Desk(now_s)
        elif running:
            desk.goes_on(now_s, running)
        else:
            desk.part_s, desk.last_s = 0.0, now_s
        return desk

    def take(self, worker_id: WorkerId, now_s: float, running: int) -> dict[str, float]:
        """What each key had of a worker since this was last asked, in seconds."""
        desk = self._desks.get(worker_id)
        if desk is None:
            return {}
        if running:
            desk.goes_on(now_s, running)
        shares = desk.take()
        if not running and not desk.by_key:
            del self._desks[worker_id]
        return shares

"""What the queue knows of each endpoint's jobs without asking the disk."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.ready_jobs import ReadyJobs

if TYPE_CHECKING:
    from gpud.core.job import Job
    from gpud.ports.jobs import WaitingTotals

_PACE_SAMPLES = 512
_PACE_WINDOW_S = 60.0


@dataclass(slots=True)
class JobLane:
    """One endpoint.

    Attributes:
        ready: The head of its queue.
        counted: Jobs IN_QUEUE that count for scaling.
        low: Jobs IN_QUEUE of low priority.
        waiting_bytes: Of their inputs.
        scheduled: Of those that count, the seqs of jobs whose time has not come.
        running: Jobs IN_PROGRESS.
        arrivals: Accepted since this was last taken.
        peak: Most jobs waiting at one moment since then.
    """

    ready: ReadyJobs = field(default_factory=ReadyJobs)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    counted: int = 0
    low: int = 0
    waiting_bytes: int = 0
    scheduled: set[int] = field(default_factory=set)
    running: int = 0
    arrivals: int = 0
    peak: int = 0
    ended_s: deque[float] = field(default_factory=lambda: deque(maxlen=_PACE_SAMPLES))
    totals: dict[str, int] = field(default_factory=dict)

    @classmethod
    def restored(cls, waiting: WaitingTotals) -> JobLane:
        """Make the lane of an endpoint with jobs on disk."""
        lane = cls(counted=waiting.count, low=waiting.low_priority, waiting_bytes=waiting.input_bytes)
        lane.ready.forget()
        lane.peak = lane.counted
        return lane

    @property
    def waiting(self) -> int:
        """Jobs IN_QUEUE."""
        return self.counted + self.low

    @property
    def empty(self) -> bool:
        """Whether nothing is to be remembered here."""
        return not (self.waiting or self.running or self.totals)

    def began_to_wait(self, job: Job) -> None:
        """A job is IN_QUEUE now."""
        if job.low_priority:
            self.low += 1
        else:
            self.counted += 1
            self.peak = max(self.peak, self.counted)
        self.waiting_bytes += job.input_bytes

    def waits_no_more(self, job: Job) -> None:
        """A job is not IN_QUEUE any more."""
        if job.low_priority:
            self.low -= 1
        else:
            self.counted -= 1
        self.waiting_bytes -= job.input_bytes

    def note_end(self, ending: str, now_s: float) -> None:
        """A job ended, or began to wait again."""
        self.totals[ending] = self.totals.get(ending, 0) + 1
        if ending == "completed":
            self.ended_s.append(now_s)

    def pace_per_s(self, now_s: float) -> float:
        """Jobs completed a second, lately; 0 when none was."""
        lately = [at_s for at_s in self.ended_s if now_s - at_s <= _PACE_WINDOW_S]
        if not lately:
            return 0.0
        return len(lately) / max(1.0, now_s - lately[0])

"""Does a start still make progress, or does nothing happen any more?"""

from __future__ import annotations

from dataclasses import dataclass

_CPU_SHARE_MIN = 0.01
"""Of one core: a process that only waits uses less, even while it answers probes."""
_MEMORY_STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What a starting worker's container was seen to have done.

    Args:
        log_mark: Differs when anything was written since; empty before the first line.
        cpu_s: CPU time used so far; None when the engine cannot tell.
        memory_bytes: In use, files in memory included; None when the engine cannot tell.
        phase: What its probe came to, in words.
    """

    log_mark: str
    cpu_s: float | None
    memory_bytes: int | None
    phase: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartProgress:
    """How far a start has come, as far as can be seen from outside.

    Args:
        seen: By the last look; its memory is that of the last progress.
        looked_s: Loop time of the last look.
        moved_s: Loop time of the last look that found progress; of the first one before any.
    """

    seen: Activity
    looked_s: float
    moved_s: float

    @property
    def still_s(self) -> float:
        """For how long nothing was seen to happen, up to the last look."""
        return self.looked_s - self.moved_s


def progressed(before: StartProgress | None, seen: Activity, *, now_s: float) -> StartProgress:
    """Take one look into account.

    Progress is a new line in the log, CPU time above a hundredth of a core, memory that changed by
    a MiB since the last progress, or another answer to the probe. What cannot be seen counts as
    progress: nothing is ended on a guess.

    Args:
        before: After the look before; None at the first.
        seen: What this look found.
        now_s: Loop time.
    """
    if before is None or _moved(before.seen, seen, passed_s=now_s - before.looked_s):
        return StartProgress(seen=seen, looked_s=now_s, moved_s=now_s)
    kept = Activity(
        log_mark=seen.log_mark, cpu_s=seen.cpu_s, memory_bytes=before.seen.memory_bytes, phase=seen.phase
    )
    return StartProgress(seen=kept, looked_s=now_s, moved_s=before.moved_s)


def stalled(progress: StartProgress | None, timeout_s: float) -> bool:
    """Whether a start has been still for too long.

    Only a look that was made after that time tells, so an engine that is away ends no start.

    Args:
        progress: None before the first look.
        timeout_s: 0 for no limit.
    """
    return progress is not None and timeout_s > 0 and progress.still_s >= timeout_s


def look_every_s(timeout_s: float) -> float:
    """How often to look: rarely, and a few times within the limit."""
    return min(10.0, max(0.5, timeout_s / 6))


def _moved(before: Activity, seen: Activity, *, passed_s: float) -> bool:
    if seen.log_mark != before.log_mark or seen.phase != before.phase:
        return True
    if seen.cpu_s is None or before.cpu_s is None:
        return True
    if seen.memory_bytes is None or before.memory_bytes is None:
        return True
    if seen.cpu_s - before.cpu_s >= _CPU_SHARE_MIN * passed_s:
        return True
    return abs(seen.memory_bytes - before.memory_bytes) >= _MEMORY_STEP_BYTES

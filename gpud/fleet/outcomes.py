"""Puts the end of a container into words and an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.worker import Cause, WorkerEvent
from gpud.errors import DependencyDown

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.fleet.hands import Hands
    from gpud.ports.containers import SeenContainer

_TAIL_BYTES = 4096
_TAIL_LINES = 3


async def ended_event(hands: Hands, worker_id: WorkerId, seen: SeenContainer) -> WorkerEvent:
    """Describe a container that ended by itself, with its last words."""
    ran_s = max(seen.finished_ns - seen.started_ns, 0) / 1e9
    if seen.out_of_memory:
        cause, why = Cause.OUT_OF_MEMORY, f"The container ran out of memory after {ran_s:.1f} s"
    else:
        cause = Cause.EXITED
        why = f"The container exited with code {seen.exit_code} after {ran_s:.1f} s"
    if seen.error:
        why += f" ({seen.error})"
    words = await last_words(hands, worker_id)
    return WorkerEvent(
        worker_id=worker_id,
        cause=cause,
        detail=f"{why}. {words}",
        finished_ns=seen.finished_ns,
        exit_code=seen.exit_code,
    )


async def last_words(hands: Hands, worker_id: WorkerId) -> str:
    """The last lines a container wrote, as a sentence."""
    try:
        tail = await hands.last_output(worker_id, bytes_max=_TAIL_BYTES)
    except DependencyDown:
        return "Its output could not be read."
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    if not lines:
        return "It wrote nothing."
    return "Last output: " + " | ".join(lines[-_TAIL_LINES:])[-600:]

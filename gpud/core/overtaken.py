"""Was a plan overtaken by requests that came while it was made?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.worker import WorkerEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import WorkerId
    from gpud.core.world import Plan, World


def overtaken(answer: Plan, world: World, in_flight_now: Callable[[WorkerId], int]) -> bool:
    """Whether a worker that the plan moves had nothing to do in its world, and has now.

    Such a worker was chosen to leave or to step down because it was idle. All else a plan decides of the
    load is as good some milliseconds later: the next round corrects it, as it would a moment after.

    Args:
        answer: The plan.
        world: Of which it was made.
        in_flight_now: Requests at a worker, as it is now.
    """
    return any(
        isinstance(change, WorkerEvent)
        and not world.in_flight.get(change.worker_id)
        and in_flight_now(change.worker_id)
        for change in answer.changes
    )

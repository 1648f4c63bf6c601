"""How well do the workers of each revision answer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.rollout import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.ids import Revision, WorkerId
    from gpud.core.worker import Worker


def tallied(
    tallies: Mapping[Revision, Tally],
    answers: Sequence[tuple[WorkerId, int, int]],
    workers: Mapping[WorkerId, Worker],
) -> dict[Revision, Tally]:
    """Add answers to the tallies of the revisions that gave them.

    Args:
        tallies: So far.
        answers: Worker, all of its answers, and those that were errors.
        workers: To tell their revisions; answers of a worker that is gone are left out.
    """
    after = dict(tallies)
    for worker_id, answered, failed in answers:
        worker = workers.get(worker_id)
        if worker is not None:
            after[worker.revision] = after.get(worker.revision, Tally()).plus(answered, failed)
    return after

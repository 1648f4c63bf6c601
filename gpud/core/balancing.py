"""Which ready worker gets the next request?"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from gpud.core.endpoint import Balance
from gpud.core.ids import WorkerId

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gpud.core.routing import RouteWorker


_ROUND_ROBIN = Balance.ROUND_ROBIN  # looking a member up in its class is slow


@dataclass(frozen=True, slots=True)
class Rotation:
    """An endpoint's ready workers in the order of their ids.

    The order is what makes a cursor survive changes of the list: the cursor is the id of the
    worker chosen last, present or not, and the next is the first id after it.
    """

    workers: tuple[RouteWorker, ...] = ()
    ids: tuple[WorkerId, ...] = ()

    @classmethod
    def of(cls, workers: Collection[RouteWorker]) -> Rotation:
        """Put workers in order."""
        ordered = tuple(sorted(workers, key=lambda worker: worker.worker_id))
        return cls(ordered, tuple(worker.worker_id for worker in ordered))


def pick(
    balance: Balance,
    rotation: Rotation,
    *,
    in_flight: Mapping[WorkerId, int],
    concurrency: int,
    cursor: str,
    skip: Collection[WorkerId] = (),
    affinity: bytes = b"",
) -> RouteWorker | None:
    """Choose a worker with a free slot, or None when there is none.

    Args:
        balance: The endpoint's rule.
        rotation: Ready workers; draining ones are not in it.
        in_flight: Requests at each worker; none for workers it does not name.
        concurrency: Requests one worker takes at a time.
        cursor: Id of the worker chosen last; empty before the first choice.
        skip: Workers not to choose, such as ones this request failed to reach.
        affinity: Session of the request; decides among workers the rule holds for equal.
    """
    ids = rotation.ids
    start = bisect_right(ids, WorkerId(cursor))
    if balance is _ROUND_ROBIN and not affinity:
        for i in range(start - len(ids), start):  # negative indices: from the cursor to the end, then round
            worker_id = ids[i]
            if in_flight.get(worker_id, 0) < concurrency and worker_id not in skip:
                return rotation.workers[i]
        return None
    equal = [
        rotation.workers[i]
        for i in range(start - len(ids), start)
        if in_flight.get(ids[i], 0) < concurrency and ids[i] not in skip
    ]
    if not equal:
        return None
    match balance:
        case Balance.ROUND_ROBIN:
            pass
        case Balance.LEAST_INFLIGHT:
            least = min(in_flight.get(worker.worker_id, 0) for worker in equal)
            equal = [worker for worker in equal if in_flight.get(worker.worker_id, 0) == least]
        case Balance.PACK:
            return min(equal, key=lambda worker: worker.worker_id)
        case _:
            assert_never(balance)
    if affinity and len(equal) > 1:
        return max(equal, key=lambda worker: _attraction(affinity, worker.worker_id))
    return equal[0]


def _attraction(affinity: bytes, worker_id: WorkerId) -> bytes:
    """Rank workers for a session; removing one worker moves only that worker's sessions."""
    return hashlib.blake2b(affinity + b"\0" + worker_id.encode(), digest_size=8).digest()

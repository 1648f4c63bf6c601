"""Which worker goes first when there are too many, and which may come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.worker import Cause, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.ids import Revision, WorkerId
    from gpud.core.worker import Worker

_ORDER = {
    WorkerState.PENDING: 0,
    WorkerState.PULLING: 1,
    WorkerState.RESERVED: 2,
    WorkerState.CREATING: 3,
    WorkerState.NOT_READY: 4,
    WorkerState.STARTING: 5,
    WorkerState.DOZING: 6,
    WorkerState.SLEEPING: 7,
    WorkerState.WAKING: 8,
    WorkerState.PAUSED: 9,
    WorkerState.READY: 10,
}
"""Least progress first; a broken worker before one that may soon serve."""


def victims(workers: Sequence[Worker], in_flight: Mapping[WorkerId, int]) -> list[Worker]:
    """Order workers by who goes first.

    Never one with requests while another has none; among equals the youngest goes, because
    the older one has the warmer caches.
    """
    return sorted(
        workers,
        key=lambda w: (
            in_flight.get(w.id, 0) > 0,
            _ORDER.get(w.state, 11),
            in_flight.get(w.id, 0),
            -w.created_at_ms,
            w.id,
        ),
    )


def revivable(workers: Sequence[Worker], revision: Revision) -> list[Worker]:
    """Draining workers that may serve again: same revision, scaled down, no stop sent yet."""
    return [
        w
        for w in workers
        if w.state is WorkerState.DRAINING
        and w.revision == revision
        and w.cause in (Cause.SCALE_DOWN, Cause.IDLE)
        and w.ready_s is not None
        and not w.force
    ]

"""Which endpoints need no look while nothing happens to them? On a large box: most, most of the time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpud.core.endpoint import PolicyName
from gpud.core.policies import STABLE_WINDOW_S, arrival_window_s
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.demand import LoadWindow
    from gpud.core.ids import EndpointName
    from gpud.core.worker import Worker
    from gpud.core.world import EndpointSeen, World


def rests(seen: EndpointSeen, *, now_s: float) -> bool:
    """Whether an endpoint should have its `min_workers` and no more, whenever it is asked again.

    True means that every plan decides that, leaves a memory that says the same, and has no moment at which
    to ask again, for as long as this picture holds, whatever workers there are.
    """
    scale, window = seen.endpoint.spec.scale, seen.window_open
    return (
        not seen.load
        and scale.max_workers > 0
        and scale.policy is not PolicyName.FIXED
        and not scale.more_policies
        and not window.workers
        and window.edge_s is None
        and not seen.starts.failures
        and (seen.rollout is None or not seen.rollout.rollout.active)
        and seen.pace.panic_until_s == -math.inf
        and _calm(seen.window)
        and _calm(seen.pace.wishes)
        and _forgotten(seen, now_s)
    )


def apart(
    world: World, by_endpoint: Mapping[EndpointName, Sequence[Worker]]
) -> tuple[list[EndpointSeen], list[EndpointName]]:
    """Tell the endpoints that need a look from those that rest with no worker, and should have none."""
    awake, asleep = [], []
    for name, seen in world.endpoints.items():
        if seen.resting and name not in by_endpoint and not seen.endpoint.spec.scale.min_workers:
            asleep.append(name)
        else:
            awake.append(seen)
    return awake, asleep


def as_they_should_be(seen: EndpointSeen, workers: Sequence[Worker]) -> bool:
    """Whether an endpoint that rests has just the workers it should have, and nothing is to be done."""
    revision = seen.endpoint.revision
    return len(workers) == seen.endpoint.spec.scale.min_workers and all(
        worker.state is WorkerState.READY and worker.revision == revision for worker in workers
    )


def _calm(window: LoadWindow) -> bool:
    """Nothing but a zero is remembered."""
    return not window.entries or (len(window.entries) == 1 and not window.entries[0][1])


def _forgotten(seen: EndpointSeen, now_s: float) -> bool:
    """Averages and counts of the past are zero, and stay so."""
    points, entries = seen.average.points, seen.arrivals.entries
    return (
        not seen.average.load
        and (len(points) < 2 or now_s - points[-1][0] >= STABLE_WINDOW_S)
        and (not entries or now_s - entries[-1][0] >= arrival_window_s(seen.cold_start_s))
    )

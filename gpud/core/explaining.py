"""Why does an endpoint have fewer ready workers than it wants?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.budget import wait_for
from gpud.core.pacing import ScaleReason
from gpud.core.waiting import WaitReason
from gpud.core.worker import STARTING_UP, STEPPED_DOWN, WorkerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.pacing import ScaleDecision
    from gpud.core.worker import Worker
    from gpud.core.world import EndpointSeen, World

_UNDER_WAY = STARTING_UP - {WorkerState.PENDING, WorkerState.PULLING}


def unmet(
    seen: EndpointSeen, current: Sequence[Worker], decision: ScaleDecision, *, engine_up: bool, now_s: float
) -> list[WaitReason]:
    """List the reasons for an unmet wish, apart from GPUs; empty when nothing is missing.

    Args:
        seen: The endpoint.
        current: Its workers that count, of the present revision.
        decision: How many it should have.
        engine_up: The container engine answers.
        now_s: Loop time.
    """
    waits = []
    down = 0 if seen.waiting else sum(w.state in STEPPED_DOWN for w in current)
    ready = down + sum(w.state is WorkerState.READY for w in current)
    if decision.reason is ScaleReason.PAUSED:
        waits.append(WaitReason(reason="paused", detail="max_workers is 0; raise it to serve."))
    if decision.reason is ScaleReason.BUDGET_SPENT and seen.spent is not None:
        waits.append(wait_for(seen.spent))
    if ready >= max(decision.desired, min(decision.wished, seen.endpoint.spec.scale.max_workers)):
        return waits
    if not engine_up:
        detail = "The Docker Engine does not answer; workers start when it does."
        waits.append(WaitReason(reason="engine_down", detail=detail))
    if seen.starts.failures and not seen.starts.may_start(now_s=now_s):
        waits.append(_held_back(seen, now_s))
    if any(w.state is WorkerState.PULLING for w in current):
        waits.append(WaitReason(reason="image_pulling", detail=f"Pulling {seen.endpoint.image.reference}."))
    waits.extend(
        WaitReason(
            reason="worker_starting",
            detail=f"Worker {w.id} is {w.state}" + (f": {w.detail}" if w.detail else "."),
            facts={"worker": w.id, "for_s": round(now_s - w.since_s, 3)},
            ends_at_s=w.since_s + seen.cold_start_s if w.since_s + seen.cold_start_s > now_s else None,
        )
        for w in current
        if w.state in _UNDER_WAY
    )
    return waits


def _held_back(seen: EndpointSeen, now_s: float) -> WaitReason:
    starts = seen.starts
    return WaitReason(
        reason="circuit_open" if starts.open else "start_backoff",
        detail=f"{starts.failures} starts failed in a row; last error: {starts.last_error}",
        facts={
            "error": starts.last_error,
            "failures": starts.failures,
            "retry_in_s": round(starts.next_try_s - now_s, 3),
        },
        ends_at_s=starts.next_try_s,
    )


def start_limit(world: World, *, box: int, endpoint: int) -> WaitReason:
    """A worker's GPUs are free, and as many starts are under way as may be.

    Args:
        world: For its limits.
        box: Starts under way on the whole box.
        endpoint: Of these, the endpoint's own.
    """
    own = endpoint >= world.endpoint_starts_max
    limit, setting = (
        (world.endpoint_starts_max, "scaling.endpoint_starts")
        if own
        else (world.starts_max, "scaling.starts")
    )
    under_way = endpoint if own else box
    return WaitReason(
        reason="start_limit",
        detail=f"Its GPUs are free; {under_way} starts are under way, and {setting} allows {limit} at once.",
        facts={"starting": under_way, "limit": limit, "setting": setting},
    )

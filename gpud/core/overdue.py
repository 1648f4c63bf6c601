"""Which worker's time has come, and when does the next one's come?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.endpoint import HealthCheck, Limits, Preempt
from gpud.core.gpu import GpuHealth
from gpud.core.stalls import stalled
from gpud.core.worker import COUNTED, Cause, WorkerEvent, WorkerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.endpoint import EndpointSpec
    from gpud.core.gpu import GpuStatus
    from gpud.core.worker import Worker
    from gpud.core.world import World

_AT_ONCE = frozenset({Cause.SLEEP_FAILED, Cause.WAKE_FAILED})
_STEP_MARGIN_S = 60.0
STOP_UNANSWERED_AFTER_S = 300.0
"""An engine that has not answered a stop for this long has lost the worker."""


def sick_gpus(world: World) -> tuple[GpuStatus, ...]:
    """List the GPUs that no worker may stay on; asked once for all workers."""
    return tuple(s for s in world.gpus if s.health in (GpuHealth.UNHEALTHY, GpuHealth.CORDONED))


def due(worker: Worker, world: World, sick: Sequence[GpuStatus]) -> tuple[list[WorkerEvent], float | None]:
    """Say what has to happen to a worker now.

    Args:
        worker: Which.
        world: As it is.
        sick: As `sick_gpus` lists them.

    Returns:
        Its events, and the loop time at which its next limit is over; None when it waits for none.
    """
    events: list[WorkerEvent] = []
    ask_again_at_s = None
    limit = _limit_of(worker, world)
    if limit is not None:
        limit_s, cause, detail = limit
        if world.now_s >= worker.since_s + limit_s:
            force = cause in _AT_ONCE or (cause is Cause.DRAIN_TIMEOUT and _is_preempted(worker, world))
            events.append(WorkerEvent(worker_id=worker.id, cause=cause, detail=detail, force=force))
        else:
            ask_again_at_s = worker.since_s + limit_s
    lost = _gpu_lost(worker, sick)
    if lost is not None:
        events.append(lost)
    return events, ask_again_at_s


def _limit_of(worker: Worker, world: World) -> tuple[float, Cause, str] | None:
    """How long the worker may stay in its state, and what happens then."""
    spec = _spec_of(worker, world)
    health, limits = (spec.health, spec.limits) if spec else (HealthCheck(), Limits())
    match worker.state:
        case WorkerState.RESERVED if not world.verify_gpus or not worker.gpu_uuids:
            return float("-inf"), Cause.GPUS_VERIFIED, ""
        case WorkerState.STARTING:
            start_s = spec.start_timeout_s if spec else health.start_timeout_s
            return _limit_of_start(worker, health, start_s, world)
        case WorkerState.NOT_READY:
            return health.not_ready_timeout_s, Cause.NOT_READY_TIMEOUT, ""
        case WorkerState.DOZING:
            return _limit_of_step(spec, Cause.SLEEP_FAILED)
        case WorkerState.WAKING:
            return _limit_of_step(spec, Cause.WAKE_FAILED)
        case WorkerState.DRAINING if worker.force or not world.in_flight.get(worker.id):
            return float("-inf"), Cause.DRAINED, ""
        case WorkerState.DRAINING:
            return limits.drain_timeout_s, Cause.DRAIN_TIMEOUT, ""
        case WorkerState.STOPPING:
            grace_s = 0.0 if worker.force else limits.stop_grace_s
            return grace_s + STOP_UNANSWERED_AFTER_S, Cause.STOP_UNANSWERED, ""
        case _:
            return None


def _limit_of_step(spec: EndpointSpec | None, cause: Cause) -> tuple[float, Cause, str]:
    """Its effort keeps the limit of the spec; this is for one that hangs in the engine."""
    limit_s = (spec.sleep.timeout_s if spec else 0.0) + _STEP_MARGIN_S
    return limit_s, cause, f"It neither stepped down nor came back within {limit_s:g} s."


def _is_preempted(worker: Worker, world: World) -> bool:
    """Whether a higher priority that allows it takes the worker's GPUs without grace."""
    holder = world.endpoints.get(worker.endpoint)
    seeker = world.endpoints.get(world.sharing.promises.get(worker.id, worker.endpoint))
    if worker.cause is not Cause.RECLAIMED or holder is None or seeker is None:
        return False
    taking, giving = seeker.endpoint.spec.scale, holder.endpoint.spec.scale
    return taking.preempt is Preempt.KILL and taking.priority > giving.priority


def _limit_of_start(
    worker: Worker, health: HealthCheck, start_s: float, world: World
) -> tuple[float, Cause, str]:
    says, limit_s = worker.detail or "no answer", health.stall_timeout_s
    if stalled(world.progress.get(worker.id), limit_s):
        why = (
            f"Its start stalled: for {limit_s:g} s (health.stall_timeout_s) it wrote no output and used no "
            f"CPU, its memory did not change, and its probe said the same: {says}"
        )
        return float("-inf"), Cause.START_STALLED, why
    why = f"Not ready {start_s:g} s after its start (health.start_timeout_s): {says}"
    return start_s, Cause.START_TIMEOUT, why


def _spec_of(worker: Worker, world: World) -> EndpointSpec | None:
    """What the worker was made from, or else what its endpoint is now."""
    seen = world.endpoints.get(worker.endpoint)
    return world.specs.get(worker.id) or (seen.endpoint.spec if seen else None)


def _gpu_lost(worker: Worker, sick: Sequence[GpuStatus]) -> WorkerEvent | None:
    if not sick or worker.state not in COUNTED:
        return None
    mine = [status for status in sick if status.gpu.uuid in worker.gpu_uuids]
    if not mine:
        return None
    dead = any(s.health is GpuHealth.UNHEALTHY for s in mine)
    listed = "; ".join(f"{s.gpu.uuid} is {s.health}: {s.reason}" for s in mine)
    return WorkerEvent(worker_id=worker.id, cause=Cause.GPU_LOST, detail=listed, force=dead)

"""The life of a worker: its states, what can happen to it, and where that leads.

The table is `TRANSITIONS`; `advance` applies one event. A worker holds its GPUs from RESERVED
to RELEASING, except while it sleeps, and receives traffic only while READY.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.errors import InvariantBroken

if TYPE_CHECKING:
    from gpud.core.gpu import GpuSlice
    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    PENDING = "pending"
    PULLING = "pulling"
    RESERVED = "reserved"
    CREATING = "creating"
    STARTING = "starting"
    READY = "ready"
    NOT_READY = "not_ready"
    PAUSED = "paused"
    DOZING = "dozing"
    SLEEPING = "sleeping"
    WAKING = "waking"
    DRAINING = "draining"
    STOPPING = "stopping"
    RELEASING = "releasing"
    DISCARDING = "discarding"
    FAILED = "failed"
    LOST = "lost"
    GONE = "gone"


class Cause(StrEnum):
    """Why a worker moved; kept with the worker as the reason of its end."""

    SCALE_UP = "scale_up"
    IMAGE_ABSENT = "image_absent"
    PULL_FAILED = "pull_failed"
    UNWANTED = "unwanted"
    GPUS_RESERVED = "gpus_reserved"
    GPU_BUSY = "gpu_busy"
    GPUS_VERIFIED = "gpus_verified"
    CONTAINER_STARTED = "container_started"
    IMAGE_VANISHED = "image_vanished"
    LAUNCH_FAILED = "launch_failed"
    PROBE_PASSED = "probe_passed"
    START_TIMEOUT = "start_timeout"
    START_STALLED = "start_stalled"
    PROBE_FAILED = "probe_failed"
    NOT_READY_TIMEOUT = "not_ready_timeout"
    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    VANISHED = "vanished"
    INCONSISTENT = "inconsistent"
    PIN_VIOLATED = "pin_violated"
    GPU_LOST = "gpu_lost"
    ENGINE_RESTARTED = "engine_restarted"
    SCALE_DOWN = "scale_down"
    IDLE = "idle"
    RECLAIMED = "reclaimed"
    NEW_REVISION = "new_revision"
    ENDPOINT_DELETED = "endpoint_deleted"
    EJECTED = "ejected"
    OPERATOR = "operator"
    KILLED = "killed"
    SHUTDOWN = "shutdown"
    PAUSED = "paused"
    PAUSE_FAILED = "pause_failed"
    PUT_TO_SLEEP = "put_to_sleep"
    FELL_ASLEEP = "fell_asleep"
    SLEEP_FAILED = "sleep_failed"
    WOKEN = "woken"
    WAKE_FAILED = "wake_failed"
    DEMAND_RETURNED = "demand_returned"
    DRAINED = "drained"
    DRAIN_TIMEOUT = "drain_timeout"
    CONTAINER_STOPPED = "container_stopped"
    STOP_UNANSWERED = "stop_unanswered"
    SEEN_AGAIN = "seen_again"
    ADOPTED = "adopted"
    REBOOTED = "rebooted"
    RELEASED = "released"
    NOT_RETURNED = "not_returned"


START_FAILURES = frozenset(
    {
        Cause.PULL_FAILED,
        Cause.LAUNCH_FAILED,
        Cause.START_TIMEOUT,
        Cause.START_STALLED,
        Cause.EXITED,
        Cause.OUT_OF_MEMORY,
        Cause.VANISHED,
        Cause.PIN_VIOLATED,
    }
)
"""Causes that count against the revision when they end a worker gpud did not ask to end."""

HOLDS_GPUS = frozenset(
    {
        WorkerState.RESERVED,
        WorkerState.CREATING,
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.NOT_READY,
        WorkerState.PAUSED,
        WorkerState.DOZING,
        WorkerState.WAKING,
        WorkerState.DRAINING,
        WorkerState.STOPPING,
        WorkerState.RELEASING,
        WorkerState.FAILED,
        WorkerState.LOST,
    }
)
"""States in which leased GPUs stay leased."""

COUNTED = frozenset(
    {
        WorkerState.PENDING,
        WorkerState.PULLING,
        WorkerState.RESERVED,
        WorkerState.CREATING,
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.NOT_READY,
        WorkerState.PAUSED,
        WorkerState.DOZING,
        WorkerState.SLEEPING,
        WorkerState.WAKING,
    }
)
"""States that count towards an endpoint's number of workers; the rest are on their way out."""

STEPPED_DOWN = frozenset({WorkerState.PAUSED, WorkerState.DOZING, WorkerState.SLEEPING})
"""It was ready, has nothing to do and can be brought back."""

STARTING_UP = COUNTED - STEPPED_DOWN - {WorkerState.READY, WorkerState.NOT_READY}

HAS_CONTAINER = frozenset(WorkerState) - {
    WorkerState.PENDING,
    WorkerState.PULLING,
    WorkerState.RESERVED,
    WorkerState.RELEASING,
    WorkerState.GONE,
}
"""States in which a container of the worker may exist."""

_PRE_LEASE = (WorkerState.PENDING, WorkerState.PULLING)
_RUNNING = (WorkerState.STARTING, WorkerState.READY, WorkerState.NOT_READY, WorkerState.DRAINING)
_STEPPING = (WorkerState.PAUSED, WorkerState.DOZING, WorkerState.WAKING)
"""No request is at it, so it need not drain."""
_DRAIN_CAUSES = (
    Cause.SCALE_DOWN,
    Cause.IDLE,
    Cause.RECLAIMED,
    Cause.NEW_REVISION,
    Cause.ENDPOINT_DELETED,
    Cause.EJECTED,
    Cause.OPERATOR,
    Cause.SHUTDOWN,
    Cause.GPU_LOST,
)
_BREAKS = (
    Cause.EXITED,
    Cause.OUT_OF_MEMORY,
    Cause.VANISHED,
    Cause.INCONSISTENT,
    Cause.PIN_VIOLATED,
    Cause.ENGINE_RESTARTED,
)


def _table() -> dict[tuple[WorkerState, Cause], WorkerState]:
    s, c = WorkerState, Cause
    table: dict[tuple[WorkerState, Cause], WorkerState] = {
        (s.PENDING, c.IMAGE_ABSENT): s.PULLING,
        (s.PULLING, c.PULL_FAILED): s.GONE,
        (s.RESERVED, c.GPU_BUSY): s.GONE,
        (s.RESERVED, c.GPUS_VERIFIED): s.CREATING,
        (s.CREATING, c.CONTAINER_STARTED): s.STARTING,
        (s.CREATING, c.IMAGE_VANISHED): s.RELEASING,
        (s.CREATING, c.LAUNCH_FAILED): s.FAILED,
        (s.STARTING, c.PROBE_PASSED): s.READY,
        (s.STARTING, c.START_TIMEOUT): s.FAILED,
        (s.STARTING, c.START_STALLED): s.FAILED,
        (s.READY, c.PROBE_FAILED): s.NOT_READY,
        (s.NOT_READY, c.PROBE_PASSED): s.READY,
        (s.NOT_READY, c.NOT_READY_TIMEOUT): s.DRAINING,
        (s.DRAINING, c.DEMAND_RETURNED): s.READY,
        (s.DRAINING, c.DRAINED): s.STOPPING,
        (s.DRAINING, c.DRAIN_TIMEOUT): s.STOPPING,
        (s.READY, c.ADOPTED): s.NOT_READY,
        (s.READY, c.PAUSED): s.PAUSED,
        (s.PAUSED, c.WOKEN): s.WAKING,
        (s.PAUSED, c.PAUSE_FAILED): s.WAKING,
        (s.PAUSED, c.ADOPTED): s.WAKING,
        (s.READY, c.PUT_TO_SLEEP): s.DOZING,
        (s.PAUSED, c.PUT_TO_SLEEP): s.DOZING,
        (s.DOZING, c.FELL_ASLEEP): s.SLEEPING,
        (s.DOZING, c.SLEEP_FAILED): s.STOPPING,
        (s.SLEEPING, c.GPUS_RESERVED): s.WAKING,
        (s.WAKING, c.PROBE_PASSED): s.READY,
        (s.WAKING, c.WAKE_FAILED): s.STOPPING,
        (s.DISCARDING, c.RELEASED): s.GONE,
        (s.STOPPING, c.CONTAINER_STOPPED): s.RELEASING,
        (s.STOPPING, c.STOP_UNANSWERED): s.LOST,
        (s.FAILED, c.CONTAINER_STOPPED): s.RELEASING,
        (s.LOST, c.SEEN_AGAIN): s.STOPPING,
        (s.LOST, c.CONTAINER_STOPPED): s.RELEASING,
        (s.RELEASING, c.RELEASED): s.GONE,
        (s.RELEASING, c.NOT_RETURNED): s.GONE,
    }
    return table | _endings()


def _endings() -> dict[tuple[WorkerState, Cause], WorkerState]:
    """What may happen in several states alike."""
    s, c = WorkerState, Cause
    rules: tuple[tuple[tuple[WorkerState, ...], tuple[Cause, ...], WorkerState], ...] = (
        (_PRE_LEASE, (c.GPUS_RESERVED,), s.RESERVED),
        (_PRE_LEASE, (c.UNWANTED,), s.GONE),
        # Nothing was created yet (RESERVED), or the launch's answer is still out (CREATING):
        # stopping removes whatever is there by name, so it is right in both.
        ((s.RESERVED, s.CREATING), (c.UNWANTED, *_DRAIN_CAUSES), s.STOPPING),
        ((s.RESERVED, s.CREATING, *_RUNNING, *_STEPPING), (c.KILLED,), s.STOPPING),
        ((s.STARTING, s.READY, s.NOT_READY), _DRAIN_CAUSES, s.DRAINING),
        (_STEPPING, _DRAIN_CAUSES, s.STOPPING),
        ((s.RESERVED, s.CREATING, *_RUNNING, *_STEPPING), _BREAKS, s.FAILED),
        # It holds no GPU, so it must not pass through states that do.
        ((s.SLEEPING,), (c.KILLED, c.UNWANTED, *_DRAIN_CAUSES, *_BREAKS), s.DISCARDING),
        (tuple(state for state in s if state is not s.GONE), (c.REBOOTED,), s.GONE),
    )
    return {
        (state, cause): target for states, causes, target in rules for state in states for cause in causes
    }


TRANSITIONS: dict[tuple[WorkerState, Cause], WorkerState] = _table()


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker as the reconciler knows it.

    Args:
        id: Its container is `gpud-<id>`.
        endpoint: The endpoint it serves.
        revision: Of the endpoint when the worker was made.
        state: See `WorkerState`.
        generation: Grows with every change of state; a change is written only on top of the
            generation it was decided on.
        since_s: Loop time of the last change of state.
        created_at_ms: Unix wall time.
        gpu_uuids: Leased GPUs; empty before RESERVED and for CPU workers.
        gpu_slice: The part of its one GPU that is its own; None when its GPUs are whole.
        address: `ip` of the container once started, else empty.
        port: Where the container listens.
        cause: Of the last change of state.
        detail: What a person should know about it: the last error, with what to do.
        container_started_ns: The engine's StartedAt, Unix nanoseconds; 0 before.
        container_finished_ns: The engine's FinishedAt, Unix nanoseconds; 0 before.
        exit_code: Of the container; None while it runs or when unknown.
        ready_s: Loop time of the first READY; None before.
        adopted: The daemon found it running at start-up.
        failed: It ended without gpud asking, which counts against its revision.
        force: Stop without grace.
    """

    id: WorkerId
    endpoint: EndpointName
    revision: Revision
    state: WorkerState
    generation: int
    since_s: float
    created_at_ms: int
    port: int
    gpu_uuids: tuple[GpuUuid, ...] = ()
    gpu_slice: GpuSlice | None = None
    address: str = ""
    cause: Cause = Cause.SCALE_UP
    detail: str = ""
    container_started_ns: int = 0
    container_finished_ns: int = 0
    exit_code: int | None = None
    ready_s: float | None = None
    adopted: bool = False
    failed: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent:
    """One thing that happened to one worker.

    Args:
        worker_id: Of the worker it happened to.
        cause: What happened.
        detail: For a person; empty keeps what the worker has.
        gpu_uuids: With GPUS_RESERVED.
        gpu_slice: With GPUS_RESERVED, of a shared GPU.
        address: With CONTAINER_STARTED.
        started_ns: With CONTAINER_STARTED and CONTAINER_STOPPED: the engine's StartedAt, Unix
            nanoseconds.
        finished_ns: With an end of the container: the engine's FinishedAt; 0 when unknown.
        exit_code: With an end of the container, if known.
        permanent: Trying again cannot help (image not found, invalid config).
        force: Stop without grace.
    """

    worker_id: WorkerId
    cause: Cause
    detail: str = ""
    gpu_uuids: tuple[GpuUuid, ...] = ()
    gpu_slice: GpuSlice | None = None
    address: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    permanent: bool = False
    force: bool = False


def next_state(state: WorkerState, cause: Cause) -> WorkerState | None:
    """Where `cause` leads from `state`; None when it means nothing there any more."""
    return TRANSITIONS.get((state, cause))


def advance(worker: Worker, event: WorkerEvent, *, now_s: float) -> Worker | None:
    """Apply one event to a worker.

    Args:
        worker: As it is.
        event: What happened.
        now_s: Loop time.

    Returns:
        The worker after the event, or None when the event is stale: it belongs to a state
        the worker has left, as late answers do.

    Raises:
        InvariantBroken: The event is another worker's.
    """
    if event.worker_id != worker.id:
        raise InvariantBroken(f"Event of {event.worker_id} applied to {worker.id}.")
    target = next_state(worker.state, event.cause)
    if target is None:
        return None
    ready_s = worker.ready_s
    if worker.state is WorkerState.SLEEPING and target is WorkerState.WAKING:
        ready_s = None  # its turn on the GPUs begins anew
    elif target is WorkerState.READY and ready_s is None:
        ready_s = now_s
    return replace(
        worker,
        state=target,
        generation=worker.generation + 1,
        since_s=now_s,
        cause=event.cause,
        detail=event.detail or worker.detail,
        gpu_uuids=event.gpu_uuids or worker.gpu_uuids,
        gpu_slice=event.gpu_slice or worker.gpu_slice,
        address=event.address or worker.address,
        adopted=worker.adopted or event.cause is Cause.ADOPTED,
        container_started_ns=event.started_ns or worker.container_started_ns,
        container_finished_ns=event.finished_ns or worker.container_finished_ns,
        exit_code=worker.exit_code if event.exit_code is None else event.exit_code,
        ready_s=ready_s,
        failed=worker.failed or _counts_as_failure(worker, event, target),
        force=worker.force or event.force,
    )


def _counts_as_failure(worker: Worker, event: WorkerEvent, target: WorkerState) -> bool:
    if event.cause is Cause.NOT_READY_TIMEOUT:
        return True
    # An end below READY says nothing about starts.
    asked_to_end = worker.state in (WorkerState.DRAINING, WorkerState.STOPPING, *_STEPPING)
    ended = target in (WorkerState.FAILED, WorkerState.GONE)
    return ended and event.cause in START_FAILURES and not asked_to_end

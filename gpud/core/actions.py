"""What must be going on for a worker in each state; carrying it out is the executor's."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from gpud.core.worker import WorkerState


class Action(StrEnum):
    """One continuing effort for one worker; each is safe to repeat and to resume after a crash."""

    PULL_IMAGE = "pull_image"
    VERIFY_GPUS = "verify_gpus"
    LAUNCH = "launch"
    AWAIT_READY = "await_ready"
    WATCH_HEALTH = "watch_health"
    AWAIT_RETURN = "await_return"
    STOP = "stop"
    BURY = "bury"
    RELEASE = "release"


def action_for(state: WorkerState) -> Action | None:  # noqa: C901 - one arm a state
    """Which effort a worker in `state` needs, or None when it only waits for a decision."""
    match state:
        case WorkerState.PULLING:
            return Action.PULL_IMAGE
        case WorkerState.RESERVED:
            return Action.VERIFY_GPUS
        case WorkerState.CREATING:
            return Action.LAUNCH
        case WorkerState.STARTING:
            return Action.AWAIT_READY
        case WorkerState.READY:
            return Action.WATCH_HEALTH
        case WorkerState.NOT_READY:
            return Action.AWAIT_RETURN
        case WorkerState.STOPPING | WorkerState.LOST:
            return Action.STOP
        case WorkerState.FAILED:
            return Action.BURY
        case WorkerState.RELEASING:
            return Action.RELEASE
        case WorkerState.PENDING | WorkerState.DRAINING | WorkerState.GONE:
            return None
        case _:
            assert_never(state)

"""What must be going on for a worker in each state; carrying it out is the executor's."""

from __future__ import annotations

from enum import StrEnum

from gpud.core.worker import WorkerState


class Action(StrEnum):
    """One continuing effort for one worker; each is safe to repeat and to resume after a crash."""

    PULL_IMAGE = "pull_image"
    VERIFY_GPUS = "verify_gpus"
    LAUNCH = "launch"
    AWAIT_READY = "await_ready"
    WATCH_HEALTH = "watch_health"
    AWAIT_RETURN = "await_return"
    PAUSE = "pause"
    DOZE = "doze"
    WAKE = "wake"
    DISCARD = "discard"
    STOP = "stop"
    BURY = "bury"
    RELEASE = "release"


_ACTIONS = {
    WorkerState.PULLING: Action.PULL_IMAGE,
    WorkerState.RESERVED: Action.VERIFY_GPUS,
    WorkerState.CREATING: Action.LAUNCH,
    WorkerState.STARTING: Action.AWAIT_READY,
    WorkerState.READY: Action.WATCH_HEALTH,
    WorkerState.NOT_READY: Action.AWAIT_RETURN,
    WorkerState.PAUSED: Action.PAUSE,
    WorkerState.DOZING: Action.DOZE,
    WorkerState.WAKING: Action.WAKE,
    WorkerState.STOPPING: Action.STOP,
    WorkerState.LOST: Action.STOP,
    WorkerState.FAILED: Action.BURY,
    WorkerState.RELEASING: Action.RELEASE,
    WorkerState.DISCARDING: Action.DISCARD,
}


def action_for(state: WorkerState) -> Action | None:
    """Which effort a worker in `state` needs, or None when it only waits for a decision."""
    return _ACTIONS.get(state)

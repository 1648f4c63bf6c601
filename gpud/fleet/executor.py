"""Has one effort going for every worker that needs one; outcomes return as events."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gpud.core.actions import Action, action_for
from gpud.core.worker import Cause, WorkerState
from gpud.errors import LaunchFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gpud.core.ids import WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.state import FleetState

log = structlog.get_logger(__name__)

_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_ROUNDS_FOR_OUTCOME = 2
"""An effort posts its outcome before it ends, so the next round but one has seen it."""
_STARTS_SOMETHING = frozenset(
    {Action.PULL_IMAGE, Action.VERIFY_GPUS, Action.LAUNCH, Action.PAUSE, Action.DOZE, Action.WAKE}
)
_PROBES = frozenset({Action.AWAIT_READY, Action.WATCH_HEALTH, Action.AWAIT_RETURN})


@dataclass(slots=True)
class _Running:
    action: Action
    task: asyncio.Task[None]
    rounds_done: int = 0


class Executor:
    """Starts, keeps and ends the efforts that the workers' states ask for.

    Level-triggered: `follow` compares what runs with what should, so a lost outcome costs a
    round and nothing else. An effort that is no longer wanted is cancelled, except a launch:
    its thread cannot be stopped, so whatever comes next for that worker waits for its answer.

    Args:
        state: The fleet, to read.
        efforts: What to run for each action; each ends by posting an event.
        tasks: Owns the tasks; an unknown exception in one ends the daemon.
        needs_engine: Whether a worker that is to be launched needs a start of the engine.
    """

    def __init__(
        self,
        state: FleetState,
        efforts: Mapping[Action, Callable[[WorkerId], Awaitable[None]]],
        tasks: asyncio.TaskGroup,
        needs_engine: Callable[[WorkerId], bool] = lambda _worker_id: True,
    ) -> None:
        self._state = state
        self._efforts = efforts
        self._tasks = tasks
        self._needs_engine = needs_engine
        self._running: dict[WorkerId, _Running] = {}
        self.begun: Counter[str] = Counter()
        """Efforts begun, by kind."""
        self._hands_free = False
        self._closed = False

    def free_hands(self) -> None:
        """The containers left by the daemon before are accounted for: from now on touch them.

        Until then workers are probed and nothing else, so that no container ends between the
        engine's listing and what is concluded from it.
        """
        self._hands_free = True

    def follow(self, *, may_start: bool) -> None:
        """Bring the running efforts in line with the workers' states.

        Args:
            may_start: False while changes are not on disk: what they decided is then not
                begun, and what ends a worker goes on.
        """
        if self._closed:
            return
        for worker_id in [w for w in self._running if w not in self._state.workers]:
            self._running.pop(worker_id).task.cancel()
        for worker in self._state.workers.values():
            action = action_for(worker.state)
            running = self._running.get(worker.id)
            if running is not None and running.action is action and not self._must_repeat(running):
                continue
            if action is None:
                if running is not None and running.action is not Action.LAUNCH:
                    running.task.cancel()
                continue
            if not self._may_begin(action, may_start=may_start):
                continue
            self._start(worker, action, running)

    def hurry(self, *, may_start: bool) -> None:
        """Begin beside the write what may begin before it is on disk.

        A paused worker thaws, and has its GPUs; should the daemon end first, it is found running where it
        was to be paused. A look at GPUs changes nothing. A parked container is triggered: should the daemon
        end first, the next one finds a standby that nothing holds back and destroys it before anybody
        else may start.

        Args:
            may_start: False while the disk is full: then nothing is looked at or triggered.
        """
        if self._closed or not self._hands_free:
            return
        for worker in self._state.workers.values():
            action = self._before_the_write(worker)
            if action is None or (action is not Action.WAKE and not may_start):
                continue
            running = self._running.get(worker.id)
            if running is None or running.action is not action:
                self._start(worker, action, running)

    def _before_the_write(self, worker: Worker) -> Action | None:
        match worker.state:
            case WorkerState.WAKING if worker.cause is Cause.WOKEN:
                return Action.WAKE
            case WorkerState.RESERVED:
                return Action.VERIFY_GPUS
            case WorkerState.CREATING if not self._needs_engine(worker.id):
                return Action.LAUNCH
            case _:
                return None

    def _may_begin(self, action: Action, *, may_start: bool) -> bool:
        if not self._hands_free:
            return action in _PROBES
        return may_start or action not in _STARTS_SOMETHING

    def close(self) -> None:
        """Start nothing more and cancel everything; containers stay as they are."""
        self._closed = True
        for running in self._running.values():
            running.task.cancel()

    @staticmethod
    def _must_repeat(running: _Running) -> bool:
        """An effort that ended some rounds ago, and is still what the worker needs, was in vain.

        So was one that was cancelled, for a worker that drained and is wanted again.
        """
        if not running.task.done():
            return False
        running.rounds_done += 1
        return running.rounds_done > _ROUNDS_FOR_OUTCOME

    def _start(self, worker: Worker, action: Action, before: _Running | None) -> None:
        previous = before.task if before is not None else None
        if previous is not None and before is not None and before.action is not Action.LAUNCH:
            previous.cancel()
        self.begun[action] += 1
        coroutine = self._run(worker.id, action, previous)
        task = self._tasks.create_task(coroutine, name=f"{action}:{worker.id}")
        self._running[worker.id] = _Running(action=action, task=task)

    async def _run(self, worker_id: WorkerId, action: Action, previous: asyncio.Task[None] | None) -> None:
        if previous is not None and not previous.done():
            await asyncio.wait([previous])
        effort = self._efforts[action]
        attempt = 0
        while True:
            try:
                await effort(worker_id)
            except (Unavailable, LaunchFailed) as error:  # the second of a container that cannot be stopped
                wait_s = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
                log.warning(
                    "worker.action_postponed",
                    worker=worker_id,
                    action=action,
                    error=error.detail,
                    retry_in_s=wait_s,
                )
                attempt += 1
                await asyncio.sleep(wait_s)
            else:
                return

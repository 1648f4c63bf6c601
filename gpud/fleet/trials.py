"""What a rollout asks of the world beside workers: the pull of its image, and the smoke request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.probing import ProbeOutcome, describe
from gpud.core.rollout import Rollout, RolloutStep, SmokeState
from gpud.core.worker import WorkerState
from gpud.errors import NotFound, RegistryDenied

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName, Revision
    from gpud.core.worker import Worker
    from gpud.fleet.hands import Hands
    from gpud.fleet.prewarmer import Prewarmer

_SMOKE_RETRY_S = 1.0


class Trials:
    """Has one effort going for every rollout that needs one; level-triggered, like the executor.

    Args:
        hands: The ports.
        prewarmer: Pulls.
        tasks: Owns the efforts.
    """

    def __init__(self, hands: Hands, prewarmer: Prewarmer, tasks: asyncio.TaskGroup) -> None:
        self._hands = hands
        self._prewarmer = prewarmer
        self._tasks = tasks
        self._running: dict[EndpointName, tuple[Revision, RolloutStep, asyncio.Task[None]]] = {}
        self._closed = False

    def follow(self, *, may_start: bool) -> None:
        """Bring the running efforts in line with the rollouts.

        Args:
            may_start: False while changes are not on disk.
        """
        rollouts = self._hands.state.rollouts
        for name, (target, step, task) in list(self._running.items()):
            rollout = rollouts.get(name)
            if rollout is None or (rollout.target, rollout.step) != (target, step):
                task.cancel()
            if task.done() or task.cancelling():
                del self._running[name]
        if self._closed or not may_start:
            return
        for name, rollout in rollouts.items():
            if not rollout.active or name in self._running:
                continue
            endpoint = self._hands.state.endpoints[name]
            effort = self._effort(rollout, endpoint)
            if effort is not None:
                task = self._tasks.create_task(effort, name=f"rollout:{name}")
                self._running[name] = (rollout.target, rollout.step, task)

    def close(self) -> None:
        """Give every effort up."""
        self._closed = True
        for _target, _step, task in self._running.values():
            task.cancel()

    def _effort(self, rollout: Rollout, endpoint: Endpoint) -> Coroutine[None, None, None] | None:
        hands = self._hands
        match rollout.step:
            case RolloutStep.PULL if endpoint.image.pin not in hands.state.images_present:
                return self._pull(rollout, endpoint)
            case RolloutStep.PROVE if (
                endpoint.spec.rollout.smoke.path and rollout.smoke is SmokeState.UNTRIED
            ):
                worker = self._ready_worker(rollout)
                return self._smoke(rollout, endpoint, worker) if worker is not None else None
            case _:
                return None

    def _ready_worker(self, rollout: Rollout) -> Worker | None:
        for worker in self._hands.state.workers.values():
            if (worker.endpoint, worker.revision) == (rollout.endpoint, rollout.target) and (
                worker.state is WorkerState.READY
            ):
                return worker
        return None

    async def _pull(self, rollout: Rollout, endpoint: Endpoint) -> None:
        """Bring the image here; a failure counts, and the next look tries again when its time has come."""
        hands = self._hands
        wait_s = rollout.starts.next_try_s - hands.clock.now_s()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        error = await asyncio.shield(self._prewarmer.start(endpoint.image, endpoint.spec.registry))
        if error is None:
            return
        permanent = isinstance(error, RegistryDenied | NotFound)
        rollouts, name, target, told = (
            hands.reconciler.rollouts,
            rollout.endpoint,
            rollout.target,
            error.detail,
        )
        hands.reconciler.tell(lambda: rollouts.note_failure(name, target, told, permanent=permanent))

    async def _smoke(self, rollout: Rollout, endpoint: Endpoint, worker: Worker) -> None:
        """Send the smoke request once it can be sent, and tell how it was answered."""
        smoke, hands = endpoint.spec.rollout.smoke, self._hands
        result = await hands.probe.probe(
            worker.address, worker.port, smoke.path, timeout_s=smoke.timeout_s, body=smoke.body
        )
        if result.outcome is ProbeOutcome.LOCAL_ERROR:
            await asyncio.sleep(_SMOKE_RETRY_S)  # our own trouble; the next look sends it again
            return
        fault = ""
        if result.outcome is not ProbeOutcome.OK:
            told = describe(result, address=worker.address, port=worker.port, path=smoke.path)
            told = told.replace("GET ", "POST ", 1) if smoke.body else told
            fault = f"The smoke request failed: {told}."
        rollouts, name, target = hands.reconciler.rollouts, rollout.endpoint, rollout.target
        hands.reconciler.tell(lambda: rollouts.note_smoke(name, target, fault))

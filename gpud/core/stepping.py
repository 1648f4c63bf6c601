"""Which idle worker steps down to which rung, and which is woken first?

Going down a rung frees something and makes the next request wait: pausing frees the CPU, sleeping the GPUs.
Coming back is decided by the time it is expected to take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.endpoint import EndpointType
from gpud.core.rolling import is_rolling
from gpud.core.standby import Rung, can_have
from gpud.core.waiting import WaitReason
from gpud.core.worker import STEPPED_DOWN, Cause, WorkerEvent, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.worker import Worker
    from gpud.core.world import EndpointSeen, World

FALLS_ASLEEP_S = 1.0
"""What is on its way to sleep must get there before it can come back; an order of size."""
_OF_SLEEP = frozenset({WorkerState.DOZING, WorkerState.SLEEPING})
_CAUSE = {Rung.PAUSED: Cause.PAUSED, Rung.SLEEPING: Cause.PUT_TO_SLEEP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Who steps down now.

    Args:
        events: One for each.
        waits: Why a worker that should sleep does not.
        ask_again_at_s: Loop time at which another's time comes; None when only an event can change it.
    """

    events: tuple[WorkerEvent, ...] = ()
    waits: tuple[tuple[EndpointName, WaitReason], ...] = ()
    ask_again_at_s: float | None = None


def called(seen: EndpointSeen, workers: Sequence[Worker], in_flight: Mapping[WorkerId, int]) -> list[Worker]:
    """Choose the workers that have to come back for what waits, the one that is soonest back first.

    Those that serve, or will in a moment, take what they can first. What its guarantee and its warm windows
    ask for is awake too; paused counts as awake.

    Args:
        seen: The endpoint.
        workers: Its workers.
        in_flight: Requests at each.
    """
    down = [w for w in workers if w.state in STEPPED_DOWN and w.revision == seen.endpoint.revision]
    if not down:
        return []
    scale = seen.endpoint.spec.scale
    soon = [w for w in workers if w.state in (WorkerState.READY, WorkerState.WAKING)]
    places = sum(max(0, scale.concurrency - in_flight.get(w.id, 0)) for w in soon)
    needed = math.ceil(max(0, seen.waiting - places) / scale.concurrency)
    order = sorted(down, key=lambda w: (_back_in_s(seen, w), -w.since_s, w.id))
    back = order[:needed]
    paused = sum(w.state is WorkerState.PAUSED and w not in back for w in down)
    missing = max(scale.guaranteed, seen.window_open.workers) - len(soon) - paused - len(back)
    asleep = [w for w in order[needed:] if w.state in _OF_SLEEP]
    return back + asleep[: max(0, missing)]


def _back_in_s(seen: EndpointSeen, worker: Worker) -> float:
    """What a worker that stepped down is expected to take until it serves."""
    if worker.state is WorkerState.PAUSED:
        return seen.wake_times.usual_s(Rung.PAUSED)
    awake_s = seen.wake_times.usual_s(Rung.SLEEPING)
    return awake_s + FALLS_ASLEEP_S if worker.state is WorkerState.DOZING else awake_s


def staying_asleep(seen: EndpointSeen, workers: Sequence[Worker], in_flight: Mapping[WorkerId, int]) -> int:
    """How many workers of an endpoint ask for no GPU because they sleep, and may go on to."""
    asleep = [w for w in workers if w.state in _OF_SLEEP]
    if not asleep:
        return 0
    back = {w.id for w in called(seen, workers, in_flight)}
    return sum(w.id not in back for w in asleep)


def plan_steps(world: World, by_endpoint: Mapping[EndpointName, Sequence[Worker]]) -> Steps:
    """Decide who steps down; what demand asks for was decided before.

    Args:
        world: As it is.
        by_endpoint: Its workers, oldest first.
    """
    planner = _Stepper(world)
    for name, workers in by_endpoint.items():
        seen = world.endpoints.get(name)
        if seen is not None and (seen.endpoint.spec.pause.after_idle_s or seen.endpoint.spec.sleep.on):
            planner.step(seen, workers)
    return Steps(
        events=tuple(planner.events), waits=tuple(planner.waits), ask_again_at_s=planner.ask_again_at_s
    )


def instead_of_leaving(world: World, worker: Worker, planned: int = 0) -> WorkerEvent | None:
    """What a worker that has to give its GPUs away may do instead of ending; None when it must end.

    Args:
        world: As it is.
        worker: The one.
        planned: Host memory in MiB of those that go to sleep with it.
    """
    seen = world.endpoints.get(worker.endpoint)
    if seen is None or worker.state not in (WorkerState.READY, WorkerState.PAUSED):
        return None
    if world.in_flight.get(worker.id) or worker.revision != seen.endpoint.revision or is_rolling(seen):
        return None
    if not worker.gpu_uuids or not _may(world, seen, Rung.SLEEPING):
        return None
    if _over_ram(world, seen.endpoint.spec.sleep.host_memory_mib + planned):
        return None
    return WorkerEvent(
        worker_id=worker.id, cause=Cause.PUT_TO_SLEEP, detail="Another endpoint needs its GPUs."
    )


class _Stepper:
    """Collects one answer; lives for one call of `plan_steps`."""

    def __init__(self, world: World) -> None:
        self.events: list[WorkerEvent] = []
        self.waits: list[tuple[EndpointName, WaitReason]] = []
        self.ask_again_at_s: float | None = None
        self._world = world
        self._memory_mib = {s.gpu.uuid: s.gpu.memory_mib for s in world.gpus}
        self._paused_mib = sum(
            self._vram_mib(w) for w in world.workers.values() if w.state is WorkerState.PAUSED
        )
        self._asleep_mib = 0

    def step(self, seen: EndpointSeen, workers: Sequence[Worker]) -> None:
        """Send the idle workers of one endpoint down whose time has come."""
        if seen.waiting or is_rolling(seen):
            return
        awake = sum(w.state in (WorkerState.READY, WorkerState.PAUSED, WorkerState.WAKING) for w in workers)
        kept = max(seen.endpoint.spec.scale.guaranteed, seen.window_open.workers)
        for worker in workers:
            if not self._is_idle(seen, worker):
                continue
            if awake > kept and self._sleeps(seen, worker):
                awake -= 1
            elif worker.state is WorkerState.READY:
                self._pauses(seen, worker)

    def _is_idle(self, seen: EndpointSeen, worker: Worker) -> bool:
        return (
            worker.state in (WorkerState.READY, WorkerState.PAUSED)
            and worker.revision == seen.endpoint.revision
            and not self._world.in_flight.get(worker.id)
        )

    def _sleeps(self, seen: EndpointSeen, worker: Worker) -> bool:
        policy = seen.endpoint.spec.sleep
        if not _may(self._world, seen, Rung.SLEEPING) or not self._is_time(seen, worker, policy.after_idle_s):
            return False
        if why := _over_ram(self._world, policy.host_memory_mib + self._asleep_mib):
            wait = WaitReason(reason="sleep_budget", detail=why, facts={"worker": worker.id})
            self.waits.append((seen.endpoint.name, wait))
            return False
        self._asleep_mib += policy.host_memory_mib
        self._down(worker, Rung.SLEEPING)
        return True

    def _pauses(self, seen: EndpointSeen, worker: Worker) -> None:
        after_s = seen.endpoint.spec.pause.after_idle_s
        if not after_s or not _may(self._world, seen, Rung.PAUSED):
            return
        if not self._is_time(seen, worker, after_s):
            return
        vram_mib, limit_mib = self._vram_mib(worker), self._world.standing.budget.paused_vram_mib
        if limit_mib and vram_mib and self._paused_mib + vram_mib > limit_mib:
            why = (
                f"{worker.id} holds {vram_mib} MiB of GPU memory; paused workers hold {self._paused_mib} "
                f"and standby.paused_vram_mib allows {limit_mib} MiB. It stays awake."
            )
            wait = WaitReason(reason="pause_budget", detail=why, facts={"worker": worker.id})
            self.waits.append((seen.endpoint.name, wait))
            return
        self._paused_mib += vram_mib
        self._down(worker, Rung.PAUSED)

    def _is_time(self, seen: EndpointSeen, worker: Worker, after_s: float) -> bool:
        """Whether a worker was idle for so long; notes when it will have been."""
        at_s = max(idle_since_s(self._world, seen, worker) + after_s, self._world.no_shrink_until_s)
        if self._world.now_s >= at_s:
            return True
        if self.ask_again_at_s is None or at_s < self.ask_again_at_s:
            self.ask_again_at_s = at_s
        return False

    def _down(self, worker: Worker, rung: Rung) -> None:
        self.events.append(WorkerEvent(worker_id=worker.id, cause=_CAUSE[rung]))

    def _vram_mib(self, worker: Worker) -> int:
        """GPU memory that stays leased to a worker while it is paused."""
        if worker.gpu_slice:
            return worker.gpu_slice.memory_mib
        return sum(self._memory_mib.get(uuid, 0) for uuid in worker.gpu_uuids)


def idle_since_s(world: World, seen: EndpointSeen, worker: Worker) -> float:
    """Loop time since which a worker has had nothing to do."""
    since_s = worker.since_s
    if worker.state is WorkerState.PAUSED:
        since_s -= seen.endpoint.spec.pause.after_idle_s
    return max(since_s, world.idle_since_s.get(worker.id, since_s))


def _may(world: World, seen: EndpointSeen, rung: Rung) -> bool:
    endpoint = seen.endpoint
    if endpoint.spec.type is EndpointType.QUEUE:  # its workers ask for jobs: nothing would wake them
        return False
    # What a slice's worker keeps of a GPU could not be told from its neighbours' memory.
    if rung is Rung.SLEEPING and (not endpoint.spec.sleep.on or endpoint.spec.gpus.memory_mib):
        return False
    return can_have(rung, world.standing, endpoint.name, endpoint.revision, now_s=world.now_s)


def _over_ram(world: World, more_mib: int) -> str:
    """Why no more may sleep; empty when they may."""
    limit_mib = world.standing.budget.sleep_ram_mib
    used_mib = 0
    for worker in world.workers.values():
        spec = world.specs.get(worker.id)
        if worker.state in _OF_SLEEP and spec is not None:
            used_mib += spec.sleep.host_memory_mib
    if used_mib + more_mib <= limit_mib:
        return ""
    return (
        f"Sleeping workers are charged with {used_mib} MiB of host memory, this takes {more_mib} more, and "
        f"standby.sleep_ram_mib allows {limit_mib} MiB. It stays awake."
    )

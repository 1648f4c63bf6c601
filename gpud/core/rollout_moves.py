"""Which workers are made and which go while an endpoint changes its revision?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.rollout import TRYING, Rollout, RolloutSeen, RolloutStep
from gpud.core.rollout_policy import RolloutStrategy
from gpud.core.surplus import victims
from gpud.core.worker import COUNTED, HOLDS_GPUS, STARTING_UP, STEPPED_DOWN, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.endpoint import GpuNeeds
    from gpud.core.ids import Revision, WorkerId
    from gpud.core.worker import Worker

SHIFT_SHARE = 5
"""One in so many old workers may be on its way out at a time, and at least one."""

_LEAVING = HOLDS_GPUS - COUNTED - {WorkerState.LOST}
_SERVING = frozenset({WorkerState.READY, WorkerState.NOT_READY}) | STEPPED_DOWN
_UNDER_WAY = STARTING_UP & HOLDS_GPUS
_WAITING = frozenset({WorkerState.PENDING, WorkerState.PULLING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An endpoint's workers and what is wanted of them.

    Args:
        seen: The rollout; None when there is none.
        workers: All of the endpoint that are not GONE.
        serving: The revision that serves.
        image_present: The engine has its image.
        needs: What its workers need of the GPUs.
        desired: Workers the scale policy wants.
        in_flight: Requests at each worker.
        now_s: Loop time.
    """

    seen: RolloutSeen | None
    workers: Sequence[Worker]
    serving: Revision
    image_present: bool
    needs: GpuNeeds
    desired: int
    in_flight: Mapping[WorkerId, int]
    now_s: float

    @property
    def trying(self) -> RolloutSeen | None:
        """The rollout while one worker of its target is tried."""
        return self.seen if self.seen is not None and self.seen.rollout.step in TRYING else None

    def of(self, revision: Revision) -> list[Worker]:
        """Workers of one revision."""
        return [w for w in self.workers if w.revision == revision]


def room_taken(scene: Scene) -> int:
    """How many workers fewer of the serving revision are made, because the one on trial takes their place."""
    seen = scene.trying
    if seen is None:
        return 0
    if seen.policy.strategy is RolloutStrategy.RECREATE:
        return scene.desired
    ready = sum(w.state is WorkerState.READY for w in scene.of(seen.rollout.target))
    return max(seen.rollout.replaced, ready)


def wants_canary(scene: Scene) -> bool:
    """Whether a worker of the new revision is to be made for trial.

    Never while a third revision has a container, and with `recreate` not while the old one has.
    """
    seen = scene.trying
    if seen is None or not seen.rollout.starts.may_start(now_s=scene.now_s):
        return False
    if seen.target.spec.scale.max_workers == 0:
        return False
    rollout = seen.rollout
    allowed = {rollout.target}
    if seen.policy.strategy is not RolloutStrategy.RECREATE:
        allowed.add(rollout.base)
    if any(w.revision not in allowed and w.state is not WorkerState.LOST for w in scene.workers):
        return False
    return not any(w.state in COUNTED for w in scene.of(rollout.target))


def gives_room(scene: Scene) -> Worker | None:
    """Which old worker makes room for the one on trial, which found no GPU free: the idlest."""
    seen = scene.trying
    if seen is None or not seen.target.spec.gpus.count:
        return None
    counted = [w for w in scene.of(seen.rollout.base) if w.state in COUNTED and w.state not in _WAITING]
    if not counted or any(w.state in _LEAVING for w in scene.workers):
        return None  # what leaves, an earlier try too, gives its GPUs back first
    freed_by_one = max(1, len(counted[0].gpu_uuids))
    if seen.rollout.replaced * freed_by_one >= seen.target.spec.gpus.count:
        return None
    return victims(counted, scene.in_flight)[0]


def leavers(scene: Scene, *, cramped: bool) -> list[Worker]:
    """Which workers go because their revision does.

    Args:
        scene: The endpoint.
        cramped: A worker of the serving revision waits for GPUs and finds none.
    """
    seen = scene.seen
    kept = {scene.serving}
    if scene.trying is not None and seen is not None:
        if seen.policy.strategy is RolloutStrategy.RECREATE:
            # Those of a revision before the last too, which was superseded before they had left.
            return [w for w in scene.workers if w.revision != seen.rollout.target and w.state in COUNTED]
        kept.add(seen.rollout.target)
    stale = [w for w in scene.workers if w.revision not in kept]
    if not stale:
        return []
    counted = [w for w in stale if w.state in COUNTED]
    if seen is not None and _turned_down(seen.rollout):
        at_once = [w for w in counted if w.revision == seen.rollout.target]
        counted = [w for w in counted if w.revision != seen.rollout.target]
    else:
        at_once = []
    return [*at_once, *_paced(scene, counted, cramped=cramped)]


def _turned_down(rollout: Rollout) -> bool:
    return rollout.step in (RolloutStep.ROLLED_BACK, RolloutStep.SUPERSEDED)


def _paced(scene: Scene, counted: Sequence[Worker], *, cramped: bool) -> list[Worker]:
    """Old workers go as new ones take over, a fifth of them at a time, idle ones first."""
    serving = [w for w in counted if w.state in _SERVING]
    unused = [w for w in counted if w.state not in _SERVING]
    new = scene.of(scene.serving)
    new_ready = sum(w.state is WorkerState.READY for w in new)
    surplus = len(serving) - max(0, scene.desired - new_ready)
    if not scene.desired:
        return [*unused, *victims(serving, scene.in_flight)]
    batch = max(1, (len(serving) + new_ready) // SHIFT_SHARE)
    leaving = sum(w.state in _LEAVING for w in scene.workers)
    free_places = max(0, batch - leaving)
    going = min(max(0, surplus), free_places)
    if cramped:
        under_way = sum(w.state in _UNDER_WAY for w in new)
        going = max(going, free_places - under_way)
    return [*unused, *victims(serving, scene.in_flight)[:going]]

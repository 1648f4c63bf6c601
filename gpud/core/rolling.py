"""One look at an endpoint that changes its revision: where the rollout is now, and who comes and goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from gpud.core.placement import Placement
from gpud.core.rollout import Rollout, RolloutSeen, RolloutStep, next_rollout
from gpud.core.rollout_moves import Scene, gives_room, leavers, wants_canary
from gpud.core.waiting import WaitReason
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpud.core.endpoint import GpuNeeds
    from gpud.core.ids import Revision
    from gpud.core.worker import Worker
    from gpud.core.world import EndpointSeen, World

    Place = Callable[[GpuNeeds], Placement | WaitReason]

_WAITING = frozenset({WorkerState.PENDING, WorkerState.PULLING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolling:
    """What is to be done about one endpoint.

    Args:
        rollout: Where it is now, if it moved on; all else is then decided on the next look.
        makes: The revision of which a worker is to be made; None for none.
        leave: Workers that go because their revision does.
        waits: What the rollout is at, for people.
        ask_again_at_s: Loop time at which the answer may differ though nothing happens.
    """

    rollout: Rollout | None = None
    makes: Revision | None = None
    leave: tuple[Worker, ...] = ()
    waits: tuple[WaitReason, ...] = ()
    ask_again_at_s: float | None = None


def is_rolling(seen: EndpointSeen) -> bool:
    """Whether a rollout of the endpoint is under way."""
    return seen.rollout is not None and seen.rollout.rollout.active


def scene_of(seen: EndpointSeen, workers: Sequence[Worker], desired: int, world: World) -> Scene:
    """What the moves of a rollout are decided on."""
    return Scene(
        seen=seen.rollout,
        workers=workers,
        serving=seen.endpoint.revision,
        image_present=seen.image_present,
        needs=seen.endpoint.spec.gpus,
        desired=desired,
        in_flight=world.in_flight,
        now_s=world.now_s,
    )


def seat_of(seen: EndpointSeen, worker: Worker) -> tuple[GpuNeeds | None, bool]:
    """What a waiting worker needs of the GPUs, and whether its image is here; None when it is to go."""
    if worker.revision == seen.endpoint.revision:
        return seen.endpoint.spec.gpus, seen.image_present
    rolling = seen.rollout
    if rolling is not None and rolling.rollout.active and worker.revision == rolling.target.revision:
        return rolling.target.spec.gpus, rolling.image_present
    return None, False


def roll(scene: Scene, *, engine_up: bool, place: Place) -> Rolling:
    """Decide about one endpoint.

    Args:
        scene: Its workers and its rollout.
        engine_up: The container engine answers.
        place: Says where a worker with some needs would run now, or why nowhere.
    """
    seen, ask_again_at_s = scene.seen, None
    waits: tuple[WaitReason, ...] = ()
    if seen is not None and seen.rollout.active:
        moved, ask_again_at_s = next_rollout(
            seen, scene.workers, desired=scene.desired, engine_up=engine_up, now_s=scene.now_s
        )
        if moved is not seen.rollout:
            return Rolling(rollout=moved)
        waits = (_told(seen, scene),)
    leave = leavers(scene, cramped=engine_up and _cramped(scene, place))
    if scene.trying is None or seen is None:
        return Rolling(leave=tuple(leave), waits=waits, ask_again_at_s=ask_again_at_s)
    makes = seen.rollout.target if engine_up and wants_canary(scene) else None
    if not seen.rollout.starts.may_start(now_s=scene.now_s):
        retry_at_s = seen.rollout.starts.next_try_s
        ask_again_at_s = min(retry_at_s, retry_at_s if ask_again_at_s is None else ask_again_at_s)
    room = gives_room(scene) if engine_up and _canary_is_stuck(seen, scene, place) else None
    if room is not None:
        rollout = replace(seen.rollout, replaced=seen.rollout.replaced + 1)
        return Rolling(rollout=rollout, leave=(*leave, room), waits=waits)
    return Rolling(makes=makes, leave=tuple(leave), waits=waits, ask_again_at_s=ask_again_at_s)


def _cramped(scene: Scene, place: Place) -> bool:
    waiting = any(w.state in _WAITING for w in scene.of(scene.serving))
    return waiting and scene.image_present and not isinstance(place(scene.needs), Placement)


def _canary_is_stuck(seen: RolloutSeen, scene: Scene, place: Place) -> bool:
    waiting = any(w.state in _WAITING for w in scene.of(seen.rollout.target))
    return waiting and seen.image_present and not isinstance(place(seen.target.spec.gpus), Placement)


def _told(seen: RolloutSeen, scene: Scene) -> WaitReason:
    """What a rollout is at, for a person."""
    rollout, policy = seen.rollout, seen.policy
    new = scene.of(rollout.target)
    facts: dict[str, object] = {
        "step": rollout.step,
        "from": rollout.base,
        "to": rollout.target,
        "for_s": round(max(0.0, scene.now_s - rollout.since_s), 3),
    }
    starts = rollout.starts
    if starts.failures:
        facts |= {"error": starts.last_error, "failures": starts.failures}
    match rollout.step:
        case RolloutStep.PULL:
            detail = f"Its image {seen.target.image.reference} is being pulled."
        case RolloutStep.CANARY if not new:
            detail = "Its first worker is to be made."
            if starts.failures:
                detail = f"Start {starts.failures + 1} comes; last error: {starts.last_error}"
        case RolloutStep.CANARY:
            detail = f"Its first worker {new[0].id} is {new[0].state}."
        case RolloutStep.PROVE:
            detail = f"Its first worker must stay ready for {policy.min_healthy_time_s:g} s."
            if policy.smoke.path:
                detail += f" The smoke request to {policy.smoke.path} is {rollout.smoke}."
        case RolloutStep.SHIFT:
            left = [w for w in scene.workers if w.revision != rollout.target]
            detail = f"It serves; {len(left)} workers of earlier revisions are left."
        case RolloutStep.COMPLETED | RolloutStep.ROLLED_BACK | RolloutStep.SUPERSEDED:
            detail = rollout.detail
        case _:
            assert_never(rollout.step)
    return WaitReason(reason="rolling_out", detail=f"Revision {rollout.target}: {detail}", facts=facts)

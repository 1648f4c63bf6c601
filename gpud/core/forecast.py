"""Would it fit? What a deploy would have placed where, at whose cost and how soon; nothing is changed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpud.core.allocation import allocate
from gpud.core.contest import contest_of
from gpud.core.pacing import ScaleDecision, ScaleReason
from gpud.core.starts import StartRecord
from gpud.core.worker import COUNTED, Worker
from gpud.core.world import EndpointSeen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.allocation import Allocation
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from gpud.core.waiting import WaitReason
    from gpud.core.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaver:
    """A worker that would give way.

    Args:
        in_s: When its turn to leave comes; 0 for at once.
        busy: It has requests, which it finishes first.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    in_s: float
    busy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a deploy would do, as far as the box can tell now.

    Args:
        endpoint: As it would be.
        change: `create`, `restart` (another revision), `rescale` (the same revision) or `none`.
        workers: That one request, or the guarantee, would have.
        present: Of them, those that run already.
        placements: GPUs of each worker that would start at once; empty ones of CPU workers.
        leavers: Workers that would have to give way for one more.
        wait: Why a worker could not start at once, and what is missing; None when none waits.
        image_present: The image is on the box, so that nothing has to be pulled.
        gpu_wait_s: Until GPUs would be free, without the time busy workers take to finish; None
            when nobody can tell.
        cold_start_s: From GPUs to readiness; of this endpoint's starts, or else the default.
        cold_start_measured: Whether it is of this endpoint's own starts.
    """

    endpoint: Endpoint
    change: str
    workers: int
    present: int
    placements: tuple[tuple[GpuUuid, ...], ...]
    leavers: tuple[Leaver, ...]
    wait: WaitReason | None
    image_present: bool
    gpu_wait_s: float | None
    cold_start_s: float
    cold_start_measured: bool

    @property
    def first_ready_s(self) -> float | None:
        """When a first worker is expected to be ready; None when nobody can tell."""
        if self.present:
            return 0.0
        return None if self.gpu_wait_s is None else self.gpu_wait_s + self.cold_start_s


def forecast(
    world: World,
    endpoint: Endpoint,
    decisions: Mapping[EndpointName, ScaleDecision],
    *,
    image_present: bool,
    cold_start_measured: bool,
) -> Forecast:
    """Ask the sharing of GPUs what it would do if the endpoint were there and one request waited.

    Args:
        world: As it is; the endpoint may be in it as it was.
        endpoint: As it would be.
        decisions: How many workers each endpoint has been decided to have.
        image_present: The image is on the box.
        cold_start_measured: The cold start that the world knows is of the endpoint's own starts.
    """
    name, scale = endpoint.name, endpoint.spec.scale
    before = world.endpoints.get(name)
    cold_start_s = before.cold_start_s if before else EndpointSeen(endpoint=endpoint).cold_start_s
    mine = [w for w in world.workers.values() if w.endpoint == name and w.state in COUNTED]
    current = [w for w in mine if w.revision == endpoint.revision]
    wanted = min(max(1, scale.guaranteed, len(current)), scale.max_workers)
    missing = max(0, wanted - len(current))
    answer = _shared(world, endpoint, decisions, wanted=len(mine) + missing, cold_start_s=cold_start_s)
    grants = [grant.gpu_uuids for grant in answer.grants if grant.endpoint == name] if answer else []
    if not endpoint.spec.gpus.count:
        grants = [()] * missing
    short = len(grants) < missing and answer is not None
    awaited = answer.awaited.get(name, {}) if answer and short else {}
    leavers = [
        Leaver(
            worker_id=worker_id,
            endpoint=world.workers[worker_id].endpoint,
            in_s=in_s,
            busy=bool(world.in_flight.get(worker_id)),
        )
        for worker_id, in_s in sorted(awaited.items())
    ]
    gpu_wait_s = 0.0 if grants or not missing else max((each.in_s for each in leavers), default=None)
    return Forecast(
        endpoint=endpoint,
        change=_change(before, endpoint),
        workers=wanted,
        present=len(current),
        placements=tuple(grants),
        leavers=tuple(leavers),
        wait=answer.waits.get(name) if answer and short else None,
        image_present=image_present,
        gpu_wait_s=gpu_wait_s,
        cold_start_s=cold_start_s,
        cold_start_measured=cold_start_measured,
    )


def _change(before: EndpointSeen | None, endpoint: Endpoint) -> str:
    if before is None:
        return "create"
    if before.endpoint.revision != endpoint.revision:
        return "restart"
    return "none" if before.endpoint.spec == endpoint.spec else "rescale"


def _shared(
    world: World,
    endpoint: Endpoint,
    decisions: Mapping[EndpointName, ScaleDecision],
    *,
    wanted: int,
    cold_start_s: float,
) -> Allocation | None:
    """Share the GPUs out once, with the endpoint in need; None for a CPU worker."""
    if not endpoint.spec.gpus.count or not wanted:
        return None
    seen = EndpointSeen(
        endpoint=endpoint,
        load=1,
        waiting=1,
        cold_start_s=cold_start_s,
        starts=StartRecord(),
        image_present=True,
    )
    need = ScaleDecision(desired=wanted, needed=wanted, wished=wanted, reason=ScaleReason.ACTIVATION)
    asleep = ScaleDecision(desired=0, reason=ScaleReason.IDLE)
    imagined = replace(world, endpoints={**world.endpoints, endpoint.name: seen}, engine_up=True)
    decided = {name: decisions.get(name, asleep) for name in imagined.endpoints}
    by_endpoint: defaultdict[EndpointName, list[Worker]] = defaultdict(list)
    for worker in world.workers.values():
        by_endpoint[worker.endpoint].append(worker)
    contest = contest_of(imagined, decided | {endpoint.name: need}, by_endpoint)
    return allocate(contest, world.sharing)

"""Who gets which of the GPUs granted in one round, when containers made ahead reach certain ones only?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.placement import fits
from gpud.core.standby import StandbyState
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from gpud.core.allocation import Allocation, Grant
    from gpud.core.ids import EndpointName, GpuUuid
    from gpud.core.world import World


def brought_home(sharing: Allocation, world: World) -> Allocation:
    """Exchange granted GPUs, so that endpoints called together do not get each other's.

    A standby and a sleeping worker can have no other GPUs than those their container reaches. Which
    of several free GPUs an endpoint is granted is settled without a look at that; here grants of one
    whole GPU change hands where somebody comes home by it and nobody leaves its home.

    Args:
        sharing: As decided; who gets how many is not touched.
        world: As it is.
    """
    homes = _homes(world)
    if len(sharing.grants) < 2 or not homes:  # and so on most boxes
        return sharing
    movable = [i for i, grant in enumerate(sharing.grants) if _is_one_whole(grant, world)]
    uuids = {i: sharing.grants[i].gpu_uuids[0] for i in movable}
    for one in movable:
        name = sharing.grants[one].endpoint
        if uuids[one] in homes.get(name, ()):
            continue
        for other in movable:
            theirs = sharing.grants[other].endpoint
            if uuids[other] not in homes.get(name, ()) or uuids[other] in homes.get(theirs, ()):
                continue
            if _suits(world, theirs, uuids[one]):
                uuids[one], uuids[other] = uuids[other], uuids[one]
                break
    moved = {i: uuid for i, uuid in uuids.items() if sharing.grants[i].gpu_uuids != (uuid,)}
    if not moved:
        return sharing
    grants = tuple(
        replace(grant, gpu_uuids=(moved[i],)) if i in moved else grant
        for i, grant in enumerate(sharing.grants)
    )
    claimed = {uuid: (sharing.grants[i].endpoint,) for i, uuid in moved.items()}
    return replace(sharing, grants=grants, claimed={**sharing.claimed, **claimed})


def _homes(world: World) -> dict[EndpointName, set[GpuUuid]]:
    """The GPUs that some container of an endpoint waits for; of those that take one."""
    homes: dict[EndpointName, set[GpuUuid]] = defaultdict(set)
    for standby in world.standing.standbys.values():
        if standby.state is StandbyState.READY and len(standby.gpu_uuids) == 1:
            homes[standby.endpoint].update(standby.gpu_uuids)
    for worker in world.workers.values():
        if worker.state is WorkerState.SLEEPING and len(worker.gpu_uuids) == 1:
            homes[worker.endpoint].update(worker.gpu_uuids)
    return homes


def _is_one_whole(grant: Grant, world: World) -> bool:
    seen = world.endpoints.get(grant.endpoint)
    return seen is not None and len(grant.gpu_uuids) == 1 and not seen.endpoint.spec.gpus.memory_mib


def _suits(world: World, name: EndpointName, uuid: GpuUuid) -> bool:
    needs = world.endpoints[name].endpoint.spec.gpus
    return any(status.gpu.uuid == uuid and fits(needs, status.gpu) for status in world.gpus)

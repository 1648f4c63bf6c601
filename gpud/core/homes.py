"""Who gets which of the GPUs granted in one round, when containers made ahead reach certain ones only?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.placement import fits
from gpud.core.standby import StandbyState
from gpud.core.worker import HOLDS_GPUS, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.allocation import Allocation, Grant
    from gpud.core.ids import EndpointName, GpuUuid
    from gpud.core.world import World

    Homes = Mapping[EndpointName, set[GpuUuid]]


def brought_home(sharing: Allocation, world: World) -> Allocation:
    """Exchange granted GPUs, so that endpoints do not get those that others' containers wait for.

    A standby and a sleeping worker can have no other GPUs than those their container reaches. Which
    of several free GPUs an endpoint is granted is settled without a look at that; here grants of one
    whole GPU change hands where somebody comes home by it and nobody leaves its home. Who has no home
    and was granted another's gets a free GPU of the same size where nobody is at home, if there is one.

    Args:
        sharing: As decided; who gets how many is not touched.
        world: As it is.
    """
    homes = _homes(world) if sharing.grants else {}
    if not homes:  # and so on most boxes
        return sharing
    names = {i: grant.endpoint for i, grant in enumerate(sharing.grants) if _is_one_whole(grant, world)}
    uuids = {i: sharing.grants[i].gpu_uuids[0] for i in names}
    _exchange(names, uuids, homes, world)
    left_mib = dict(sharing.left_mib)
    for vacated, taken in _make_way(names, uuids, homes, world, sharing):
        if vacated in left_mib and taken in left_mib:
            left_mib[vacated], left_mib[taken] = left_mib[taken], left_mib[vacated]
    moved = {i: uuid for i, uuid in uuids.items() if sharing.grants[i].gpu_uuids != (uuid,)}
    if not moved:
        return sharing
    grants = tuple(
        replace(grant, gpu_uuids=(moved[i],)) if i in moved else grant
        for i, grant in enumerate(sharing.grants)
    )
    left = {sharing.grants[i].gpu_uuids[0] for i in moved}
    claimed = {uuid: whose for uuid, whose in sharing.claimed.items() if uuid not in left}
    claimed.update({uuid: (names[i],) for i, uuid in moved.items()})
    return replace(sharing, grants=grants, claimed=claimed, left_mib=left_mib)


def _exchange(
    names: Mapping[int, EndpointName], uuids: dict[int, GpuUuid], homes: Homes, world: World
) -> None:
    for one, name in names.items():
        if uuids[one] in homes.get(name, ()):
            continue
        for other, theirs in names.items():
            if uuids[other] not in homes.get(name, ()) or uuids[other] in homes.get(theirs, ()):
                continue
            # A container of an earlier spec may be at home where the present one has no room.
            if _suits(world, theirs, uuids[one]) and _suits(world, name, uuids[other]):
                uuids[one], uuids[other] = uuids[other], uuids[one]
                break


def _make_way(
    names: Mapping[int, EndpointName],
    uuids: dict[int, GpuUuid],
    homes: Homes,
    world: World,
    sharing: Allocation,
) -> list[tuple[GpuUuid, GpuUuid]]:
    """Move those without a home off others' homes; what each left and what it got instead."""
    anybodys = {uuid for each in homes.values() for uuid in each}
    moves: list[tuple[GpuUuid, GpuUuid]] = []
    if anybodys.isdisjoint(uuids.values()):
        return moves
    gpus = {status.gpu.uuid: status.gpu for status in world.gpus if status.health is GpuHealth.HEALTHY}
    held = {uuid for w in world.workers.values() if w.state in HOLDS_GPUS for uuid in w.gpu_uuids}
    quiet = [uuid for uuid in gpus if uuid not in held | anybodys | sharing.claimed.keys()]
    for i, name in names.items():
        if uuids[i] not in anybodys or homes.get(name):
            continue
        size_mib = gpus[uuids[i]].memory_mib if uuids[i] in gpus else -1
        for uuid in quiet:
            if gpus[uuid].memory_mib == size_mib and _suits(world, name, uuid):
                moves.append((uuids[i], uuid))
                uuids[i] = uuid
                quiet.remove(uuid)
                break
    return moves


def _homes(world: World) -> Homes:
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

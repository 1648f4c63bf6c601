"""What one sharing of GPUs granted, as the workers of a plan use it up."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gpud.core.placement import Placement, placed

if TYPE_CHECKING:
    from gpud.core.allocation import Allocation
    from gpud.core.ids import EndpointName, GpuUuid
    from gpud.core.world import World


class Granted:
    """Lives for one plan.

    Args:
        world: As it is.
        sharing: Of its GPUs.
    """

    def __init__(self, world: World, sharing: Allocation) -> None:
        self._grants: dict[EndpointName, list[Placement]] = defaultdict(list)
        self._left_mib = dict(sharing.left_mib)
        for grant in sharing.grants:
            needs = world.endpoints[grant.endpoint].endpoint.spec.gpus
            self._grants[grant.endpoint].append(placed(needs, world.gpus, grant.gpu_uuids))

    def next_of(self, name: EndpointName) -> Placement | None:
        """The endpoint's foremost grant that no worker took yet."""
        grants = self._grants.get(name)
        return grants[0] if grants else None

    def uuids(self) -> set[GpuUuid]:
        """GPUs of all grants that no worker took yet."""
        return {uuid for grants in self._grants.values() for grant in grants for uuid in grant.gpu_uuids}

    def book(self, name: EndpointName, placement: Placement) -> None:
        """Take what a worker gets from the endpoint's grants, or else from what nobody was granted."""
        grants = self._grants[name]
        if placement in grants:
            grants.remove(placement)
            return
        self._left_mib = self.left_for(name)
        taken = set(placement.gpu_uuids)
        for grant in [grant for grant in grants if not taken.isdisjoint(grant.gpu_uuids)]:
            grants.remove(grant)
        for held in (placement, *grants):
            for uuid in held.gpu_uuids:
                took_mib = held.gpu_slice.memory_mib if held.gpu_slice else self._left_mib.get(uuid, 0)
                self._left_mib[uuid] = self._left_mib.get(uuid, 0) - took_mib

    def left_for(self, name: EndpointName) -> dict[GpuUuid, int]:
        """What a slice may have of each GPU, the endpoint's own grants of slices included."""
        left_mib = dict(self._left_mib)
        for grant in self._grants.get(name, ()):
            if grant.gpu_slice:
                left_mib[grant.gpu_uuids[0]] += grant.gpu_slice.memory_mib
        return left_mib

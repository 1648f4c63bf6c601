"""How much of each GPU is free, spoken for, or to be had from whom?

A whole GPU is one hold of all its memory, a slice is a hold of some: what is counted is memory,
and a whole worker and a slice never meet on one GPU, because the whole leaves no room.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.placement import fits, nearest
from gpud.core.reclaim import FREE, Offer, Tenant, TenantPhase
from gpud.core.topology import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gpud.core.endpoint import GpuNeeds
    from gpud.core.gpu import Gpu, GpuStatus
    from gpud.core.ids import GpuUuid, WorkerId

    OfferOf = Callable[[Tenant], Offer | None]

ON_THE_WAY_OUT = frozenset({TenantPhase.DRAINING, TenantPhase.LEAVING, TenantPhase.STUCK})


@dataclass(slots=True, kw_only=True)
class Account:
    """What is left of one GPU, in MiB, while GPUs are being shared out.

    Args:
        size: All of it.
        withheld: Given to no slice: the headroom, and what is in use beyond all reservations.
        free: Held by no worker and granted to none.
        room: Claimed by nobody; those who hold it may have to leave.
        leaving: Held by those who are chosen to leave.
        owed: Claimed by those who wait for somebody to leave.
    """

    gpu: Gpu
    size: int
    withheld: int
    free: int
    room: int
    leaving: int = 0
    owed: int = 0
    tenants: list[Tenant] = field(default_factory=list)

    @property
    def grantable(self) -> int:
        """What may be given out now."""
        return min(self.free, self.free + self.leaving - self.owed)

    def asks(self, needs: GpuNeeds) -> int:
        """What must be left for a worker to fit: all, or its slice and what is withheld."""
        return needs.memory_mib + self.withheld if needs.memory_mib else self.size

    def takes(self, needs: GpuNeeds) -> int:
        """What a worker takes of it."""
        return needs.memory_mib or self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one GPU may be had.

    Args:
        offer: The hardest of the offers that are needed; free when none is.
        leavers: Who must leave first, those included who are already chosen to.
    """

    offer: Offer
    account: Account
    leavers: tuple[tuple[Tenant, Offer], ...] = ()


def nearest_ways(ways: Sequence[Way], count: int) -> list[Way]:
    """Choose GPUs for one worker: the soonest and gentlest, and neighbours among those had alike.

    Args:
        ways: In `way_order`.
        count: How many GPUs; fewer ways are all taken.
    """
    if len(ways) <= count or count == 1:
        return list(ways[:count])
    last = ways[count - 1].offer
    sure = [way for way in ways[:count] if way.offer != last]
    alike = [way for way in ways if way.offer == last]
    return sure + together(alike, count - len(sure), lambda way: way.account.gpu, sure)


def way_order(way: Way) -> tuple[object, ...]:
    """Soonest and gentlest first, then the GPU with the least room that will do."""
    offer, account = way.offer, way.account
    ease = (offer.in_s, offer.hold, len(way.leavers), offer.rank, offer.worker_id or "")
    return (*ease, account.room, account.gpu.index, account.gpu.uuid)


class Ledger:
    """The healthy GPUs of the box during one sharing-out.

    Args:
        gpus: All of the box.
        tenants: Workers that hold GPUs.
        withheld_mib: By GPU, given to no slice.
    """

    def __init__(
        self,
        gpus: Sequence[GpuStatus],
        tenants: Sequence[Tenant],
        withheld_mib: Mapping[GpuUuid, int],
    ) -> None:
        self.accounts = {
            s.gpu.uuid: _account(s.gpu, withheld_mib.get(s.gpu.uuid, 0))
            for s in gpus
            if s.health is GpuHealth.HEALTHY
        }
        self.kept: set[WorkerId] = set()
        self.chosen: set[WorkerId] = set()
        for tenant in tenants:
            for account in self._of(tenant):
                account.tenants.append(tenant)
                account.free -= tenant.memory_mib or account.size
        self._with_room = dict(self.accounts)
        self._with_free = {uuid: a for uuid, a in self.accounts.items() if a.free > 0}

    @property
    def has_room(self) -> bool:
        """Whether anything is left that nobody claims."""
        return bool(self._with_room)

    @property
    def has_free(self) -> bool:
        """Whether anything is left that nobody holds."""
        return bool(self._with_free)

    def share_of(self, tenant: Tenant) -> float:
        """How many GPUs a worker holds, slices as parts of one."""
        if not tenant.memory_mib:
            return float(len(tenant.gpu_uuids))
        return sum(tenant.memory_mib / account.size for account in self._of(tenant))

    def width_of(self, needs: GpuNeeds) -> float:
        """How many GPUs a worker would hold, a slice as part of the largest GPU it fits."""
        if not needs.memory_mib:
            return float(needs.count)
        sizes = [account.size for account in self.accounts.values() if fits(needs, account.gpu)]
        return min(1.0, needs.memory_mib / max(sizes)) if sizes else 1.0

    def may_stay(self, tenant: Tenant) -> bool:
        """Whether a worker is neither kept yet nor chosen to leave."""
        return tenant.worker_id not in self.kept and tenant.worker_id not in self.chosen

    def keep(self, tenant: Tenant) -> None:
        """Claim what a worker holds for its own endpoint."""
        self.kept.add(tenant.worker_id)
        for account in self._of(tenant):
            self._claim(account, tenant.memory_mib or account.size)

    def take_free(self, needs: GpuNeeds) -> tuple[GpuUuid, ...]:
        """Claim what is free for one worker; empty when it does not suffice."""
        found = [
            account
            for account in self._with_free.values()
            if account.grantable >= account.asks(needs) and fits(needs, account.gpu)
        ]
        if len(found) < needs.count:
            return ()
        if needs.memory_mib:
            chosen = [min(found, key=lambda a: (a.grantable, a.gpu.index, a.gpu.uuid))]
        else:
            chosen = [self.accounts[gpu.uuid] for gpu in nearest([a.gpu for a in found], needs.count)]
        for account in chosen:
            amount = account.takes(needs)
            account.free -= amount
            if account.free <= 0:
                del self._with_free[account.gpu.uuid]
            self._claim(account, amount)
        return tuple(account.gpu.uuid for account in chosen)

    def ways(self, needs: GpuNeeds, offer_of: OfferOf) -> list[Way]:
        """Every GPU that a worker could have, soonest and gentlest first.

        Args:
            needs: Of the worker.
            offer_of: When and how a tenant would leave for it; None for never.
        """
        found = [
            self._way(account, needs, offer_of)
            for account in self._with_room.values()
            if account.room >= account.asks(needs) and fits(needs, account.gpu)
        ]
        return sorted((way for way in found if way is not None), key=way_order)

    def claim(self, ways: Sequence[Way], needs: GpuNeeds) -> None:
        """Claim GPUs for one worker that starts once all who must have left."""
        for way in ways:
            for tenant, _offer in way.leavers:
                if tenant.worker_id not in self.chosen:
                    self.chosen.add(tenant.worker_id)
                    for account in self._of(tenant):
                        account.leaving += tenant.memory_mib or account.size
            amount = way.account.takes(needs)
            way.account.owed += amount
            self._claim(way.account, amount)

    def left_mib(self) -> dict[GpuUuid, int]:
        """What a slice may still have of each GPU; for a GPU nobody touched, all but what is withheld."""
        return {uuid: max(0, a.grantable - a.withheld) for uuid, a in self.accounts.items()}

    def _way(self, account: Account, needs: GpuNeeds, offer_of: OfferOf) -> Way | None:
        lacking = account.asks(needs) - account.free + account.owed
        if lacking <= 0:
            return Way(offer=FREE, account=account)
        leavers, others = [], []
        for tenant in account.tenants:
            if tenant.worker_id in self.kept:
                continue
            offer = offer_of(tenant)
            if offer is None:
                continue
            if tenant.worker_id in self.chosen:
                leavers.append((tenant, offer))
                lacking -= tenant.memory_mib or account.size
            else:
                others.append((tenant, offer))
        for tenant, offer in sorted(others, key=lambda other: other[1]):
            if lacking <= 0:
                break
            leavers.append((tenant, offer))
            lacking -= tenant.memory_mib or account.size
        if lacking > 0:
            return None
        hardest = max((offer for _tenant, offer in leavers), key=lambda o: (o.hold, o.rank))
        latest_s = max(offer.in_s for _tenant, offer in leavers)
        offer = Offer(latest_s, hardest.hold, hardest.rank, hardest.worker_id)
        return Way(offer=offer, account=account, leavers=tuple(leavers))

    def _claim(self, account: Account, amount: int) -> None:
        account.room -= amount
        if account.room <= 0:
            self._with_room.pop(account.gpu.uuid, None)

    def _of(self, tenant: Tenant) -> Iterator[Account]:
        for uuid in tenant.gpu_uuids:
            account = self.accounts.get(uuid)
            if account is not None:
                yield account


def _account(gpu: Gpu, withheld_mib: int) -> Account:
    size = max(1, gpu.memory_mib)
    return Account(gpu=gpu, size=size, withheld=withheld_mib, free=size, room=size)

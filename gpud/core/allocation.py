"""Who gets a GPU when there are not enough? Guarantee, first, fill, warm, in that order.

Workers stay where they are as long as their endpoint may keep them. An endpoint that may have
one more claims GPUs: free ones at once, others from a victim whose time has come. The first
worker of an endpoint may also claim GPUs that come free later, and nobody starts on those
meanwhile: otherwise a worker of many GPUs would starve behind small ones.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.ledger import ON_THE_WAY_OUT, Ledger, nearest_ways
from gpud.core.pieces import at_once
from gpud.core.placement import fits
from gpud.core.reclaim import Claimant, Fairness, Hold, Offer, Tenant, TenantPhase, charged, offer_of
from gpud.core.waiting import WaitReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.endpoint import GpuNeeds
    from gpud.core.gpu import GpuStatus
    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from gpud.core.ledger import Way
    from gpud.core.pieces import Pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationMemory:
    """What one allocation leaves for the next.

    Args:
        fairness: Virtual GPU time.
        promises: Workers told to leave, and for whom.
        without_s: Loop time since which a needy endpoint has had no worker at all.
    """

    fairness: Fairness = field(default_factory=lambda: Fairness(gpu_s={}))
    without_s: Mapping[EndpointName, float] = field(default_factory=dict)
    promises: Mapping[WorkerId, EndpointName] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """GPUs that are free now, for one new worker."""

    endpoint: EndpointName
    gpu_uuids: tuple[GpuUuid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaim:
    """A worker that must give its GPUs up: drained, never killed."""

    worker_id: WorkerId
    endpoint: EndpointName
    hold: Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Who keeps, gets and gives up GPUs.

    Args:
        kept: Workers that stay for their own endpoint; others stay while nobody claims theirs.
        grants: In the order they were decided.
        reclaims: Victims to drain now, each once.
        claimed: GPUs that are not free for others, whoever holds them now, and whose they will be;
            a shared one may be several endpoints'.
        left_mib: What a slice may still have of each healthy GPU.
        waits: Why an endpoint has fewer workers than it needs.
        awaited: For whom endpoints wait, and for how many seconds until its turn to leave.
        ask_again_at_s: Loop time at which a victim's time comes; None when none is awaited.
        memory: For the next allocation.
    """

    kept: frozenset[WorkerId]
    grants: tuple[Grant, ...]
    reclaims: tuple[Reclaim, ...]
    claimed: Mapping[GpuUuid, tuple[EndpointName, ...]]
    left_mib: Mapping[GpuUuid, int]
    waits: Mapping[EndpointName, WaitReason]
    awaited: Mapping[EndpointName, Mapping[WorkerId, float]]
    ask_again_at_s: float | None
    memory: AllocationMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Who wants GPUs, who holds them, and what there is.

    Args:
        claimants: Endpoints that want or hold GPUs, each once; needs are left out of those whose
            image is not here or whose starts are held back, so that nobody gives way in vain.
        tenants: Workers that hold GPUs, of whatever endpoint.
        gpus: All of the box.
        now_s: Loop time.
        withheld_mib: Of each GPU, what no slice may have.
    """

    claimants: tuple[Claimant, ...]
    tenants: tuple[Tenant, ...]
    gpus: tuple[GpuStatus, ...]
    now_s: float
    withheld_mib: Mapping[GpuUuid, int] = field(default_factory=dict)


def allocate(contest: Contest, memory: AllocationMemory) -> Allocation:
    """Decide who may run on which GPUs.

    Args:
        contest: As it is now.
        memory: Left by the last allocation.
    """
    return at_once(allocating(contest, memory))


def allocating(contest: Contest, memory: AllocationMemory) -> Pieces[Allocation]:
    """Decide it a claimant at a time."""
    round_ = _Round(contest, memory)
    yield
    yield from round_.guarantee()
    yield from round_.first()
    yield from round_.fill()
    yield from round_.spare()
    return round_.answer()


class _Round:
    """One allocation in the making."""

    def __init__(self, contest: Contest, memory: AllocationMemory) -> None:
        self.now_s, self.memory = contest.now_s, memory
        claimants, tenants, gpus = contest.claimants, contest.tenants, contest.gpus
        self.claimants = sorted(claimants, key=lambda c: c.name)
        self.known = {c.name: c for c in claimants}
        self.tenants = {t.worker_id: t for t in tenants}
        self.ledger = Ledger(gpus, tenants, contest.withheld_mib)
        self.accounts = self.ledger.accounts
        self.sick = [s for s in gpus if s.health is not GpuHealth.HEALTHY]
        self.held: dict[EndpointName, float] = defaultdict(float)
        self.own: dict[EndpointName, list[Tenant]] = defaultdict(list)
        for tenant in sorted(tenants, key=_staying_order):
            self.held[tenant.endpoint] += self.ledger.share_of(tenant)
            if tenant.phase not in ON_THE_WAY_OUT and self.accounts.keys() >= set(tenant.gpu_uuids):
                self.own[tenant.endpoint].append(tenant)
        widths = {needs: self.ledger.width_of(needs) for needs in {c.gpus for c in claimants}}
        self.width = {c.name: widths[c.gpus] for c in claimants}
        fairness = charged(memory.fairness, claimants, self.held, now_s=self.now_s)
        self.gpu_s = fairness.gpu_s
        self.fairness = fairness
        self.without_s = {
            c.name: memory.without_s.get(c.name, self.now_s)
            for c in self.claimants
            if c.needed and not self.own[c.name]
        }
        self._patience_s = self._patience()
        self.claimed: dict[GpuUuid, tuple[EndpointName, ...]] = {}
        self.units: dict[EndpointName, int] = defaultdict(int)
        self.grants: list[Grant] = []
        self.reclaims: dict[WorkerId, Reclaim] = {}
        self.promises: dict[WorkerId, EndpointName] = {}
        self.waits: dict[EndpointName, WaitReason] = {}
        self.awaited: dict[EndpointName, dict[WorkerId, float]] = defaultdict(dict)
        self.later: set[WorkerId] = set()
        self.serving: set[WorkerId] = set()
        self.later_s: list[float] = []
        self._hopeless: set[tuple[int, GpuNeeds]] = set()

    # -- the passes ----------------------------------------------------------------------------

    def guarantee(self) -> Pieces[None]:
        """Give every endpoint the workers it has a right to."""
        for claimant in sorted(self.claimants, key=lambda c: (-c.priority, c.name)):
            while self.units[claimant.name] < claimant.guaranteed:
                if not self._one_more(claimant, reserve=True):
                    break
                yield

    def first(self) -> Pieces[None]:
        """Give every needy endpoint one worker.

        The least virtual time goes first, but whoever was passed over for so long that all others
        could have had a turn goes before, the longest without first. Otherwise an endpoint with
        long turns would wait until many with short turns have had as much GPU time.
        """
        for claimant in sorted(self.claimants, key=self._turn):
            if claimant.needed and not self.units[claimant.name]:
                self._one_more(claimant, reserve=True)
                yield

    def fill(self) -> Pieces[None]:
        """Give the rest to those who need more, the smallest share first."""
        waiting = [(self._share(c), c.name) for c in self.claimants if c.needed > self.units[c.name]]
        heapify(waiting)
        while waiting and self.ledger.has_room:
            _share, name = heappop(waiting)
            claimant = self.known[name]
            if self._one_more(claimant, reserve=False) and claimant.needed > self.units[name]:
                heappush(waiting, (self._share(claimant), name))
            yield
        for claimant in self.claimants:
            if claimant.needed > self.units[claimant.name] and claimant.name not in self.waits:
                self._wait(claimant, [])
                yield

    def spare(self) -> Pieces[None]:
        """Start what is wanted beyond need on GPUs that are free and that nobody claimed."""
        for claimant in sorted(self.claimants, key=self._turn):
            if not self.ledger.has_free:
                break
            warm = sum(map(self.ledger.may_stay, self.own[claimant.name]))
            while self.units[claimant.name] + warm < claimant.desired:
                if not self._take_free(claimant):
                    break
                yield

    def answer(self) -> Allocation:
        """Everything decided, in order."""
        return Allocation(
            kept=frozenset(self.ledger.kept),
            grants=tuple(self.grants),
            reclaims=tuple(self.reclaims.values()),
            claimed=self.claimed,
            left_mib=self.ledger.left_mib(),
            waits=self.waits,
            awaited=self.awaited,
            ask_again_at_s=min(self.later_s, default=None),
            memory=AllocationMemory(fairness=self.fairness, promises=self.promises, without_s=self.without_s),
        )

    # -- one worker more -----------------------------------------------------------------------

    def _one_more(self, claimant: Claimant, *, reserve: bool) -> bool:
        """Keep one of the endpoint's own workers, or claim GPUs for a new one.

        Args:
            claimant: Whose turn it is.
            reserve: GPUs that come free only later may be claimed too.
        """
        for tenant in self.own[claimant.name]:
            if self.ledger.may_stay(tenant):
                self.ledger.keep(tenant)
                self._claim(claimant, tenant.gpu_uuids)
                return True
        for tenant in self.own[claimant.name]:
            if tenant.worker_id in self.later - self.serving:  # until its turn ends
                self.serving.add(tenant.worker_id)
                self.units[claimant.name] += 1
                return True
        return self._take_free(claimant) or self._take(claimant, reserve=reserve)

    def _take_free(self, claimant: Claimant) -> bool:
        chosen = self.ledger.take_free(claimant.gpus)
        if chosen:
            self._claim(claimant, chosen)
            self.grants.append(Grant(endpoint=claimant.name, gpu_uuids=chosen))
        return bool(chosen)

    def _claim(self, claimant: Claimant, uuids: tuple[GpuUuid, ...]) -> None:
        for uuid in uuids:
            self.claimed[uuid] = (*self.claimed.get(uuid, ()), claimant.name)
        self.units[claimant.name] += 1

    def _take(self, claimant: Claimant, *, reserve: bool) -> bool:
        """Claim GPUs of others: all that are needed, or none."""
        hopeless = (claimant.priority, claimant.gpus)
        if hopeless in self._hopeless:
            self._wait(claimant, [])
            return False
        ways = self.ledger.ways(claimant.gpus, lambda tenant: self._offer(tenant, claimant))
        chosen = nearest_ways(ways, claimant.gpus.count)
        self._wait(claimant, chosen)
        if len(chosen) < claimant.gpus.count:
            self._hopeless.add(hopeless)
            return False
        in_s = max(way.offer.in_s for way in chosen)
        leavers = ((tenant.worker_id, offer.in_s) for way in chosen for tenant, offer in way.leavers)
        self.awaited[claimant.name].update(leavers)
        if in_s > 0:
            self.later_s.append(self.now_s + in_s)
            if not reserve:
                return False
        self.ledger.claim(chosen, claimant.gpus)
        self._claim(claimant, tuple(way.account.gpu.uuid for way in chosen))
        for way in chosen:
            for tenant, offer in way.leavers:
                self._promise(tenant, offer.hold, claimant, now=in_s == 0)
        return True

    def _promise(self, tenant: Tenant, hold: Hold, claimant: Claimant, *, now: bool) -> None:
        leaving = tenant.phase in ON_THE_WAY_OUT
        if not leaving and not now:
            if tenant.worker_id not in self.reclaims:
                self.later.add(tenant.worker_id)
            return
        self.promises.setdefault(tenant.worker_id, claimant.name)
        if not leaving:
            self.later.discard(tenant.worker_id)
            if tenant.worker_id in self.serving:  # Its turn was to last longer than its GPUs do.
                self.serving.discard(tenant.worker_id)
                self.units[tenant.endpoint] -= 1
            reclaim = Reclaim(worker_id=tenant.worker_id, endpoint=claimant.name, hold=hold)
            self.reclaims.setdefault(tenant.worker_id, reclaim)

    def _offer(self, tenant: Tenant, claimant: Claimant) -> Offer | None:
        holder = self.known.get(tenant.endpoint) or Claimant(name=tenant.endpoint, priority=claimant.priority)
        return offer_of(
            tenant,
            holder,
            claimant,
            promised=self.memory.promises.get(tenant.worker_id) == claimant.name,
            holder_share=self.held[tenant.endpoint] / holder.weight,
            now_s=self.now_s,
        )

    # -- order and reasons ---------------------------------------------------------------------

    def _patience(self) -> dict[int, float]:
        """How long all needy endpoints of a priority or above take for one turn each, in seconds."""
        asked_gpu_s: dict[int, float] = defaultdict(float)
        for c in self.claimants:
            if c.needed:
                asked_gpu_s[c.priority] += self.width[c.name] * (c.turn_s + c.cold_start_s)
        patience_s, total_gpu_s = {}, 0.0
        for priority in sorted(asked_gpu_s, reverse=True):
            total_gpu_s += asked_gpu_s[priority]
            patience_s[priority] = total_gpu_s / max(1, len(self.accounts))
        return patience_s

    def _turn(self, claimant: Claimant) -> tuple[float, float, float, float, str]:
        name = claimant.name
        passed_over_s = self.now_s - self.without_s.get(name, self.now_s)
        if passed_over_s <= self._patience_s.get(claimant.priority, 0.0):
            passed_over_s = 0.0
        return (-claimant.priority, -passed_over_s, self.gpu_s[name], -claimant.oldest_wait_s, name)

    def _share(self, claimant: Claimant) -> tuple[float, float, float, str]:
        share = self.units[claimant.name] * self.width[claimant.name] / claimant.weight
        return (-claimant.priority, share, self.gpu_s[claimant.name], claimant.name)

    def _wait(self, claimant: Claimant, chosen: Sequence[Way]) -> None:
        """Say why the claimant has no GPUs now, and when that is expected to change."""
        needs = claimant.gpus
        suitable = [account for account in self.accounts.values() if fits(needs, account.gpu)]
        if len(suitable) < needs.count:
            sick = [s for s in self.sick if fits(needs, s.gpu)]
            listed = ", ".join(f"{s.gpu.uuid} is {s.health} ({s.reason})" for s in sick)
            detail = f"{needs.count} suitable GPUs are needed, {len(suitable)} are healthy: {listed}."
            facts: dict[str, object] = {"gpus": [s.gpu.uuid for s in sick]}
            self.waits[claimant.name] = WaitReason(reason="gpu_unhealthy", detail=detail, facts=facts)
            return
        awaited = [way.account for way in chosen] or suitable
        names = sorted({tenant.endpoint for account in awaited for tenant in account.tenants})
        in_s = max((way.offer.in_s for way in chosen), default=None)
        until = ""
        if chosen and in_s is not None:
            until = f", whose turn ends in {in_s:.0f} s" if in_s else ", which give way now"
        wanted = f"{needs.count} GPUs are needed"
        facts = {"held_by": list(names), "needed": needs.count}
        if needs.memory_mib:
            wanted = f"{needs.memory_mib} MiB of a GPU are needed"
            facts["needed_mib"] = needs.memory_mib
        self.waits[claimant.name] = WaitReason(
            reason="waiting_for_gpu",
            detail=f"{wanted}; held by {', '.join(names) or 'nobody that fits'}{until}.",
            facts=facts | {"until_in_s": None if in_s is None else round(in_s, 1)},
            ends_at_s=None if in_s is None else self.now_s + in_s,
        )


def _staying_order(tenant: Tenant) -> tuple[bool, bool, float, str]:
    """Which of its own workers an endpoint keeps first: busy ones, ready ones, the longest ready."""
    return (not tenant.busy, tenant.phase is not TenantPhase.READY, tenant.ready_s, tenant.worker_id)

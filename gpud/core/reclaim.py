"""From whom may a GPU be taken, for whom, and from when on?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, assert_never

from gpud.core.endpoint import GpuNeeds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.ids import EndpointName, GpuUuid, WorkerId

_IDLE_MIN_S = 5.0
_RESIDENCE_MIN_S = 30.0
_QUANTUM_MIN_S = 60.0
_QUANTUM_COLD_STARTS = 3.0
_MOMENT_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """What one endpoint wants of the box's GPUs.

    Args:
        needed: Workers that present load asks for.
        desired: Workers the scale decision wants, those kept warm included.
        guaranteed: Workers it has a right to without load; they are never taken for an equal.
        priority: Larger goes first.
        weight: Its share of GPU time beside others of the same priority.
        gpus: What one worker needs; `count` is 1 or more.
        oldest_wait_s: Age of its oldest waiting request.
        cold_start_s: Usual time of a start.
        quantum_s: How long a worker may hold its GPUs before an equal may take them; 0 for
            three cold starts, 60 s at least.
    """

    name: EndpointName
    needed: int = 0
    desired: int = 0
    guaranteed: int = 0
    priority: int = 0
    weight: float = 1.0
    gpus: GpuNeeds = field(default_factory=GpuNeeds)
    oldest_wait_s: float = 0.0
    cold_start_s: float = 60.0
    quantum_s: float = 0.0

    @property
    def turn_s(self) -> float:
        """The quantum in force."""
        return self.quantum_s or max(_QUANTUM_MIN_S, _QUANTUM_COLD_STARTS * self.cold_start_s)


class TenantPhase(StrEnum):
    """How a worker holds its GPUs, as far as giving them up goes.

    `LEAVING` gives them up by itself (STOPPING, RELEASING, FAILED); `STUCK` may never (LOST).
    """

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    LEAVING = "leaving"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A worker that holds GPUs.

    Args:
        busy: It has requests.
        memory_mib: What it reserves of its one GPU; 0 when its GPUs are its own.
        held_since_s: Loop time from which it holds its GPUs.
        ready_s: Loop time of its readiness; for a starting one, when it is expected.
        idle_since_s: Loop time from which it has had no request; for one that never had, of
            its readiness.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    gpu_uuids: tuple[GpuUuid, ...]
    phase: TenantPhase
    busy: bool = False
    memory_mib: int = 0
    held_since_s: float = 0.0
    ready_s: float = 0.0
    idle_since_s: float = 0.0


class Hold(IntEnum):
    """How hard it is to come by a GPU, easiest first; the order of victims."""

    FREE = 0
    PROMISED = 1
    LEAVING = 2
    IDLE = 3
    DRAINING = 4
    LOWER = 5
    EQUAL = 6


@dataclass(frozen=True, slots=True, order=True)
class Offer:
    """One GPU as one claimant may have it; offers sort by how soon and how gently.

    Args:
        in_s: Seconds until it may be taken; 0 for now.
        hold: How it is held.
        rank: Between offers alike, smallest first.
        worker_id: Holder; None when free.
    """

    in_s: float
    hold: Hold
    rank: tuple[float, ...] = ()
    worker_id: WorkerId | None = None


FREE = Offer(0.0, Hold.FREE)


def offer_of(
    tenant: Tenant, holder: Claimant, seeker: Claimant, *, promised: bool, holder_share: float, now_s: float
) -> Offer | None:
    """Say when, and as which kind of victim, a tenant's GPUs may go to a seeker.

    Order of victims: idle workers, lowest priority and longest idle first, once they rested 5 s
    and were resident for 30 s or half a cold start; busy ones of strictly lower priority; busy
    ones of equal priority that had their quantum. Busy ones of higher priority are not offered.

    Args:
        tenant: Holds the GPUs and is not kept for its own endpoint.
        holder: The tenant's endpoint.
        seeker: Who asks.
        promised: The tenant was told to leave for this very seeker.
        holder_share: GPUs the holder's endpoint has per weight; the largest gives first.
        now_s: Loop time.
    """
    worker_id = tenant.worker_id
    match tenant.phase:
        case TenantPhase.STUCK:
            return None
        case TenantPhase.LEAVING:
            return Offer(0.0, Hold.PROMISED if promised else Hold.LEAVING, (), worker_id)
        case TenantPhase.DRAINING:
            return Offer(0.0, Hold.PROMISED if promised else Hold.DRAINING, (), worker_id)
        case TenantPhase.STARTING | TenantPhase.READY:
            pass
        case _:
            assert_never(tenant.phase)
    outranked = seeker.priority > holder.priority
    starting = tenant.phase is TenantPhase.STARTING
    idle = not tenant.busy and not (starting and holder.needed)
    if idle:
        rest_until_s = max(
            tenant.idle_since_s + _IDLE_MIN_S,
            tenant.held_since_s + max(_RESIDENCE_MIN_S, holder.cold_start_s / 2),
            tenant.ready_s if starting else 0.0,
        )
        in_s = 0.0 if outranked else _span_s(rest_until_s, now_s)
        return Offer(in_s, Hold.IDLE, (holder.priority, tenant.idle_since_s), worker_id)
    if outranked:
        return Offer(0.0, Hold.LOWER, (holder.priority, -tenant.ready_s), worker_id)
    if seeker.priority < holder.priority:
        return None
    in_s = _span_s(tenant.ready_s + holder.turn_s, now_s)
    return Offer(in_s, Hold.EQUAL, (-holder_share, tenant.ready_s), worker_id)


def _span_s(until_s: float, now_s: float) -> float:
    """Time left; less than a millisecond is none, so that who asks again at the end finds it there."""
    left_s = until_s - now_s
    return left_s if left_s > _MOMENT_S else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """Who has had how much: virtual GPU time by endpoint.

    Args:
        gpu_s: GPU-seconds held, per weight.
        needy: Endpoints that needed a worker when this was last charged.
        at_s: Loop time of the last charge.
    """

    gpu_s: dict[EndpointName, float]
    needy: frozenset[EndpointName] = frozenset()
    at_s: float = -math.inf


def charged(
    fairness: Fairness,
    claimants: tuple[Claimant, ...],
    held: Mapping[EndpointName, float],
    *,
    now_s: float,
) -> Fairness:
    """Charge everyone for the GPUs held since the last charge.

    Virtual times of needy endpoints stay within a quantum of the smallest one, above and
    below. Below, so that a long absence earns no claim to hours of GPU time; above, so that a
    worker of many GPUs, charged for each of them, waits turns and not multiples of turns.

    Args:
        fairness: As it was.
        claimants: Every endpoint that wants or holds GPUs.
        held: GPUs by endpoint, slices as parts of one.
        now_s: Loop time.
    """
    passed_s = max(0.0, now_s - fairness.at_s) if math.isfinite(fairness.at_s) else 0.0
    gpu_s = dict(fairness.gpu_s)
    for c in claimants:
        gpu_s[c.name] = gpu_s.get(c.name, 0.0) + held.get(c.name, 0) * passed_s / c.weight
    needy = [c for c in claimants if c.needed]
    staying = [gpu_s[c.name] for c in needy if c.name in fairness.needy]
    if staying:
        least = min(staying)
        for c in needy:
            if c.name not in fairness.needy:
                gpu_s[c.name] = max(gpu_s[c.name], least - c.turn_s)
    if needy:
        least = min(gpu_s[c.name] for c in needy)
        for c in needy:
            gpu_s[c.name] = min(gpu_s[c.name], least + c.turn_s)
    return Fairness(gpu_s=gpu_s, needy=frozenset(c.name for c in needy), at_s=now_s)

"""A box whose endpoints always want GPUs, in steps of a second: the worst case for sharing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.allocation import Allocation, AllocationMemory, Contest, allocate
from gpud.core.endpoint import GpuNeeds
from gpud.core.gpu import Gpu, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.reclaim import Claimant, Tenant, TenantPhase

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """An endpoint under load.

    Args:
        workers: Its load has use for so many, from `from_s` on, of every `period_s` for `for_s`.
        drain_s: What its longest request takes.
    """

    name: EndpointName
    gpus: int = 1
    workers: int = 1
    cold_start_s: float = 20.0
    drain_s: float = 5.0
    priority: int = 0
    guaranteed: int = 0
    from_s: float = 0.0
    for_s: float = 1e9
    period_s: float = 1e9

    def needed(self, now_s: float) -> int:
        into_s = (now_s - self.from_s) % self.period_s
        return self.workers if now_s >= self.from_s and into_s < self.for_s else 0


@dataclass(slots=True, eq=False)
class _Guest:
    id: WorkerId
    party: Party
    gpu_uuids: tuple[GpuUuid, ...]
    held_since_s: float
    ready_s: float
    idle_since_s: float = 0.0
    gone_s: float | None = None


def gpus(count: int) -> tuple[GpuStatus, ...]:
    return tuple(
        GpuStatus(gpu=Gpu(uuid=GpuUuid(f"GPU-{i}"), name="GPU", memory_mib=24_000, index=i))
        for i in range(count)
    )


@dataclass(slots=True)
class SharingBox:
    """Applies each allocation and checks what must always hold."""

    parties: Sequence[Party]
    gpu_count: int
    now_s: float = 0.0
    guests: list[_Guest] = field(default_factory=list)
    memory: AllocationMemory = field(default_factory=AllocationMemory)
    served_s: dict[str, float] = field(default_factory=dict)
    unserved_since_s: dict[str, float] = field(default_factory=dict)
    wait_s_max: dict[str, float] = field(default_factory=dict)
    gpu_s: dict[str, float] = field(default_factory=dict)
    last: Allocation | None = None

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.step()

    def step(self) -> None:
        self.guests = [g for g in self.guests if g.gone_s is None or g.gone_s > self.now_s]
        answer = allocate(
            Contest(
                claimants=tuple(self._claimant(party) for party in self.parties),
                tenants=tuple(self._tenant(guest) for guest in self.guests),
                gpus=gpus(self.gpu_count),
                now_s=self.now_s,
            ),
            self.memory,
        )
        self.memory, self.last = answer.memory, answer
        self._apply(answer)
        self._measure()
        self.now_s += 1.0

    def of(self, name: str) -> list[_Guest]:
        return [g for g in self.guests if g.party.name == name and g.gone_s is None]

    def _apply(self, answer: Allocation) -> None:
        taken = {uuid for guest in self.guests for uuid in guest.gpu_uuids}
        for grant in answer.grants:
            assert not taken & set(grant.gpu_uuids), "a GPU was granted twice"
            taken |= set(grant.gpu_uuids)
            party = next(p for p in self.parties if p.name == grant.endpoint)
            assert len(grant.gpu_uuids) == party.gpus
            number = WorkerId(f"wk-{len(taken)}-{self.now_s:g}-{'-'.join(grant.gpu_uuids)}")
            ready_s = self.now_s + party.cold_start_s
            self.guests.append(
                _Guest(number, party, grant.gpu_uuids, self.now_s, ready_s, idle_since_s=ready_s)
            )
        for party in self.parties:
            assert len(self.of(party.name)) <= max(party.needed(self.now_s), party.guaranteed, 1) + 20
        for reclaim in answer.reclaims:
            guest = next(g for g in self.guests if g.id == reclaim.worker_id)
            assert guest.gone_s is None, "a worker was told to leave twice"
            busy = guest.party.needed(self.now_s) and self.now_s >= guest.ready_s
            guest.gone_s = self.now_s + (guest.party.drain_s if busy else 1.0)

    def _measure(self) -> None:
        for party in self.parties:
            served = any(self.now_s >= g.ready_s for g in self.of(party.name))
            if party.needed(self.now_s) and not served:
                since_s = self.unserved_since_s.setdefault(party.name, self.now_s)
                waited_s = self.now_s - since_s
                self.wait_s_max[party.name] = max(self.wait_s_max.get(party.name, 0.0), waited_s)
            else:
                self.unserved_since_s.pop(party.name, None)
            for guest in self.of(party.name):
                self.gpu_s[party.name] = self.gpu_s.get(party.name, 0.0) + len(guest.gpu_uuids)
                if party.needed(self.now_s):
                    guest.idle_since_s = self.now_s

    def _claimant(self, party: Party) -> Claimant:
        needed = party.needed(self.now_s)
        return Claimant(
            name=party.name,
            needed=needed,
            desired=max(needed, party.guaranteed),
            guaranteed=party.guaranteed,
            priority=party.priority,
            gpus=GpuNeeds(count=party.gpus),
            oldest_wait_s=self.now_s - self.unserved_since_s.get(party.name, self.now_s),
            cold_start_s=party.cold_start_s,
        )

    def _tenant(self, guest: _Guest) -> Tenant:
        if guest.gone_s is not None:
            phase = TenantPhase.DRAINING
        else:
            phase = TenantPhase.READY if self.now_s >= guest.ready_s else TenantPhase.STARTING
        return Tenant(
            worker_id=guest.id,
            endpoint=guest.party.name,
            gpu_uuids=guest.gpu_uuids,
            phase=phase,
            busy=bool(guest.party.needed(self.now_s)) and phase is TenantPhase.READY,
            held_since_s=guest.held_since_s,
            ready_s=guest.ready_s,
            idle_since_s=guest.idle_since_s,
        )

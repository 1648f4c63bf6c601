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

TOTAL_MIB = 24_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """An endpoint under load.

    Args:
        workers: Its load has use for so many, from `from_s` on, of every `period_s` for `for_s`.
        drain_s: What its longest request takes.
        slice_mib: It reserves so much of one GPU of 24,000; 0 for whole GPUs.
    """

    name: EndpointName
    gpus: int = 1
    workers: int = 1
    cold_start_s: float = 20.0
    drain_s: float = 5.0
    priority: int = 0
    guaranteed: int = 0
    slice_mib: int = 0
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
        GpuStatus(gpu=Gpu(uuid=GpuUuid(f"GPU-{i}"), name="GPU", memory_mib=TOTAL_MIB, index=i))
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
        taken = {f"GPU-{i}": 0 for i in range(self.gpu_count)}
        for guest in self.guests:
            for uuid in guest.gpu_uuids:
                taken[uuid] += guest.party.slice_mib or TOTAL_MIB
        for turn, grant in enumerate(answer.grants):
            party = next(p for p in self.parties if p.name == grant.endpoint)
            assert len(grant.gpu_uuids) == party.gpus
            for uuid in grant.gpu_uuids:
                taken[uuid] += party.slice_mib or TOTAL_MIB
                assert taken[uuid] <= TOTAL_MIB, "a GPU was granted twice"
            number = WorkerId(f"wk-{turn}-{self.now_s:g}-{'-'.join(grant.gpu_uuids)}")
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
                share = party.slice_mib / TOTAL_MIB if party.slice_mib else len(guest.gpu_uuids)
                self.gpu_s[party.name] = self.gpu_s.get(party.name, 0.0) + share
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
            gpus=GpuNeeds(count=party.gpus, memory_mib=party.slice_mib),
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
            memory_mib=guest.party.slice_mib,
            phase=phase,
            busy=bool(guest.party.needed(self.now_s)) and phase is TenantPhase.READY,
            held_since_s=guest.held_since_s,
            ready_s=guest.ready_s,
            idle_since_s=guest.idle_since_s,
        )

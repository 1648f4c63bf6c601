"""Which standbys should there be: whom to make one for, on which rung and GPUs, and which to destroy?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.gpu import GpuHealth
from gpud.core.placement import Placement, place
from gpud.core.standby import (
    DropStandby,
    NewStandby,
    Rung,
    Standby,
    StandbyMode,
    StandbyState,
    cost_of,
    rung_for,
)
from gpud.core.waiting import WaitReason
from gpud.core.worker import COUNTED, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.ids import EndpointName, GpuUuid
    from gpud.core.standby import StandbyChange
    from gpud.core.world import EndpointSeen, World

_PREPARING_MAX = 2
"""Standbys prepared at once: they take the engine's time, which starts of workers need more."""
_DWELL_S = 10.0
"""How long a standby stays on GPUs that are taken before it is made anew on free ones."""
_RANK = {Rung.CREATED: 0, Rung.PARKED: 1}
_ASKED = {StandbyMode.CREATED: Rung.CREATED, StandbyMode.PARKED: Rung.PARKED}
_AT_THE_ENGINE = frozenset({WorkerState.RESERVED, WorkerState.CREATING})
_KEPT = frozenset({StandbyState.PREPARING, StandbyState.READY})
_SERVING = COUNTED - {WorkerState.PENDING, WorkerState.PULLING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """What to change about the standbys.

    Args:
        changes: To be applied in order; a plan of the resulting world may hold more.
        waits: Why an endpoint has fewer standbys than it asks for, or lower ones.
        ask_again_at_s: Loop time at which the answer may differ; None when only an event can change it.
    """

    changes: tuple[StandbyChange, ...]
    waits: Mapping[EndpointName, WaitReason]
    ask_again_at_s: float | None


def plan_ladder(world: World, held_by: Mapping[GpuUuid, EndpointName]) -> Ladder:
    """Decide about standbys; what serves requests was decided before, and goes first.

    Args:
        world: As it is.
        held_by: Leased GPUs and their endpoints.
    """
    planner = _LadderPlanner(world, held_by)
    none, kept = StandbyMode.NONE, planner.kept
    concerned = [
        seen
        for name, seen in world.endpoints.items()
        if seen.endpoint.spec.standby.mode is not none or name in kept
    ]
    order = sorted(concerned, key=lambda s: (-s.endpoint.spec.scale.priority, s.endpoint.spec.name))
    for standby in world.standing.standbys.values():
        if standby.state in _KEPT and standby.endpoint not in world.endpoints:
            planner.drop(standby, "endpoint_deleted")
    for seen in order:
        planner.thin(seen)
    for seen in order:
        planner.fill(seen)
    return Ladder(changes=tuple(planner.changes), waits=planner.waits, ask_again_at_s=planner.ask_again_at_s)


class _LadderPlanner:
    """Collects one answer; lives for one call of `plan_ladder`."""

    def __init__(self, world: World, held_by: Mapping[GpuUuid, EndpointName]) -> None:
        self.changes: list[StandbyChange] = []
        self.waits: dict[EndpointName, WaitReason] = {}
        self.ask_again_at_s: float | None = None
        self._world = world
        self._held_by = held_by
        self.kept: dict[EndpointName, list[Standby]] = {}
        """Those that may stay, by endpoint."""
        for standby in world.standing.standbys.values():
            if standby.state in _KEPT:
                self.kept.setdefault(standby.endpoint, []).append(standby)
        self._healthy = {s.gpu.uuid for s in world.gpus if s.health is GpuHealth.HEALTHY}
        self._preparing = sum(s.state is StandbyState.PREPARING for s in world.standing.standbys.values())
        self._serving: dict[EndpointName, int] = {}
        for worker in world.workers.values():
            if worker.state in _SERVING:
                self._serving[worker.endpoint] = self._serving.get(worker.endpoint, 0) + 1

    def drop(self, standby: Standby, why: str) -> None:
        """Destroy one."""
        self.kept[standby.endpoint].remove(standby)
        self.changes.append(DropStandby(standby_id=standby.id, why=why))

    def thin(self, seen: EndpointSeen) -> None:
        """Destroy what is of no use to an endpoint any more."""
        name = seen.endpoint.name
        for standby in list(self.kept.get(name, ())):
            if why := self._unfit(seen, standby):
                self.drop(standby, why)
        kept = sorted(
            self.kept.get(name, ()),
            key=lambda s: (s.state is not StandbyState.READY, -_RANK[s.rung], s.created_at_ms, s.id),
        )
        for standby in kept[self._wanted(seen) :]:
            self.drop(standby, "surplus")

    def fill(self, seen: EndpointSeen) -> None:
        """Make one more for an endpoint that lacks one, if it can be had."""
        name, policy, standing = seen.endpoint.name, seen.endpoint.spec.standby, self._world.standing
        asked = _ASKED.get(policy.mode)
        wanted = self._wanted(seen)
        if asked is None or not wanted:
            return
        rung = rung_for(policy, standing, name, seen.endpoint.revision, now_s=self._world.now_s)
        if rung is not asked:
            self._explain_fault(seen, asked, rung)
        if rung is None or len(self.kept.get(name, ())) >= wanted or not self._may_prepare(seen):
            return
        if why := self._over_budget(cost_of(rung)):
            self.waits[name] = WaitReason(reason="standby_budget", detail=why)
            return
        placement = self._home(seen)
        if placement is None:
            return
        self._preparing += 1
        new = NewStandby(endpoint=name, rung=rung, gpu_uuids=placement.gpu_uuids, ram_mib=cost_of(rung))
        self.changes.append(new)

    def _unfit(self, seen: EndpointSeen, standby: Standby) -> str:
        """Why a standby is of no use; empty when it is of use."""
        policy, standing, now_s = seen.endpoint.spec.standby, self._world.standing, self._world.now_s
        asked = _ASKED.get(policy.mode)
        if standing.closed:
            return "shutdown"
        if standby.revision != seen.endpoint.revision:
            return "new_revision"
        if asked is None or _RANK[standby.rung] > _RANK[asked] or standby.rung in standing.unavailable:
            return "not_asked_for"
        can_have = rung_for(policy, standing, standby.endpoint, standby.revision, now_s=now_s)
        if can_have is not None and _RANK[can_have] > _RANK[standby.rung]:
            return "higher_rung_tried"
        if not self._healthy.issuperset(standby.gpu_uuids):
            return "gpu_unhealthy"
        return self._elsewhere(seen, standby)

    def _elsewhere(self, seen: EndpointSeen, standby: Standby) -> str:
        """Why a standby that is of use would be of more use on other GPUs; empty when it would not."""
        if any(uuid in self._held_by for uuid in standby.gpu_uuids):
            why, better = "gpu_taken", self._free_home(seen, without=standby)
        elif self._is_crowded(standby):
            why, better = "gpu_shared", self._free_home(seen, without=standby, apart=True)
        else:
            return ""
        stays_until_s = standby.since_s + _DWELL_S
        if better is None:
            return ""
        if self._world.now_s < stays_until_s:
            self._ask_at(stays_until_s)
            return ""
        one_at_a_time = why == "gpu_taken" or (not self.changes and self._may_prepare(seen))
        return why if one_at_a_time else ""

    def _is_crowded(self, standby: Standby) -> bool:
        """Whether another endpoint's standby was there first: called together, one of them starts cold."""
        mine, place_in_line = set(standby.gpu_uuids), (standby.created_at_ms, standby.id)
        return any(
            not mine.isdisjoint(other.gpu_uuids) and (other.created_at_ms, other.id) < place_in_line
            for name, each in self.kept.items()
            if name != standby.endpoint
            for other in each
        )

    def _wanted(self, seen: EndpointSeen) -> int:
        spec = seen.endpoint.spec
        scale, policy = spec.scale, spec.standby
        if spec.gpus.memory_mib:  # as an earlier revision may have: only workers of whole GPUs stand by
            return 0
        if policy.mode is StandbyMode.NONE or self._world.standing.closed:
            return 0
        return min(policy.workers, max(scale.max_workers - self._serving.get(seen.endpoint.name, 0), 0))

    def _may_prepare(self, seen: EndpointSeen) -> bool:
        """Nothing is prepared that could not start, nor while a worker waits for the engine."""
        world = self._world
        if not seen.image_present or not world.engine_up or self._preparing >= _PREPARING_MAX:
            return False
        if not seen.starts.may_start(now_s=world.now_s):
            self._ask_at(seen.starts.next_try_s)
            return False
        return not any(w.state in _AT_THE_ENGINE for w in world.workers.values())

    def _over_budget(self, ram_mib: int) -> str:
        budget = self._world.standing.budget
        kept = [s for each in self.kept.values() for s in each]
        new = [c for c in self.changes if isinstance(c, NewStandby)]
        workers = len(kept) + len(new) + 1
        if workers > budget.workers:
            return f"{budget.workers} standbys are kept already; raise standby.workers in gpud.toml."
        taken_mib = sum(s.ram_mib for s in kept) + sum(n.ram_mib for n in new)
        if taken_mib + ram_mib > budget.ram_mib:
            return (
                f"Standbys take {taken_mib} of {budget.ram_mib} MiB and this one needs {ram_mib}; "
                "raise standby.ram_mib in gpud.toml."
            )
        return ""

    def _home(self, seen: EndpointSeen) -> Placement | None:
        """The GPUs a standby is made for: free ones, best where nobody stands by, else those it might get.

        Endpoints that are called together then do not find each other's worker on the GPU their own
        standby reaches.
        """
        free = self._free_home(seen, without=None, apart=True) or self._free_home(seen, without=None)
        if free is not None:
            return free
        placement = place(seen.endpoint.spec.gpus, self._world.gpus, self._homes(seen, without=None))
        return placement if isinstance(placement, Placement) else None

    def _free_home(
        self, seen: EndpointSeen, *, without: Standby | None, apart: bool = False
    ) -> Placement | None:
        taken = {**self._homes(seen, without=without), **self._held_by}
        placement = place(
            seen.endpoint.spec.gpus, self._world.gpus, self._all_homes() | taken if apart else taken
        )
        return placement if isinstance(placement, Placement) else None

    def _all_homes(self) -> dict[GpuUuid, EndpointName]:
        """GPUs that any standby is made for, or is about to be."""
        kept = {uuid: name for name, each in self.kept.items() for s in each for uuid in s.gpu_uuids}
        new = {uuid: c.endpoint for c in self.changes if isinstance(c, NewStandby) for uuid in c.gpu_uuids}
        return kept | new

    def _homes(self, seen: EndpointSeen, *, without: Standby | None) -> dict[GpuUuid, EndpointName]:
        """GPUs that the endpoint's other standbys are made for."""
        name = seen.endpoint.name
        others = [s for s in self.kept.get(name, ()) if s is not without]
        return {uuid: name for standby in others for uuid in standby.gpu_uuids}

    def _explain_fault(self, seen: EndpointSeen, asked: Rung, rung: Rung | None) -> None:
        standing, name = self._world.standing, seen.endpoint.name
        fault = standing.faults.get((name, asked))
        why = standing.unavailable.get(asked) or (fault.detail if fault else "")
        instead = f"its workers are kept {rung} instead" if rung else "none is kept"
        if fault is not None and asked not in standing.unavailable:
            self._ask_at(fault.again_s)
        self.waits[name] = WaitReason(
            reason="standby_unavailable",
            detail=f"No worker can be kept {asked}, {instead}: {why}",
            facts={"asked": asked, "kept": rung or ""},
        )

    def _ask_at(self, at_s: float) -> None:
        if self.ask_again_at_s is None or at_s < self.ask_again_at_s:
            self.ask_again_at_s = at_s

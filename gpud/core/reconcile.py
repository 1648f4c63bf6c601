"""World -> Plan: the changes that close the gap, and when to ask again."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from gpud.core.allocation import Allocation, allocating
from gpud.core.contest import contesting
from gpud.core.explaining import start_limit, unmet
from gpud.core.gpu import GpuHealth
from gpud.core.granted import Granted
from gpud.core.homes import brought_home
from gpud.core.ladder import plan_ladder
from gpud.core.overdue import due, sick_gpus
from gpud.core.pacing import PaceMemory, ScaleDecision, ScaleReason
from gpud.core.pieces import at_once
from gpud.core.placement import Placement, place
from gpud.core.resting import apart, as_they_should_be
from gpud.core.rolling import is_rolling, roll, scene_of, seat_of
from gpud.core.rollout_moves import room_taken
from gpud.core.scaling import ASLEEP, desired_workers
from gpud.core.standby import ClaimStandby, claimable, to_claim
from gpud.core.stepping import called, instead_of_leaving, plan_steps
from gpud.core.surplus import revivable, victims
from gpud.core.waiting import WaitReason
from gpud.core.worker import COUNTED, HOLDS_GPUS, STARTING_UP, Cause, Worker, WorkerEvent, WorkerState
from gpud.core.world import NewWorker, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.endpoint import GpuNeeds
    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from gpud.core.pieces import Pieces
    from gpud.core.rollout import Rollout
    from gpud.core.standby import PinnedT, Standby, StandbyChange
    from gpud.core.world import EndpointSeen, World

_STARTING = HOLDS_GPUS & STARTING_UP
_NOT_ITS_TURN = WaitReason(
    reason="waiting_for_gpu",
    detail="Its load needs no further worker now; one is started on a GPU that nobody needs.",
    facts={"held_by": []},
)
_WAITING = frozenset({WorkerState.PENDING, WorkerState.PULLING})


def plan(world: World) -> Plan:
    """Decide what to do about the world as it is.

    Deterministic: endpoints are visited by priority, then name; workers by age. The caller
    applies the changes to its state and asks again until there are none, so one change may
    enable the next (PENDING, RESERVED and CREATING in one go) without any wait between.
    """
    return at_once(planning(world))


def planning(world: World) -> Pieces[Plan]:
    """Decide it in pieces: the same plan, however long others work between two of them."""
    planner = _Planner(world)
    yield
    order = sorted(planner.awake, key=lambda s: (-s.endpoint.spec.scale.priority, s.endpoint.spec.name))
    for seen in order:
        planner.scale(seen)
        yield
    yield from planner.share()
    for seen in order:
        planner.seat(seen)
        yield
    for worker in world.workers.values():
        if worker.endpoint not in world.endpoints:
            planner.retire(worker, Cause.ENDPOINT_DELETED)
        planner.progress(worker)
        yield
    planner.stand_by()
    return Plan(
        changes=tuple(planner.changes),
        decisions=planner.decisions,
        waits={name: tuple(reasons) for name, reasons in planner.waits.items()},
        ask_again_at_s=planner.ask_again_at_s,
        paces=planner.paces,
        sharing=planner.sharing.memory,
        rollouts=planner.rollouts,
    )


class _Planner:
    """Collects one plan; lives for one call of `plan`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.changes: list[NewWorker | WorkerEvent | StandbyChange] = []
        self.decisions: dict[EndpointName, ScaleDecision] = {}
        self.paces: dict[EndpointName, PaceMemory] = {}
        self.sharing: Allocation
        self.rollouts: dict[EndpointName, Rollout] = {}
        self.waits: dict[EndpointName, list[WaitReason]] = defaultdict(list)
        self.ask_again_at_s: float | None = None
        self._held_by: dict[GpuUuid, EndpointName] = {
            uuid: worker.endpoint
            for worker in world.workers.values()
            if worker.state in HOLDS_GPUS
            for uuid in worker.gpu_uuids
        }
        self._by_endpoint: dict[EndpointName, list[Worker]] = defaultdict(list)
        for worker in sorted(world.workers.values(), key=lambda w: (w.created_at_ms, w.id)):
            self._by_endpoint[worker.endpoint].append(worker)
        self._granted: Granted
        self._starting = Counter(w.endpoint for w in world.workers.values() if w.state in _STARTING)
        self._claimed: set[WorkerId] = set()
        self._called: set[WorkerId] = set()
        self._sick = sick_gpus(world)
        self.awake, asleep = apart(world, self._by_endpoint)
        self.decisions.update(dict.fromkeys(asleep, ASLEEP))

    # -- one endpoint --------------------------------------------------------------------------

    def scale(self, seen: EndpointSeen) -> None:
        """Bring one endpoint's workers to the number they should have."""
        endpoint, now_s = seen.endpoint, self.world.now_s
        name = endpoint.spec.name
        workers = self._by_endpoint.get(name, [])
        counted = [w for w in workers if w.state in COUNTED]
        decision, pace = desired_workers(seen, counted, self.world.in_flight, now_s=now_s)
        self.decisions[name], self.paces[name] = decision, pace
        self._ask_at(decision.ask_again_at_s)
        self._ask_at(seen.window_open.edge_s)
        if len(seen.window.entries) > 1:  # else it has nowhere to fall
            for span_s in {seen.patience_s, seen.last_patience_s}:
                self._ask_at(seen.window.falls_at_s(now_s=now_s, span_s=span_s))
        if not seen.starts.may_start(now_s=now_s):
            self._ask_at(seen.starts.next_try_s)
        self._call_back(seen, workers)
        current = [w for w in counted if w.revision == endpoint.revision]
        gap = decision.desired - len(current)
        if gap > 0:
            gap -= room_taken(scene_of(seen, workers, decision.desired, self.world))
        if gap > 0:
            self._grow(seen, workers, current, gap)
        elif len(current) > decision.desired:
            self._shrink(seen, current, len(current) - decision.desired, decision)

    def _call_back(self, seen: EndpointSeen, workers: Sequence[Worker]) -> None:
        """Wake what demand needs: at once what holds its GPUs, with its seat what must have them anew."""
        for worker in called(seen, workers, self.world.in_flight):
            if worker.state is WorkerState.PAUSED:
                self._change(worker, Cause.WOKEN)
            elif worker.state is WorkerState.SLEEPING and seen.spent is None:
                self._called.add(worker.id)

    def share(self) -> Pieces[None]:
        """Settle who may run on which GPUs, and have the victims leave."""
        contest = yield from contesting(self.world, self.awake, self.decisions, self._by_endpoint)
        allocation = yield from allocating(contest, self.world.sharing)
        self.sharing = brought_home(allocation, self.world)
        self._ask_at(self.sharing.ask_again_at_s)
        self._granted = Granted(self.world, self.sharing)
        if self.world.now_s < self.world.no_shrink_until_s:
            self._ask_at(self.world.no_shrink_until_s if self.sharing.reclaims else None)
            return
        planned_mib = 0
        for reclaim in self.sharing.reclaims:
            worker = self.world.workers[reclaim.worker_id]
            asleep = instead_of_leaving(self.world, worker, planned_mib)
            if asleep is None:
                self.retire(worker, Cause.RECLAIMED)
            else:
                planned_mib += self.world.endpoints[worker.endpoint].endpoint.spec.sleep.host_memory_mib
                self.changes.append(asleep)

    def seat(self, seen: EndpointSeen) -> None:
        """Bring one endpoint's workers to the revision they should have, and to their GPUs."""
        endpoint, decision = seen.endpoint, self.decisions[seen.endpoint.name]
        workers = self._by_endpoint.get(endpoint.name)
        if (
            not workers
            and not decision.desired
            and not decision.wished
            and decision.reason not in (ScaleReason.PAUSED, ScaleReason.BUDGET_SPENT)
            and not is_rolling(seen)
        ):
            return
        workers = workers or []
        if seen.resting and as_they_should_be(seen, workers):
            return
        current = [w for w in workers if w.revision == endpoint.revision and w.state in COUNTED]
        self._roll(seen, workers, decision)
        for worker in workers:
            if worker.state in _WAITING:
                self._seat(seen, worker)
            elif worker.id in self._called:
                self._seat_sleeper(seen, worker)
        self._claim_for_new(seen)
        self.waits[endpoint.name].extend(
            unmet(seen, current, decision, engine_up=self.world.engine_up, now_s=self.world.now_s)
        )

    def _grow(self, seen: EndpointSeen, workers: list[Worker], current: list[Worker], gap: int) -> None:
        for worker in revivable(workers, seen.endpoint.revision)[:gap]:
            self._change(worker, Cause.DEMAND_RETURNED)
            gap -= 1
        if not seen.starts.may_start(now_s=self.world.now_s):
            return
        if seen.starts.failures:  # half open: one start shows whether more make sense
            gap = 0 if any(w.state in STARTING_UP for w in current) else min(gap, 1)
        self.changes.extend(NewWorker(endpoint=seen.endpoint.name) for _ in range(gap))

    def _shrink(
        self, seen: EndpointSeen, current: list[Worker], surplus: int, decision: ScaleDecision
    ) -> None:
        world = self.world
        paused = decision.reason is ScaleReason.PAUSED
        if world.now_s < world.no_shrink_until_s and not paused:
            self._ask_at(world.no_shrink_until_s)
            return
        cause = Cause.SCALE_DOWN if seen.load else Cause.IDLE
        for number, worker in enumerate(victims(current, world.in_flight)[:surplus], start=1):
            if worker.ready_s is not None and not paused:
                patience_s = seen.last_patience_s if number == len(current) else seen.patience_s
                stays_until_s = worker.ready_s + patience_s
                if world.now_s < stays_until_s:
                    self._ask_at(stays_until_s)
                    continue
            self.retire(worker, cause)

    def _roll(self, seen: EndpointSeen, workers: list[Worker], decision: ScaleDecision) -> None:
        """Move the endpoint on towards another revision, and have workers of others leave."""
        scene = scene_of(seen, workers, decision.desired, self.world)
        moves = roll(scene, engine_up=self.world.engine_up, place=lambda needs: self._placement(seen, needs))
        self._ask_at(moves.ask_again_at_s)
        if moves.rollout is not None:
            self.rollouts[seen.endpoint.name] = moves.rollout
        if moves.makes is not None:
            self.changes.append(NewWorker(endpoint=seen.endpoint.name, revision=moves.makes))
        for worker in moves.leave:
            self.retire(worker, Cause.NEW_REVISION)
        self.waits[seen.endpoint.name].extend(moves.waits)

    def _seat(self, seen: EndpointSeen, worker: Worker) -> None:
        """Give a waiting worker its GPUs once its image is here."""
        needs, image_present = seat_of(seen, worker)
        if needs is None:
            return
        able = self._claimable(seen) if worker.revision == seen.endpoint.revision else []
        if not image_present and not able:
            if worker.state is WorkerState.PENDING and self.world.engine_up:
                self._change(worker, Cause.IMAGE_ABSENT)
            return
        placement = self._room(seen, needs)
        if placement is None:
            return
        standby = self._standby_at(able, placement)
        if standby is not None:
            self._take(seen, Placement(gpu_uuids=standby.gpu_uuids))
            self.changes.append(ClaimStandby(standby_id=standby.id, replaces=worker.id))
        elif image_present:
            self._take(seen, placement)
            self.changes.append(
                WorkerEvent(
                    worker_id=worker.id,
                    cause=Cause.GPUS_RESERVED,
                    gpu_uuids=placement.gpu_uuids,
                    gpu_slice=placement.gpu_slice,
                )
            )

    def _seat_sleeper(self, seen: EndpointSeen, worker: Worker) -> None:
        """Give a sleeping worker its own GPUs back; one that gets others starts cold there."""
        placement = self._room(seen, seen.endpoint.spec.gpus)
        if placement is None:
            return
        if worker.gpu_uuids and self._standby_at([worker], placement) is None:
            self._change(worker, Cause.UNWANTED)
            return
        self._take(seen, Placement(gpu_uuids=worker.gpu_uuids))
        self.changes.append(
            WorkerEvent(worker_id=worker.id, cause=Cause.GPUS_RESERVED, gpu_uuids=worker.gpu_uuids)
        )

    def _claim_for_new(self, seen: EndpointSeen) -> None:
        """Have standbys become workers instead of new ones, where their GPUs are to be had now."""
        if not self._claimable(seen):  # and so on most boxes: comparing every change with it would cost
            return
        for new in [c for c in self.changes if c == NewWorker(endpoint=seen.endpoint.name)]:
            able = self._claimable(seen)
            placement = self._room(seen, seen.endpoint.spec.gpus) if able else None
            standby = self._standby_at(able, placement) if placement else None
            if standby is None:
                return
            self._take(seen, Placement(gpu_uuids=standby.gpu_uuids))
            self.changes.remove(new)
            self.changes.append(ClaimStandby(standby_id=standby.id))

    def _room(self, seen: EndpointSeen, needs: GpuNeeds) -> Placement | None:
        """The GPUs that a start of this endpoint could have now; explains why if there are none."""
        if not self.world.engine_up:
            return None
        name, placement = seen.endpoint.name, self._placement(seen, needs)
        if isinstance(placement, WaitReason):
            self.waits[name].append(placement)
            return None
        box, own = self._starting.total(), self._starting[name]
        if box >= self.world.starts_max or own >= self.world.endpoint_starts_max:
            self.waits[name].append(start_limit(self.world, box=box, endpoint=own))
            return None
        return placement

    def _take(self, seen: EndpointSeen, placement: Placement) -> None:
        name = seen.endpoint.name
        self._starting[name] += 1
        self._granted.book(name, placement)
        self._held_by.update(dict.fromkeys(placement.gpu_uuids, name))

    def _claimable(self, seen: EndpointSeen) -> list[Standby]:
        standbys = self.world.standing.standbys.values()
        able = claimable(standbys, seen.endpoint.name, seen.endpoint.revision, seen.wake_times.usual_s)
        return [standby for standby in able if standby.id not in self._claimed]

    def _standby_at(self, able: Sequence[PinnedT], placement: Placement) -> PinnedT | None:
        """The standby to claim: one made for the GPUs granted, else one whose own are free as well."""
        others = (self._granted.uuids() | set(self.sharing.claimed)) - set(placement.gpu_uuids)
        healthy = {s.gpu.uuid for s in self.world.gpus if s.health is GpuHealth.HEALTHY}
        free = healthy - others - set(self._held_by)
        standby = to_claim(able, placement.gpu_uuids, free=free)
        if standby is not None:
            self._claimed.add(standby.id)
        return standby

    def _placement(self, seen: EndpointSeen, needs: GpuNeeds) -> Placement | WaitReason:
        """What the sharing granted; beside workers of another revision, also what nobody claims."""
        name = seen.endpoint.name
        granted = self._granted.next_of(name)
        if granted is not None and needs == seen.endpoint.spec.gpus:
            return granted
        replacing = any(w.revision != seen.endpoint.revision for w in self._by_endpoint[name])
        if needs.count == 0 or replacing or is_rolling(seen):
            claimed = self.sharing.claimed.items()
            others = {uuid: whose for uuid, names in claimed for whose in names if whose != name}
            return place(needs, self.world.gpus, others | self._held_by, self._granted.left_for(name))
        return self.sharing.waits.get(name) or _NOT_ITS_TURN

    def stand_by(self) -> None:
        """Decide about idle workers and standbys, once nothing is left to do for those that serve."""
        if self.changes:
            return
        steps = plan_steps(self.world, self._by_endpoint)
        self._ask_at(steps.ask_again_at_s)
        for name, wait in steps.waits:
            self.waits[name].append(wait)
        if steps.events:
            self.changes.extend(steps.events)
            return
        ladder = plan_ladder(self.world, self._held_by)
        self.changes.extend(ladder.changes)
        for name, wait in ladder.waits.items():
            self.waits[name].append(wait)
        self._ask_at(ladder.ask_again_at_s)

    # -- one worker ----------------------------------------------------------------------------

    def retire(self, worker: Worker, cause: Cause) -> None:
        """Send a worker on its way out, if it is not already."""
        if worker.state in (WorkerState.PENDING, WorkerState.PULLING):
            self._change(worker, Cause.UNWANTED)
        elif worker.state in COUNTED:
            self._change(worker, cause)

    def progress(self, worker: Worker) -> None:
        """Move a worker on whose time has come."""
        events, ask_again_at_s = due(worker, self.world, self._sick)
        self.changes.extend(events)
        self._ask_at(ask_again_at_s)

    def _change(self, worker: Worker, cause: Cause) -> None:
        self.changes.append(WorkerEvent(worker_id=worker.id, cause=cause))

    def _ask_at(self, at_s: float | None) -> None:
        if at_s is not None and (self.ask_again_at_s is None or at_s < self.ask_again_at_s):
            self.ask_again_at_s = at_s

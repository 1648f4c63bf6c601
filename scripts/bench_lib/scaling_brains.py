"""Who decides in the simulated box: gpud's own core, and literal rules to stand beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.allocation import AllocationMemory, Contest, allocate
from gpud.core.averages import ArrivalCount, LoadAverage, usual_service_s
from gpud.core.demand import LoadWindow
from gpud.core.endpoint import GpuNeeds
from gpud.core.gpu import Gpu, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.pacing import Pace, PaceMemory, ScaleDecision, decide
from gpud.core.policies import (
    PANIC_WINDOW_S,
    STABLE_WINDOW_S,
    AnyRule,
    Demand,
    QueueDelay,
    arrival_window_s,
    available_in_s,
    ready_in_s,
)
from gpud.core.reclaim import Claimant, Tenant, TenantPhase

if TYPE_CHECKING:
    from bench_lib.scaling_sim import Box, Line, SimWorker

IDLE_S = 60.0
TARGET_WAIT_S = 4.0


@dataclass(slots=True)
class _Memory:
    average: LoadAverage = field(default_factory=LoadAverage)
    arrivals: ArrivalCount = field(default_factory=ArrivalCount)
    arrived: int = 0
    window: LoadWindow = field(default_factory=LoadWindow)
    pace: PaceMemory = field(default_factory=PaceMemory)


class GpudBrain:
    """The product's functions: `pacing.decide` for each endpoint, then `allocation.allocate`.

    Args:
        rules: Of every endpoint.
        parallel_starts: Of one endpoint at a time; 0 for no limit.
        quantum_s: 0 for the product's own.
    """

    def __init__(self, *rules: AnyRule, parallel_starts: int = 0, quantum_s: float = 0.0) -> None:
        self.rules = rules or (QueueDelay(),)
        self.parallel_starts = parallel_starts
        self.quantum_s = quantum_s
        self.memories: dict[str, _Memory] = {}
        self.allocation = AllocationMemory()

    def decide(self, box: Box) -> None:
        decisions = {name: self._scale(box, line) for name, line in box.lines.items()}
        for name, decision in decisions.items():
            _shrink(box, name, decision.desired)
        answer = allocate(self._contest(box, decisions), self.allocation)
        self.allocation = answer.memory
        for grant in answer.grants:
            starting = sum(not w.ready(box.now_s) for w in box.of(grant.endpoint))
            if self.parallel_starts and starting >= self.parallel_starts:
                continue
            if len(box.of(grant.endpoint)) < decisions[grant.endpoint].desired:
                box.start(grant.endpoint, tuple(int(uuid) for uuid in grant.gpu_uuids))
        workers = {w.number: w for w in box.workers}
        for reclaim in answer.reclaims:
            box.reclaims += 1
            box.drain(workers[int(reclaim.worker_id)])

    def _scale(self, box: Box, line: Line) -> ScaleDecision:
        memory = self.memories.setdefault(line.load.name, _Memory())
        workers, now_s = box.of(line.load.name), box.now_s
        in_flight = box.in_flight(line.load.name)
        load, cold_s = len(line.queue) + in_flight, line.cold_start_s
        service_s = usual_service_s(line.service_samples_s)
        memory.average = memory.average.observed(load, at_s=now_s, span_s=STABLE_WINDOW_S)
        arrived, memory.arrived = line.next_arrival - memory.arrived, line.next_arrival
        span_s = arrival_window_s(cold_s)
        memory.arrivals = memory.arrivals.observed(arrived, at_s=now_s, span_s=span_s)
        memory.window = memory.window.observed(load, at_s=now_s, span_s=IDLE_S)
        demand = Demand(
            waiting=len(line.queue),
            in_flight=in_flight,
            oldest_wait_s=now_s - line.queue[0] if line.queue else 0.0,
            load_stable=memory.average.average(now_s=now_s, window_s=STABLE_WINDOW_S),
            load_panic=memory.average.average(now_s=now_s, window_s=PANIC_WINDOW_S),
            load_peak=memory.window.peak(now_s=now_s, span_s=IDLE_S),
            arrivals=memory.arrivals.count(now_s=now_s, window_s=span_s),
            observed_s=memory.arrivals.observed_s(now_s=now_s),
            service_s=service_s,
            cold_start_s=cold_s,
            available_in_s=tuple(
                available_in_s(in_flight=int(w.busy(now_s)), concurrency=1, service_s=service_s)
                if w.ready(now_s)
                else ready_in_s(age_s=now_s - w.started_s, cold_start_s=cold_s)
                for w in workers
            ),
            ready=sum(w.ready(now_s) for w in workers),
        )
        pace = Pace(rules=self.rules, max_workers=line.load.max_workers)
        decision, memory.pace = decide(pace, demand, memory.pace, workers=len(workers), now_s=now_s)
        return decision

    def _contest(self, box: Box, decisions: dict[str, ScaleDecision]) -> Contest:
        return Contest(
            claimants=tuple(self._claimant(box, line, decisions[name]) for name, line in box.lines.items()),
            tenants=tuple(_tenant(box, worker) for worker in box.workers),
            gpus=tuple(
                GpuStatus(gpu=Gpu(uuid=GpuUuid(str(i)), name="GPU", memory_mib=1, index=i))
                for i in range(box.gpus)
            ),
            now_s=box.now_s,
        )

    def _claimant(self, box: Box, line: Line, decision: ScaleDecision) -> Claimant:
        return Claimant(
            name=EndpointName(line.load.name),
            needed=decision.needed,
            desired=decision.desired,
            priority=line.load.priority,
            gpus=GpuNeeds(count=line.load.gpus),
            oldest_wait_s=box.now_s - line.queue[0] if line.queue else 0.0,
            cold_start_s=line.cold_start_s,
            quantum_s=self.quantum_s,
        )


class LiteralBrain:
    """Start one more each second while the oldest wait is too long; stop what idled for a minute.

    Args:
        one_at_a_time: Only when none is starting.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time

    def decide(self, box: Box) -> None:
        for name, line in box.lines.items():
            workers = box.of(name)
            for worker in workers:
                if _idle_s(worker, box.now_s) >= IDLE_S:
                    box.drain(worker)
            late = bool(line.queue) and (box.now_s - line.queue[0] > TARGET_WAIT_S or not workers)
            starting = any(not w.ready(box.now_s) for w in workers)
            room = len(box.of(name)) < line.load.max_workers and len(box.free) >= line.load.gpus
            if late and room and not (self.one_at_a_time and starting):
                box.start(name)


class RequestCountBrain:
    """As many workers as requests; stop what idled for a minute."""

    def decide(self, box: Box) -> None:
        for name, line in box.lines.items():
            for worker in box.of(name):
                if _idle_s(worker, box.now_s) >= IDLE_S:
                    box.drain(worker)
            wanted = min(len(line.queue) + box.in_flight(name), line.load.max_workers)
            while len(box.of(name)) < wanted and len(box.free) >= line.load.gpus:
                box.start(name)


class EvictIdleBrain:
    """gpud's own scaling, but GPUs change hands only when a worker is idle; the oldest wait first."""

    def __init__(self) -> None:
        self._scaling = GpudBrain()

    def decide(self, box: Box) -> None:
        decisions = {name: self._scaling._scale(box, line) for name, line in box.lines.items()}  # noqa: SLF001
        for name, decision in decisions.items():
            _shrink(box, name, decision.desired)
        waiting = [line for line in box.lines.values() if line.queue]
        for line in sorted(waiting, key=lambda line: line.queue[0]):
            name = line.load.name
            if len(box.of(name)) >= max(1, decisions[name].needed):
                continue
            if len(box.free) >= line.load.gpus:
                box.start(name)
                continue
            if any(w.draining for w in box.workers):
                continue
            idle = [w for w in box.workers if w.endpoint != name and _idle_s(w, box.now_s) >= 5.0]
            if idle:
                box.reclaims += 1
                box.drain(max(idle, key=lambda w: _idle_s(w, box.now_s)))


def _idle_s(worker: SimWorker, now_s: float) -> float:
    """How long a worker has been without a request; minus infinity while it has one or starts."""
    if not worker.ready(now_s) or worker.busy(now_s) or worker.draining:
        return -math.inf
    return now_s - worker.idle_since_s


def _shrink(box: Box, name: str, desired: int) -> None:
    """Drain surplus workers: the idle ones whose minute since readiness is over, longest idle first."""
    workers = box.of(name)
    surplus = len(workers) - desired
    if surplus <= 0:
        return
    free = [w for w in workers if not w.busy(box.now_s)]
    free.sort(key=lambda w: (w.ready(box.now_s), -w.started_s if not w.ready(box.now_s) else w.idle_since_s))
    for worker in free[:surplus]:
        if not worker.ready(box.now_s) or box.now_s >= worker.ready_s + IDLE_S:
            box.drain(worker)


def _tenant(box: Box, worker: SimWorker) -> Tenant:
    if worker.draining:
        phase = TenantPhase.DRAINING if worker.busy(box.now_s) else TenantPhase.LEAVING
    else:
        phase = TenantPhase.READY if worker.ready(box.now_s) else TenantPhase.STARTING
    return Tenant(
        worker_id=WorkerId(str(worker.number)),
        endpoint=EndpointName(worker.endpoint),
        gpu_uuids=tuple(GpuUuid(str(gpu)) for gpu in worker.gpus),
        phase=phase,
        busy=worker.busy(box.now_s),
        held_since_s=worker.started_s,
        ready_s=worker.ready_s,
        idle_since_s=worker.idle_since_s,
    )

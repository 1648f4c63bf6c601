"""The world as the sharing of GPUs sees it: who claims, who holds."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gpud.core.allocation import Contest
from gpud.core.pieces import at_once
from gpud.core.reclaim import Claimant, Tenant, TenantPhase
from gpud.core.stepping import staying_asleep
from gpud.core.worker import COUNTED, HOLDS_GPUS, STARTING_UP, Worker, WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpud.core.endpoint import ScalePolicy
    from gpud.core.ids import EndpointName, GpuUuid
    from gpud.core.pacing import ScaleDecision
    from gpud.core.pieces import Pieces
    from gpud.core.world import EndpointSeen, World

_WITHOUT_GPUS = frozenset({WorkerState.PENDING, WorkerState.PULLING, WorkerState.SLEEPING})
_COLD_START_DEFAULT_S = 60.0


def contest_of(
    world: World,
    decisions: Mapping[EndpointName, ScaleDecision],
    by_endpoint: Mapping[EndpointName, Sequence[Worker]],
) -> Contest:
    """Say who wants GPUs and who holds them."""
    return at_once(contesting(world, world.endpoints.values(), decisions, by_endpoint))


def contesting(
    world: World,
    awake: Iterable[EndpointSeen],
    decisions: Mapping[EndpointName, ScaleDecision],
    by_endpoint: Mapping[EndpointName, Sequence[Worker]],
) -> Pieces[Contest]:
    """Say it a claimant and a tenant at a time.

    Endpoints that neither want nor hold any are left out: on a large box that is most of them.

    Args:
        world: As it is.
        awake: Its endpoints, but for some that neither want nor hold any.
        decisions: How many workers each should have.
        by_endpoint: The workers there are.
    """
    claimants = []
    for seen in awake:
        name = seen.endpoint.spec.name
        workers, decision = by_endpoint.get(name, ()), decisions[name]
        if seen.endpoint.spec.gpus.count and (workers or decision.desired):
            claimants.append(_claimant(world, seen, decision, workers))
            yield
    tenants = []
    for worker in world.workers.values():
        if worker.gpu_uuids and worker.state in HOLDS_GPUS:
            tenants.append(_tenant(world, worker))
            yield
    return Contest(
        claimants=tuple(claimants),
        tenants=tuple(tenants),
        gpus=world.gpus,
        now_s=world.now_s,
        withheld_mib=withheld_mib(world),
    )


def withheld_mib(world: World) -> dict[GpuUuid, int]:
    """Say how much of each GPU no slice may have.

    That is the headroom and, beside other slices, what is in use beyond all reservations: a worker
    that takes more than it reserved, or somebody else's process. What is reserved and not used yet
    is not lent out.
    """
    reserved: dict[GpuUuid, int] = defaultdict(int)
    for worker in world.workers.values():
        if worker.gpu_slice is not None and worker.state in HOLDS_GPUS:
            for uuid in worker.gpu_uuids:
                reserved[uuid] += worker.gpu_slice.memory_mib
    withheld = {status.gpu.uuid: world.headroom_mib for status in world.gpus}
    for uuid, reserved_mib in reserved.items():
        if uuid in withheld:
            withheld[uuid] += max(0, world.used_mib.get(uuid, 0) - reserved_mib)
    return withheld


def _claimant(
    world: World, seen: EndpointSeen, decision: ScaleDecision, workers: Sequence[Worker]
) -> Claimant:
    spec, scale = seen.endpoint.spec, seen.endpoint.spec.scale
    holding = sum(w.state in COUNTED and w.state not in _WITHOUT_GPUS for w in workers)
    # A worker that could not start with GPUs makes nobody give way: those it has may stay.
    able = seen.image_present and world.engine_up and seen.starts.may_start(now_s=world.now_s)
    desired = max(0, decision.desired - staying_asleep(seen, workers, world.in_flight))
    most = desired if able else min(desired, holding)
    guaranteed = scale.guaranteed
    if scale.exclusive:
        guaranteed = max(guaranteed, min(holding, decision.desired))
    return Claimant(
        name=seen.endpoint.name,
        needed=min(decision.needed, most),
        desired=most,
        guaranteed=min(guaranteed, most),
        priority=_priority(scale, seen.oldest_wait_s),
        weight=scale.weight,
        gpus=spec.gpus,
        oldest_wait_s=seen.oldest_wait_s,
        cold_start_s=seen.cold_start_s,
        quantum_s=scale.quantum_s,
    )


def _priority(scale: ScalePolicy, oldest_wait_s: float) -> int:
    """Its priority, raised by one for each so long a wait where the spec says so."""
    if not scale.priority_aging_s:
        return scale.priority
    return scale.priority + int(oldest_wait_s // scale.priority_aging_s)


def _tenant(world: World, worker: Worker) -> Tenant:
    busy = bool(world.in_flight.get(worker.id))
    seen = world.endpoints.get(worker.endpoint)
    cold_start_s = seen.cold_start_s if seen else _COLD_START_DEFAULT_S
    if worker.state in STARTING_UP:
        phase, ready_s = TenantPhase.STARTING, max(world.now_s + 1.0, worker.since_s + cold_start_s)
        held_since_s = worker.since_s
    else:
        phase, ready_s = (
            _phase(worker, busy=busy),
            worker.since_s if worker.ready_s is None else worker.ready_s,
        )
        held_since_s = ready_s - cold_start_s
    return Tenant(
        worker_id=worker.id,
        endpoint=worker.endpoint,
        gpu_uuids=worker.gpu_uuids,
        phase=phase,
        busy=busy,
        memory_mib=worker.gpu_slice.memory_mib if worker.gpu_slice else 0,
        held_since_s=held_since_s,
        ready_s=ready_s,
        idle_since_s=max(ready_s, world.idle_since_s.get(worker.id, ready_s)),
    )


def _phase(worker: Worker, *, busy: bool) -> TenantPhase:
    match worker.state:
        case WorkerState.LOST:
            return TenantPhase.STUCK
        case WorkerState.DRAINING:
            return TenantPhase.DRAINING if busy else TenantPhase.LEAVING
        case WorkerState.READY | WorkerState.NOT_READY | WorkerState.PAUSED:
            return TenantPhase.READY
        case _:
            return TenantPhase.LEAVING

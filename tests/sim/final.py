"""What must be so once nothing goes wrong any more and nobody calls."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gpud.adapters.sqlite import metered_rows
from gpud.core.metering import BILLABLE
from gpud.core.standby import StandbyMode, StandbyState
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from tests.sim.box import Box
    from tests.sim.sim import Sim

LATE_NS = 60_000_000_000
"""Most that a worker may be billed past its end when the engine's word on it cannot be used, for
the wall clock was set or the machine restarted, and the daemon was killed before it had noticed."""


def check_calm(sim: Sim, *, late_ns: int = 0, answers_lost: bool = False) -> None:
    """Every request has ended, `min_workers` are left and nothing else, and the books are right.

    Args:
        sim: After a time of calm.
        late_ns: Most that a worker may be billed past its end.
        answers_lost: The engine's answers or events were lost, so gpud may not have known for a
            while that an address had gone from one container to another.
    """
    assert not sim.box.breaches, sim.box.breaches[0]
    [[faults]] = sim.box.database.execute("SELECT count(*) FROM event WHERE kind = 'daemon.plan_failed'")
    assert not faults, "The decisions failed and were survived; look for plan.failed above."
    check_requests(sim, answers_lost=answers_lost)
    _workers_are_the_least(sim)
    _standbys_are_as_asked(sim)
    _nothing_is_left_over(sim)
    check_books(sim, late_ns=late_ns)


def check_requests(sim: Sim, *, answers_lost: bool = False) -> None:
    """Each ended in exactly one way, and was given only to workers that were ready, and rightly."""
    for request in sim.requests:
        assert request.outcome is not None, f"{request} never ended."
        assert set(request.dispatched_to) <= {WorkerState.READY}, (
            f"{request} went to {request.dispatched_to}."
        )
        assert answers_lost or not request.misdelivered, f"{request} reached another worker's container."
    dispatcher = sim.up.dispatcher
    assert dispatcher.total_in_flight() == 0
    for name in sim.up.fleet.state.endpoints:
        load = dispatcher.take_load(name)
        assert (load.waiting, load.in_flight) == (0, 0), f"{name} still counts {load}."


def _workers_are_the_least(sim: Sim) -> None:
    state = sim.up.fleet.state
    serving = (WorkerState.READY, WorkerState.PAUSED)
    ready = Counter(w.endpoint for w in state.workers.values() if w.state in serving)
    for name, endpoint in state.endpoints.items():
        least = min(endpoint.spec.scale.guaranteed, endpoint.spec.scale.max_workers)
        waits = [wait.detail for wait in state.waits.get(name, ())]
        assert ready[name] == least, f"{name} has {ready[name]} ready workers, not {least}: {waits}"
    others = [f"{w.id} is {w.state}" for w in state.workers.values() if w.state not in serving]
    assert not others, f"Left over: {'; '.join(others)}."


def _standbys_are_as_asked(sim: Sim) -> None:
    state = sim.up.fleet.state
    busy = [f"{s.id} is {s.state}" for s in state.standbys.values() if s.state is not StandbyState.READY]
    assert not busy, f"Left over: {'; '.join(busy)}."
    kept = Counter((s.endpoint, s.rung.value) for s in state.standbys.values())
    serving = Counter(w.endpoint for w in state.workers.values())
    for name, endpoint in state.endpoints.items():
        policy, most = endpoint.spec.standby, endpoint.spec.scale.max_workers
        least = 0 if policy.mode is StandbyMode.NONE else min(policy.workers, max(most - serving[name], 0))
        if endpoint.spec.gpus.count:
            least = min(least, len(state.gpus) // endpoint.spec.gpus.count)
        if endpoint.image.pin not in state.images_present:
            continue  # It is pulled for a worker, not to have one stand by.
        waits = [wait.detail for wait in state.waits.get(name, ())]
        assert kept[name, policy.mode.value] == least, f"{name} keeps {dict(kept)}, not {least}: {waits}"


def _nothing_is_left_over(sim: Sim) -> None:
    """Containers, rows, leases and open segments are those of the workers that are there."""
    workers, database = sim.up.fleet.state.workers, sim.box.database
    containers = {worker_id: each.status for worker_id, each in sim.runtime.containers.items()}
    standbys = sim.up.fleet.state.standbys
    assert set(containers) == set(workers) | set(standbys), (
        f"Containers {containers}, workers {list(workers)}, standbys {standbys}."
    )
    kept = {row["id"] for row in database.execute("SELECT id FROM standby")}
    assert kept == set(standbys)
    live = {row["id"] for row in database.execute("SELECT id FROM worker WHERE state <> 'gone'")}
    assert live == set(workers)
    leased = {
        (row["gpu_uuid"], row["worker_id"])
        for row in database.execute("SELECT * FROM gpu_lease WHERE released_boot_ns IS NULL")
    }
    assert leased == {(uuid, worker.id) for worker in workers.values() for uuid in worker.gpu_uuids}
    metered = {
        row["worker_id"] for row in database.execute("SELECT * FROM usage_segment WHERE end_boot_ns IS NULL")
    }
    assert metered == set(workers)


def check_books(sim: Sim, *, late_ns: int = 0) -> None:
    """The audit finds nothing, and nobody is billed for longer than a container ran."""
    breaches = sim.do(sim.up.store.reads.audit())
    assert not breaches, breaches[0]
    now_ns = sim.do(_now(sim.box))
    ran_ns = ran_by_worker(sim.box, now_ns)
    for worker_id, billed_ns in billed_by_worker(sim.box, now_ns).items():
        over_ns = billed_ns - ran_ns[worker_id]
        assert over_ns <= late_ns, f"{worker_id} ran {ran_ns[worker_id]} ns and is billed {over_ns} ns more."


async def _now(box: Box) -> int:
    return box.clock.boot_ns()


def ran_by_worker(box: Box, now_ns: int) -> Counter[WorkerId]:
    """Nanoseconds each worker's container really ran, up to now."""
    ran_ns: Counter[WorkerId] = Counter()
    for each in box.lifetimes:
        ended_ns = now_ns if each.ended_ns is None else each.ended_ns
        ran_ns[each.worker_id] += ended_ns - each.started_ns
    return ran_ns


def billed_by_worker(box: Box, now_ns: int) -> Counter[WorkerId]:
    """Billable nanoseconds of each worker, up to now."""
    billed_ns: Counter[WorkerId] = Counter()
    for row in box.database.execute("SELECT * FROM usage_segment ORDER BY worker_id, seq"):
        segment = metered_rows.segment_of(row)
        end_ns = now_ns if segment.end_boot_ns is None else segment.end_boot_ns
        if segment.phase in BILLABLE:
            billed_ns[segment.worker_id] += end_ns - segment.start_boot_ns
    return billed_ns

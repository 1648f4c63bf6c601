from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.worker import Cause, WorkerEvent, WorkerState
from gpud.core.world import NewWorker, Plan
from gpud.errors import InvariantBroken, StorageFull
from gpud.fleet import deciding as module
from tests.unit.core.making import worker_id

if TYPE_CHECKING:
    from gpud.core.pieces import Pieces
    from gpud.core.worker import Worker
    from gpud.core.world import World
    from tests.sim.sim import Sim


def _ready(sim: Sim) -> Worker:
    sim.deploy("echo", ScalePolicy(min_workers=1, max_workers=1))
    sim.run_until(lambda: any(w.state is WorkerState.READY for w in sim.workers()), within_s=30)
    [ready] = sim.workers("echo")
    return ready


def test_a_change_returns_once_it_is_on_disk(sim: Sim) -> None:
    sim.box.disk.delay_s = lambda: 2.0
    began_s = sim.now_s
    sim.deploy("echo")
    assert sim.now_s - began_s >= 4.0
    assert sim.box.database.execute("SELECT count(*) FROM endpoint").fetchone()[0] == 1


def test_what_a_change_raises_is_the_askers_and_the_loop_goes_on(sim: Sim) -> None:
    def refuse() -> None:
        raise ValueError("not like this")

    with pytest.raises(ValueError, match="not like this"):
        sim.do(sim.up.fleet.reconciler.change(refuse))
    sim.deploy("echo")


def test_a_change_is_refused_while_nothing_can_be_written(sim: Sim) -> None:
    sim.box.disk.full = True
    sim.run(for_s=6)
    with pytest.raises(StorageFull):
        sim.deploy("echo")
    assert sim.up.fleet.state.endpoints == {}
    sim.box.disk.full = False
    sim.run(for_s=5)
    sim.deploy("echo")


def test_an_event_of_a_worker_that_is_gone_or_has_moved_on_is_nothing(sim: Sim) -> None:
    ready = _ready(sim)
    for each in (worker_id(99), ready.id):
        sim.up.fleet.reconciler.post(WorkerEvent(worker_id=each, cause=Cause.CONTAINER_STARTED))
    sim.run(for_s=1)
    assert sim.up.fleet.state.workers[ready.id].generation == ready.generation


def test_no_request_reaches_a_worker_that_the_same_round_began_to_drain(sim: Sim) -> None:
    ready = _ready(sim)
    sim.up.fleet.reconciler.post(WorkerEvent(worker_id=ready.id, cause=Cause.OPERATOR))
    requests = [sim.request("echo") for _ in range(5)]
    sim.run(for_s=30)
    assert {request.outcome for request in requests} == {"answered"}
    assert all(state is WorkerState.READY for request in requests for state in request.dispatched_to)


def test_a_worn_out_worker_is_drained_and_replaced(sim: Sim) -> None:
    worn = _ready(sim)
    sim.up.fleet.reconciler.worker_worn_out(worn.id, "Requests to it kept failing.")
    sim.run_until(lambda: worn.id not in sim.up.fleet.state.workers, within_s=60)
    sim.run_until(lambda: any(w.state is WorkerState.READY for w in sim.workers("echo")), within_s=60)
    assert [worker.id for worker in sim.workers("echo")] != [worn.id]
    rows = sim.box.database.execute("SELECT cause, detail FROM worker WHERE id = ?", (worn.id,)).fetchall()
    assert [row["detail"] for row in rows] == ["Requests to it kept failing."]


def test_rules_that_undo_each_other_end_the_daemon(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    sim.deploy("echo", ScalePolicy(max_workers=1000))

    def never_content(world: World) -> Pieces[Plan]:
        yield
        made = NewWorker(endpoint=EndpointName("echo"))
        return Plan(changes=(made,), decisions={}, waits={}, ask_again_at_s=world.now_s + 1)

    monkeypatch.setattr(module, "planning", never_content)
    with pytest.raises(BaseExceptionGroup) as caught:
        sim.run(for_s=60)
    assert caught.group_contains(InvariantBroken, match="did not settle")


def test_an_event_that_no_page_explains_is_a_bug(sim: Sim) -> None:
    with pytest.raises(InvariantBroken):
        sim.up.fleet.reconciler.record("worker.did_something", {})


def test_failed_starts_slow_down_and_a_ready_worker_clears_the_record(sim: Sim) -> None:
    sim.deploy("echo", ScalePolicy(min_workers=1, max_workers=1), env=(("EXIT_AT_START", "1"),))
    sim.run(for_s=20)
    record = sim.up.fleet.state.recall(EndpointName("echo")).starts
    assert 3 <= record.failures <= 6
    assert record.open
    for container in sim.runtime.containers.values():
        container.env.clear()
    sim.deploy("echo", ScalePolicy(min_workers=1, max_workers=1))
    sim.run(for_s=10)
    assert sim.up.fleet.state.recall(EndpointName("echo")).starts.failures == 0


def test_a_daemon_that_stops_keeps_its_workers_and_what_they_owe(sim: Sim) -> None:
    ready = _ready(sim)
    sim.run(for_s=7)
    sim.stop_daemon()
    assert sim.runtime.containers[ready.id].running
    beat = sim.box.database.execute("SELECT boot_ns FROM heartbeat").fetchone()[0]
    assert beat == pytest.approx(sim.now_s * 1e9, abs=1e6)


def test_a_daemon_that_drains_stops_every_worker_first(sim: Sim) -> None:
    _ready(sim)
    sim.stop_daemon(drain=True)
    assert sim.runtime.containers == {}
    live = sim.box.database.execute("SELECT count(*) FROM worker WHERE state <> 'gone'").fetchone()[0]
    assert live == 0

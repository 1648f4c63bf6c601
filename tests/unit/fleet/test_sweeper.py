from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.worker import Cause, WorkerState
from gpud.errors import DependencyDown
from gpud.ports.images import RegistryCredential
from tests.fakes.faults import Fault, FaultKind
from tests.fakes.runtime import FakeContainer
from tests.sim.clients import Outcome
from tests.unit.core.making import worker_id

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.core.worker import Worker
    from tests.sim.sim import Sim


def _ready(sim: Sim, *, keep: bool = False) -> Worker:
    sim.deploy("echo", ScalePolicy(min_workers=int(keep), max_workers=1, idle_timeout_s=3600))
    sim.request("echo")
    sim.run_until(lambda: any(w.state is WorkerState.READY for w in sim.workers()), within_s=30)
    [ready] = sim.workers("echo")
    return ready


def _ended(sim: Sim, before: Worker) -> dict[str, object]:
    """The row of a worker as it ended."""
    row = sim.box.database.execute("SELECT * FROM worker WHERE id = ?", (before.id,)).fetchone()
    return dict(row)


def test_an_event_tells_of_an_end_at_once(sim: Sim) -> None:
    before = _ready(sim)
    sim.ask(lambda: sim.runtime.crash(before.id, exit_code=7))
    sim.run(for_s=0.1)
    assert _ended(sim, before)["exit_code"] == 7


@pytest.mark.parametrize("removed", [True, False])
def test_without_any_event_an_end_is_found_within_a_sweep(sim: Sim, *, removed: bool) -> None:
    before = _ready(sim)
    sim.runtime.event_loss = 1.0
    sim.ask(lambda: sim.runtime.vanish(before.id) if removed else sim.runtime.crash(before.id))
    sim.run(for_s=16)
    assert before.id not in sim.up.fleet.state.workers
    told = [facts["cause"] for facts in sim.events("worker.failed")]
    assert told == [Cause.VANISHED if removed else Cause.EXITED]


def test_an_end_for_want_of_memory_is_told_as_such(sim: Sim) -> None:
    before = _ready(sim)
    sim.ask(lambda: sim.runtime.crash(before.id, out_of_memory=True))
    sim.run(for_s=1)
    [facts] = sim.events("worker.failed")
    assert facts["cause"] == Cause.OUT_OF_MEMORY
    assert "ran out of memory" in str(facts["detail"])
    assert "Last output: listening" in str(facts["detail"])


def test_a_listing_that_forgets_a_container_ends_no_worker(sim: Sim) -> None:
    before = _ready(sim)

    async def nothing() -> tuple[()]:
        return ()

    sim.runtime.list_workers = nothing  # type: ignore[method-assign]
    sim.run(for_s=60)
    assert sim.up.fleet.state.workers[before.id].state is WorkerState.READY


def test_a_container_with_other_gpus_than_its_lease_is_stopped(sim: Sim) -> None:
    before = _ready(sim)
    found = sim.runtime.containers[before.id]
    [other] = [uuid for uuid in sim.up.fleet.state.gpus if uuid not in before.gpu_uuids]
    found.launch = replace(found.launch, gpu_uuids=(other,))
    sim.run(for_s=30)
    assert before.id not in sim.runtime.containers
    assert [facts["cause"] for facts in sim.events("worker.failed")] == [Cause.INCONSISTENT]
    row = _ended(sim, before)
    assert (row["state"], row["failed"]) == ("gone", 0)


def _stray(sim: Sim, like: Worker) -> None:
    launch = replace(sim.runtime.containers[like.id].launch, worker_id=worker_id(7), gpu_uuids=())
    container = FakeContainer(launch=launch, created_ns=sim.ask(sim.box.clock.wall_ns), log="who am I\n")
    sim.runtime.containers[container.worker_id] = container


def test_a_container_that_no_row_explains_is_removed_after_a_minute(sim: Sim) -> None:
    _stray(sim, _ready(sim))
    sim.run(for_s=50)
    assert worker_id(7) in sim.runtime.containers
    sim.run(for_s=40)
    assert worker_id(7) not in sim.runtime.containers
    assert sim.events("worker.stray_removed") == [{"log_tail": "who am I\n"}]


def test_a_daemon_that_starts_removes_strays_at_once(sim: Sim) -> None:
    _stray(sim, _ready(sim))
    sim.restart()
    sim.run(for_s=1)
    assert worker_id(7) not in sim.runtime.containers


def test_a_stray_that_cannot_be_removed_holds_up_nobody_and_is_tried_again(sim: Sim) -> None:
    before = _ready(sim)
    _stray(sim, before)
    stuck = DependencyDown("The container is still being removed.")
    remove = sim.runtime.remove_worker

    async def remove_others(worker_id: WorkerId) -> None:
        if worker_id == stray:
            raise stuck
        await remove(worker_id)

    stray = worker_id(7)
    sim.runtime.remove_worker = remove_others  # type: ignore[method-assign]
    sim.restart()
    sim.run(for_s=90)
    assert sim.ask(sim.up.fleet.control.health).ready
    assert not sim.events("engine.lost")
    request = sim.request("echo")
    sim.run(for_s=5)
    assert request.outcome is Outcome.ANSWERED
    sim.runtime.remove_worker = remove  # type: ignore[method-assign]
    sim.run(for_s=30)
    assert stray not in sim.runtime.containers


def test_a_registry_password_that_cannot_be_decrypted_ends_no_daemon(sim: Sim) -> None:
    password = RegistryCredential(host="registry.example", username="me", password="secret")
    sim.do(sim.up.store.access.put_registry("hub", password, at_ms=0))
    sim.images.build("echo:1")
    sim.deploy("echo", ScalePolicy(max_workers=1))
    spec = replace(sim.spec("echo", gpus=1, image="echo:1"), registry="hub")
    sim.do(sim.up.fleet.control.deploy(spec))
    sim.box.database.execute("UPDATE registry SET password_sealed = zeroblob(32)")
    sim.request("echo")
    sim.run_until(lambda: any(w.state is WorkerState.READY for w in sim.workers()), within_s=30)
    [ready] = sim.workers("echo")
    sim.ask(lambda: sim.runtime.crash(ready.id, exit_code=7))
    sim.run(for_s=5)
    [facts] = sim.events("worker.failed")
    assert "Last output: listening" in str(facts["detail"])


def test_an_engine_that_goes_and_returns_is_told_once_each(sim: Sim) -> None:
    before = _ready(sim)
    sim.ask(sim.runtime.stop_engine)
    sim.run(for_s=120)
    assert not sim.ask(sim.up.fleet.control.health).ready
    assert sim.up.fleet.state.workers[before.id].state is WorkerState.READY, "traffic goes on"
    sim.ask(sim.runtime.start_engine)
    sim.run(for_s=10)
    assert sim.ask(sim.up.fleet.control.health).ready
    assert len(sim.events("engine.lost")) == len(sim.events("engine.returned")) == 1


def test_workers_that_ended_with_the_engine_are_replaced_at_once_without_backoff(sim: Sim) -> None:
    before = _ready(sim, keep=True)
    sim.ask(lambda: sim.runtime.stop_engine(containers_live=False))
    sim.run(for_s=2)
    sim.ask(sim.runtime.start_engine)
    sim.run(for_s=10)
    [after] = sim.workers("echo")
    assert after.id != before.id
    assert after.state is WorkerState.READY
    assert _ended(sim, before)["cause"] in ("released", "engine_restarted")
    assert not sim.ask(lambda: sim.up.fleet.control.endpoint("echo")).last_error


def test_events_that_stop_coming_are_asked_for_again(sim: Sim) -> None:
    before = _ready(sim)
    sim.ask(sim.runtime.cut_events)
    sim.run(for_s=10)
    sim.ask(lambda: sim.runtime.crash(before.id))
    sim.run(for_s=0.1)
    assert before.id not in sim.up.fleet.state.workers


def test_a_single_failed_look_is_made_good_by_the_next(sim: Sim) -> None:
    before = _ready(sim)
    sim.runtime.faults.inject("inspect_worker", Fault(kind=FaultKind.ERROR_BEFORE))
    sim.ask(lambda: sim.runtime.crash(before.id))
    sim.run(for_s=20)
    assert before.id not in sim.up.fleet.state.workers

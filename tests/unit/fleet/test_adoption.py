from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.worker import WorkerState
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from gpud.core.worker import Worker

_S = WorkerState


def _until(sim: Sim, state: WorkerState, *, boot_s: float = 5.0) -> Worker:
    """Deploy, call, and stop time when the worker comes to a state."""
    sim.images.push("registry.example/echo:1")
    sim.images.pull_s, sim.runtime.create_s, sim.runtime.boot_s, sim.runtime.stop_s = 5.0, 5.0, boot_s, 5.0
    sim.gpus.memory_return_s = 3.0
    scale = ScalePolicy(max_workers=1, idle_timeout_s=5)
    sim.deploy("echo", scale, image="registry.example/echo:1")
    sim.request("echo")
    sim.run_until(lambda: any(w.state is state for w in sim.workers()), within_s=60)
    [found] = sim.workers()
    return found


@pytest.mark.parametrize("state", [_S.PULLING, _S.CREATING, _S.STARTING, _S.READY, _S.STOPPING, _S.RELEASING])
def test_wherever_a_kill_finds_a_worker_it_goes_on_and_ends_as_it_should(
    sim: Sim, state: WorkerState
) -> None:
    before = _until(sim, state)
    sim.crash_daemon()
    sim.run(for_s=1)
    sim.restart()
    sim.run(for_s=120)
    assert sim.workers() == []
    assert sim.runtime.containers == {}
    assert sim.do(sim.up.store.reads.audit()) == ()
    rows = [tuple(row) for row in sim.box.database.execute("SELECT id, state, failed FROM worker")]
    assert rows == [(before.id, "gone", 0)]


def test_a_start_timeout_counts_over_a_kill() -> None:
    with Sim(settle_s=60.0) as sim:
        before = _until(sim, _S.STARTING, boot_s=1e9)
        sim.run(for_s=500)
        sim.restart()
        sim.request("echo")
        sim.run(for_s=99)
        assert before.id in sim.up.fleet.state.workers
        sim.run(for_s=30)
        assert before.id not in sim.up.fleet.state.workers


def test_what_was_ready_is_taken_over_and_that_is_told(sim: Sim) -> None:
    before = _until(sim, _S.READY)
    sim.crash_daemon()
    sim.run(for_s=2)
    sim.restart()
    sim.run(for_s=1)
    after = sim.up.fleet.state.workers[before.id]
    assert (after.state, after.adopted) == (_S.READY, True)
    [facts] = sim.events("worker.adopted")
    assert facts["state"] == "ready"
    assert 2000 <= int(str(facts["unsupervised_ms"])) <= 7100


def test_traffic_goes_on_though_the_engine_is_away_when_the_daemon_starts(sim: Sim) -> None:
    _until(sim, _S.READY)
    sim.crash_daemon()
    sim.ask(sim.runtime.stop_engine)
    sim.restart()
    request = sim.request("echo")
    sim.run(for_s=5)
    assert request.outcome == "answered"


def test_a_restart_of_the_machine_leaves_nothing(sim: Sim) -> None:
    before = _until(sim, _S.READY)
    sim.reboot()
    sim.run(for_s=60)
    assert sim.workers() == []
    assert sim.runtime.containers == {}
    row = sim.box.database.execute("SELECT state, cause FROM worker WHERE id = ?", (before.id,)).fetchone()
    assert tuple(row) == ("gone", "rebooted")
    assert sim.events("daemon.found_reboot") == [{"workers": 1}]
    assert sim.do(sim.up.store.reads.audit()) == ()


def test_a_daemon_killed_a_moment_after_its_first_start_leaves_a_store_the_next_can_use() -> None:
    for steps in range(0, 60, 3):
        with Sim(seed=steps) as sim:
            sim.deploy("echo", ScalePolicy(min_workers=1, max_workers=1))
            sim.run_steps(steps)
            sim.restart()
            sim.run(for_s=30)
            assert [worker.state for worker in sim.workers("echo")] == [_S.READY]
            assert len(sim.box.lifetimes) == 1

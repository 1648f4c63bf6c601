"""Whole stories of a box, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.core.endpoint import Limits, ScalePolicy
from gpud.core.ids import EndpointName, GpuUuid
from gpud.core.worker import Cause, WorkerState
from gpud.errors import InvariantBroken, NotFound
from tests.fakes.faults import Fault, FaultKind
from tests.sim.clients import Outcome
from tests.sim.final import billed_by_worker, check_calm, ran_by_worker
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gpud.core.ids import WorkerId
    from gpud.ports.containers import SeenContainer

_ONE = ScalePolicy(max_workers=1, idle_timeout_s=30)


def _now_ns(sim: Sim) -> int:
    async def now() -> int:
        return sim.box.clock.boot_ns()

    return sim.do(now())


def _is(sim: Sim, state: WorkerState, name: str = "echo") -> bool:
    return any(worker.state is state for worker in sim.workers(name))


def _ready_echo(sim: Sim, scale: ScalePolicy = _ONE) -> None:
    """Deploy `echo` and have one worker of it ready."""
    sim.deploy("echo", scale)
    sim.request("echo")
    sim.run_until(lambda: _is(sim, WorkerState.READY), within_s=60)


# -- requests -------------------------------------------------------------------------------------


def test_a_lone_request_is_billed_for_cold_start_run_and_idle_timeout(sim: Sim) -> None:
    sim.runtime.boot_s = 5
    sim.deploy("echo", ScalePolicy(max_workers=1, idle_timeout_s=30))
    request = sim.request("echo", takes_s=1)
    sim.run(for_s=3600)  # an hour of the box's time, milliseconds of yours
    assert request.outcome is Outcome.ANSWERED
    assert sim.workers("echo") == []
    # The worker answers from 5.0 s on; a probe finds that out within a hundredth of that.
    noticed_ms = (request.waited_s - 6) * 1000
    assert 0 <= noticed_ms <= 55
    assert sim.usage_ms("echo") == pytest.approx(36_000 + noticed_ms, abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_twenty_of_twenty_requests_held_over_a_cold_start_are_answered(seed: int) -> None:
    with Sim(seed) as sim:
        sim.runtime.boot_s = 20
        sim.deploy("echo", ScalePolicy(max_workers=1, concurrency=4, idle_timeout_s=30))
        requests = [sim.request("echo", takes_s=0.5) for _ in range(20)]
        sim.run(for_s=120)
        assert [request.outcome for request in requests] == [Outcome.ANSWERED] * 20
        assert all(request.cold for request in requests)
        check_calm(sim)


def test_a_request_whose_client_left_during_the_cold_start_is_never_dispatched(sim: Sim) -> None:
    sim.runtime.boot_s = 20
    sim.deploy("echo", _ONE)
    request = sim.request("echo", takes_s=1, patience_s=5)
    sim.run(for_s=120)
    assert request.outcome is Outcome.ABANDONED
    assert request.dispatched_to == []


def test_a_worker_that_became_ready_after_its_client_left_stays_for_the_idle_timeout(sim: Sim) -> None:
    sim.runtime.boot_s = 20
    sim.deploy("echo", ScalePolicy(max_workers=1, idle_timeout_s=30))
    sim.request("echo", takes_s=1, patience_s=15)
    sim.run_until(lambda: _is(sim, WorkerState.READY), within_s=30)
    ready_s = sim.now_s
    sim.run_until(lambda: not sim.workers("echo"), within_s=60)
    assert sim.now_s - ready_s == pytest.approx(30, abs=0.1)


def test_the_idle_timeout_counts_from_the_end_of_the_last_request(sim: Sim) -> None:
    _ready_echo(sim)
    sim.run(for_s=10)
    request = sim.request("echo", takes_s=17)
    sim.run_until(lambda: not sim.workers("echo"), within_s=120)
    assert request.answered_s is not None
    assert sim.now_s - request.answered_s == pytest.approx(30, abs=0.1)


# -- two endpoints, one GPU -----------------------------------------------------------------------


def test_an_endpoint_that_waits_for_a_gpu_gets_it_when_the_other_goes_idle(sim: Sim) -> None:
    sim.deploy("first", _ONE)
    sim.deploy("second", _ONE)
    sim.request("first", takes_s=5)
    sim.run(for_s=1)
    request = sim.request("second", takes_s=5)
    sim.run(for_s=1)
    assert [wait.reason for wait in sim.up.fleet.state.waits[EndpointName("second")]] == ["waiting_for_gpu"]
    sim.run(for_s=120)
    assert request.outcome is Outcome.ANSWERED
    check_calm(sim)


# -- kill -9 --------------------------------------------------------------------------------------


def test_a_killed_daemon_costs_no_cold_start(sim: Sim) -> None:
    _ready_echo(sim)
    [before] = sim.workers("echo")
    sim.crash_daemon()
    sim.run(for_s=3)
    sim.restart()
    request = sim.request("echo")
    sim.run(for_s=1)
    assert request.outcome is Outcome.ANSWERED
    assert [worker.id for worker in sim.workers("echo")] == [before.id]
    assert sim.workers("echo")[0].adopted


@pytest.mark.parametrize("seed", range(8))
def test_usage_equals_the_containers_lifetime_though_the_daemon_is_killed_again_and_again(seed: int) -> None:
    """Up to the moment in which gpud decided to stop it; from there on the worker pays nothing."""
    with Sim(seed, settle_s=1.0) as sim:
        sim.runtime.boot_s = 3
        _ready_echo(sim)
        for _ in range(10):
            sim.request("echo", takes_s=1)
            sim.run_steps(40 * seed)
            sim.crash_daemon()
            sim.run(for_s=0.7 * seed)
            sim.restart()
        sim.run_until(lambda: not sim.workers("echo"), within_s=300)
        now_ns = _now_ns(sim)
        assert billed_by_worker(sim.box, now_ns) == ran_by_worker(sim.box, now_ns)
        check_calm(sim)


def test_a_container_that_ended_while_the_daemon_was_away_is_billed_to_its_end(sim: Sim) -> None:
    _ready_echo(sim)
    [worker] = sim.workers("echo")
    sim.run(for_s=7)
    sim.crash_daemon()
    sim.run(for_s=4)
    sim.do(_crashing(sim, worker.id))
    sim.run(for_s=600)
    sim.restart()
    sim.run(for_s=60)
    now_ns = _now_ns(sim)
    assert billed_by_worker(sim.box, now_ns)[worker.id] == ran_by_worker(sim.box, now_ns)[worker.id]
    assert sim.workers("echo") == []
    check_calm(sim)


async def _crashing(sim: Sim, worker_id: WorkerId) -> None:
    sim.runtime.crash(worker_id)


async def _vanishing(sim: Sim, worker_id: WorkerId) -> None:
    sim.runtime.vanish(worker_id)


def test_a_container_removed_while_the_daemon_was_away_is_billed_to_the_last_heartbeat(sim: Sim) -> None:
    _ready_echo(sim)
    [worker] = sim.workers("echo")
    sim.run(for_s=7)
    sim.crash_daemon()
    sim.do(_vanishing(sim, worker.id))
    sim.run(for_s=600)
    sim.restart()
    sim.run(for_s=60)
    now_ns = _now_ns(sim)
    under_ns = ran_by_worker(sim.box, now_ns)[worker.id] - billed_by_worker(sim.box, now_ns)[worker.id]
    assert 0 <= under_ns <= 5_000_000_000
    estimated = sim.box.database.execute("SELECT count(*) FROM usage_segment WHERE estimated").fetchone()[0]
    assert estimated == 1
    check_calm(sim)


def test_a_restart_of_the_machine_ends_every_bill_at_the_last_heartbeat(sim: Sim) -> None:
    _ready_echo(sim)
    [worker] = sim.workers("echo")
    sim.run(for_s=17)
    sim.reboot()
    sim.run(for_s=60)
    now_ns = _now_ns(sim)
    under_ns = ran_by_worker(sim.box, now_ns)[worker.id] - billed_by_worker(sim.box, now_ns)[worker.id]
    assert 0 <= under_ns <= 5_000_000_000
    check_calm(sim)


def test_a_second_kill_before_the_engine_answered_bills_nobody_for_the_time_between(sim: Sim) -> None:
    _ready_echo(sim)
    [worker] = sim.workers("echo")
    sim.run(for_s=7)
    sim.crash_daemon()
    sim.do(_vanishing(sim, worker.id))
    sim.runtime.stop_engine()
    sim.restart()
    sim.run(for_s=300)
    sim.restart()
    sim.do(_engine_returns(sim))
    sim.run(for_s=60)
    now_ns = _now_ns(sim)
    assert billed_by_worker(sim.box, now_ns)[worker.id] <= ran_by_worker(sim.box, now_ns)[worker.id]
    check_calm(sim)


async def _engine_returns(sim: Sim) -> None:
    sim.runtime.start_engine()


def test_a_worker_taken_over_gets_no_request_before_it_has_answered_a_probe(sim: Sim) -> None:
    """Its container may have ended, and its address may be another endpoint's by now."""
    _ready_echo(sim)
    [worker] = sim.workers("echo")
    sim.crash_daemon()
    sim.do(_crashing(sim, worker.id))
    sim.restart()
    request = sim.request("echo")
    sim.run(for_s=60)
    assert request.outcome is Outcome.ANSWERED
    assert request.served_by != [worker.id]
    assert len(request.dispatched_to) == 1


# -- answers that are lost ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FaultKind.ERROR_AFTER, FaultKind.HANG_AFTER, FaultKind.HALFWAY])
def test_a_launch_whose_answer_was_lost_leaves_no_container_when_it_is_unwanted_then(
    sim: Sim, kind: FaultKind
) -> None:
    sim.runtime.faults.inject("start_worker", Fault(kind=kind))
    sim.deploy("echo", _ONE)
    sim.request("echo", patience_s=1)
    sim.run_until(lambda: _is(sim, WorkerState.CREATING), within_s=5)
    sim.delete("echo")
    sim.run(for_s=180)
    assert sim.runtime.containers == {}
    assert sim.workers() == []
    check_calm(sim)


def test_a_launch_whose_answer_was_lost_is_repeated_and_serves(sim: Sim) -> None:
    sim.runtime.faults.inject("start_worker", Fault(kind=FaultKind.ERROR_AFTER), times=2)
    sim.deploy("echo", _ONE)
    request = sim.request("echo")
    sim.run(for_s=60)
    assert request.outcome is Outcome.ANSWERED
    assert len(sim.box.lifetimes) == 1


def _answering(listing: tuple[SeenContainer, ...]) -> Callable[[], Awaitable[tuple[SeenContainer, ...]]]:
    async def list_workers() -> tuple[SeenContainer, ...]:
        return listing

    return list_workers


def test_a_look_from_before_its_start_says_nothing_about_a_worker(sim: Sim) -> None:
    """The engine's listing shows a container created and not started; meanwhile it has been started."""
    sim.runtime.create_s, sim.runtime.start_s = 1.0, 1.0
    sim.deploy("echo", _ONE)
    request = sim.request("echo")
    sim.run(for_s=1.5)  # created, not started
    sweeper, listing = sim.up.fleet._sweeper, sim.do(sim.runtime.list_workers())
    sim.runtime.list_workers = _answering(listing)  # type: ignore[method-assign, assignment]
    sim.run(for_s=1.0)
    assert _is(sim, WorkerState.READY)
    sim.do(sweeper.sweep())
    sim.run(for_s=1.0)
    assert request.outcome is Outcome.ANSWERED
    assert sim.events("worker.failed") == []


def test_a_stray_is_removed_though_the_wall_clock_was_set_back(sim: Sim) -> None:
    _ready_echo(sim)
    sim.box.clock.step_wall(-86_400)
    sim.reboot()
    sim.run(for_s=120)
    assert sim.runtime.containers == {}


def test_an_address_that_went_to_another_container_gets_no_request_of_the_first() -> None:
    """The engine gives the lowest free address; that its holder has ended was never told."""
    with Sim(gpus=2) as sim:
        _ready_echo(sim)
        [worker] = sim.workers("echo")
        sim.run(for_s=20)  # past a sweep, with the next one far off
        sim.runtime.event_loss = 1.0
        sim.do(_crashing(sim, worker.id))
        sim.runtime.boot_s = 1.0
        sim.deploy("other", _ONE)
        sim.request("other", takes_s=10)
        sim.run(for_s=1.5)
        [other] = sim.workers("other")
        assert other.address == worker.address
        request = sim.request("echo")
        sim.run(for_s=60)
        assert request.outcome is Outcome.ANSWERED
        check_calm(sim)


# -- the engine -----------------------------------------------------------------------------------


def test_an_engine_that_restarts_with_its_containers_is_no_failure_of_theirs(sim: Sim) -> None:
    _ready_echo(sim, ScalePolicy(min_workers=1, max_workers=1))
    sim.run(for_s=20)
    sim.do(_engine_restarts(sim))
    sim.run(for_s=1)
    sim.do(_engine_returns(sim))
    sim.run(for_s=30)
    assert _is(sim, WorkerState.READY)
    assert sim.up.fleet.state.recall(EndpointName("echo")).starts.failures == 0
    check_calm(sim)


async def _engine_restarts(sim: Sim) -> None:
    sim.runtime.stop_engine(containers_live=False)


def test_nobody_is_billed_for_a_container_that_ended_with_its_engine(sim: Sim) -> None:
    _ready_echo(sim)
    sim.run(for_s=10)
    sim.do(_engine_restarts(sim))
    sim.run(for_s=600)
    sim.do(_engine_returns(sim))
    sim.run(for_s=60)
    check_calm(sim, late_ns=0)


# -- the disk -------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_during_a_cold_start_loses_nothing(sim: Sim) -> None:
    sim.runtime.boot_s = 3
    sim.deploy("echo", _ONE)
    request = sim.request("echo", takes_s=1)
    sim.box.disk.full = True
    sim.run(for_s=5)
    assert request.outcome is None
    assert sim.runtime.containers == {}, "Nothing may be made that is not written down."
    sim.box.disk.full = False
    sim.run(for_s=60)
    assert request.outcome is Outcome.ANSWERED
    check_calm(sim)


def test_a_caller_that_leaves_while_the_disk_is_full_ends_no_daemon(sim: Sim) -> None:
    sim.deploy("echo", _ONE)
    sim.box.disk.full = True
    sim.request("echo")
    sim.run(for_s=2)

    async def leave() -> None:
        change = sim.loop.create_task(sim.up.fleet.control.retry(EndpointName("echo")))
        sim.loop.call_soon(change.cancel)
        sim.up.fleet.reconciler.wake()

    for _ in range(20):
        sim.do(leave())
        sim.run(for_s=0.1)
    sim.box.disk.full = False
    sim.run(for_s=60)
    check_calm(sim)


# -- deploys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [WorkerState.PULLING, WorkerState.CREATING, WorkerState.STARTING])
def test_a_new_revision_during_a_cold_start_serves_those_who_wait(sim: Sim, state: WorkerState) -> None:
    sim.images.push("registry.example/echo:1")
    sim.images.push("registry.example/echo:2")
    sim.images.pull_s, sim.runtime.create_s, sim.runtime.boot_s = 5, 5, 5
    sim.deploy("echo", _ONE, image="registry.example/echo:1")
    request = sim.request("echo")
    sim.run_until(lambda: _is(sim, state), within_s=60)
    sim.deploy("echo", _ONE, image="registry.example/echo:2")
    sim.run(for_s=60)
    assert request.outcome is Outcome.ANSWERED
    [served_by] = request.served_by
    row = sim.box.database.execute("SELECT revision FROM worker WHERE id = ?", (served_by,)).fetchone()
    assert row["revision"] == sim.up.fleet.state.endpoints[EndpointName("echo")].revision
    sim.run(for_s=120)
    check_calm(sim)


@pytest.mark.parametrize("state", [WorkerState.PULLING, WorkerState.CREATING, WorkerState.STARTING])
def test_a_worker_of_a_deleted_endpoint_goes_wherever_it_is(sim: Sim, state: WorkerState) -> None:
    sim.images.push("registry.example/echo:1")
    sim.images.pull_s, sim.runtime.create_s, sim.runtime.boot_s = 5, 5, 5
    sim.deploy("echo", _ONE, image="registry.example/echo:1")
    request = sim.request("echo")
    sim.run_until(lambda: _is(sim, state), within_s=60)
    sim.delete("echo")
    sim.run(for_s=60)
    assert (request.outcome, request.reason) == (Outcome.REFUSED, NotFound.slug)
    assert sim.workers() == []
    check_calm(sim)


def test_a_deleted_endpoint_lets_running_requests_finish(sim: Sim) -> None:
    _ready_echo(sim)
    request = sim.request("echo", takes_s=10)
    sim.run(for_s=1)
    sim.delete("echo")
    sim.run(for_s=5)
    assert _is(sim, WorkerState.DRAINING)
    sim.run(for_s=60)
    assert request.outcome is Outcome.ANSWERED
    check_calm(sim)


def test_a_request_that_outlasts_the_drain_timeout_of_a_deleted_endpoint_is_cut(sim: Sim) -> None:
    sim.deploy("echo", _ONE, limits=Limits(drain_timeout_s=20.0))
    request = sim.request("echo", takes_s=100)
    sim.run(for_s=1)
    sim.delete("echo")
    sim.run(for_s=19)
    assert request.outcome is None
    sim.run(for_s=2)
    assert request.outcome is Outcome.BROKEN


def test_an_endpoint_deployed_again_under_its_name_does_not_disturb_those_that_drain(sim: Sim) -> None:
    sim.deploy("echo", _ONE)
    old = sim.request("echo", takes_s=20)
    sim.run(for_s=1)
    sim.delete("echo")
    sim.run(for_s=1)
    sim.deploy("echo", _ONE, image="echo:1")
    new = sim.request("echo", takes_s=1)
    sim.run(for_s=120)
    assert (old.outcome, new.outcome) == (Outcome.ANSWERED, Outcome.ANSWERED)
    assert old.served_by != new.served_by
    check_calm(sim)


# -- health ---------------------------------------------------------------------------------------


def test_a_worker_that_drained_and_is_wanted_again_is_watched_again() -> None:
    with Sim(gpus=2) as sim:
        sim.deploy("echo", ScalePolicy(max_workers=2, concurrency=1, idle_timeout_s=5))
        sim.request("echo", takes_s=100)
        sim.request("echo", takes_s=100)
        sim.run(for_s=10)
        sim.rescale("echo", max_workers=1)
        sim.run(for_s=10)
        [draining] = [worker for worker in sim.workers("echo") if worker.state is WorkerState.DRAINING]
        sim.rescale("echo", max_workers=2)
        sim.request("echo", takes_s=100)
        sim.run(for_s=10)
        assert sim.up.fleet.state.workers[draining.id].state is WorkerState.READY
        sim.box.sick.add(draining.id)
        sim.run(for_s=30)
        assert sim.up.fleet.state.workers[draining.id].state is WorkerState.NOT_READY


def test_a_broken_invariant_ends_the_daemon(sim: Sim) -> None:
    _ready_echo(sim)
    [worker] = sim.workers("echo")
    sim.box.database.execute("UPDATE worker SET generation = 99 WHERE id = ?", (worker.id,))
    with pytest.raises(BaseExceptionGroup) as caught:
        sim.run(for_s=120)
    assert caught.group_contains(InvariantBroken)


# -- GPUs -----------------------------------------------------------------------------------------


def _gpu(number: int) -> GpuUuid:
    return GpuUuid(f"GPU-fake-{number}")


def test_a_fault_in_the_decisions_leaves_all_as_it_is_and_is_told_once(
    sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_world: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    _ready_echo(sim)
    before = [worker.id for worker in sim.workers("echo")]
    with monkeypatch.context() as patched:
        patched.setattr("gpud.fleet.deciding.planning", fail)
        served = sim.request("echo", takes_s=1)
        sim.run(for_s=120)  # four times its idle timeout
        assert served.outcome is Outcome.ANSWERED
        assert [worker.id for worker in sim.workers("echo")] == before
        assert len(sim.events("daemon.plan_failed")) == 1
    sim.run(for_s=120)
    assert sim.workers("echo") == []


def test_a_gpu_that_fell_off_the_bus_while_the_daemon_was_away_takes_its_worker_with_it() -> None:
    with Sim(gpus=2) as sim:
        _ready_echo(sim, ScalePolicy(min_workers=1, max_workers=1))
        [before] = sim.workers("echo")
        sim.crash_daemon()
        sim.gpus.lose(before.gpu_uuids[0])
        sim.restart()
        sim.run(for_s=60)
        [after] = sim.workers("echo")
        assert after.state is WorkerState.READY
        assert not set(after.gpu_uuids) & set(before.gpu_uuids)


def test_a_fault_of_a_gpu_that_gpud_does_not_know_ends_no_daemon(sim: Sim) -> None:
    sim.gpus.xid(GpuUuid("GPU-of-nobody"), 48)
    sim.run(for_s=60)
    assert sim.up.fleet.state.gpus.keys() == {_gpu(0)}


def test_a_restart_of_the_machine_clears_a_gpus_fault_and_leaves_the_operators_cordon() -> None:
    with Sim(gpus=2) as sim:
        sim.gpus.xid(_gpu(0), 48)
        sim.do(sim.up.fleet.control.set_cordon(_gpu(1), cordoned=True))
        sim.run(for_s=30)
        assert [str(status.health) for status in sim.up.fleet.state.gpus.values()] == [
            "unhealthy",
            "cordoned",
        ]
        sim.reboot()
        assert [str(status.health) for status in sim.up.fleet.state.gpus.values()] == ["healthy", "cordoned"]


def test_memory_that_does_not_come_back_quarantines_a_gpu_and_never_undoes_a_cordon(sim: Sim) -> None:
    sim.gpus.memory_return_s = 100
    _ready_echo(sim)
    sim.do(sim.up.fleet.control.set_cordon(_gpu(0), cordoned=True))
    sim.run(for_s=400)
    assert sim.workers() == []
    assert str(sim.up.fleet.state.gpus[_gpu(0)].health) == "cordoned"


def test_a_gpu_whose_memory_comes_back_late_returns_by_itself(sim: Sim) -> None:
    sim.gpus.memory_return_s = 30
    _ready_echo(sim)
    sim.run_until(lambda: not sim.workers(), within_s=120)
    assert str(sim.up.fleet.state.gpus[_gpu(0)].health) == "quarantined"
    request = sim.request("echo")
    sim.run(for_s=110)
    assert request.outcome is Outcome.ANSWERED


def test_a_long_grace_is_not_taken_for_an_engine_that_does_not_answer(sim: Sim) -> None:
    sim.deploy("echo", _ONE, limits=Limits(stop_grace_s=900), env=(("IGNORE_SIGTERM", "1"),))
    sim.request("echo")
    sim.run_until(lambda: _is(sim, WorkerState.STOPPING), within_s=60)
    sim.run(for_s=600)
    [worker] = sim.workers("echo")
    assert (worker.state, worker.cause) == (WorkerState.STOPPING, Cause.DRAINED)

"""Idle workers that step down, in virtual time: woken, ended on a rung, and met by the daemon's death."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.gpu import GpuHealth
from gpud.core.ids import EndpointName
from gpud.core.standby import Rung
from gpud.core.step_policy import PausePolicy, SleepPolicy, SleepPreset
from gpud.core.wanted import told
from gpud.core.worker import WorkerState
from tests.sim.clients import Outcome
from tests.sim.final import check_books, check_calm
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId

RUNGS = (Rung.PAUSED, Rung.SLEEPING)
_STATE = {Rung.PAUSED: WorkerState.PAUSED, Rung.SLEEPING: WorkerState.SLEEPING}
_ONE = ScalePolicy(max_workers=1, concurrency=4, idle_timeout_s=3600)


def _deploy(sim: Sim, rung: Rung, name: str = "echo", **facts: Any) -> None:
    policy: dict[str, Any] = (
        {"pause": PausePolicy(after_idle_s=10)}
        if rung is Rung.PAUSED
        else {"sleep": SleepPolicy(preset=SleepPreset.VLLM, after_idle_s=10, timeout_s=20)}
    )
    sim.deploy(name, facts.pop("scale", _ONE), **policy, **facts)


def _states(sim: Sim, name: str = "echo") -> set[WorkerState]:
    return {worker.state for worker in sim.up.fleet.state.workers.values() if worker.endpoint == name}


def _until(sim: Sim, state: WorkerState, name: str = "echo", *, within_s: float = 200.0) -> WorkerId:
    sim.run_until(lambda: state in _states(sim, name), within_s=within_s)
    workers = sim.up.fleet.state.workers.values()
    return next(w.id for w in workers if w.endpoint == name and w.state is state)


def _down(sim: Sim, rung: Rung, name: str = "echo") -> WorkerId:
    """Serve one request and wait until its worker stepped down."""
    sim.request(name, takes_s=0.1)
    return _until(sim, _STATE[rung], name)


@pytest.mark.parametrize("rung", RUNGS)
def test_twenty_of_twenty_requests_are_answered_by_the_worker_that_is_woken(rung: Rung) -> None:
    with Sim(3) as sim:
        _deploy(sim, rung)
        worker = _down(sim, rung)
        for _ in range(2):
            requests = [sim.request("echo", takes_s=0.5) for _ in range(20)]
            sim.run(for_s=8)
            assert [(r.outcome, set(r.served_by)) for r in requests] == [(Outcome.ANSWERED, {worker})] * 20
            assert _until(sim, _STATE[rung]) == worker
        assert len(sim.box.lifetimes) == 1
        assert len(sim.events("worker.woken")) == 2
        woken = sim.do(sim.up.store.reads.cold_starts("echo", limit=9))[:2]
        assert [(start.woken, told(start.wanted)) for start in woken] == [
            (rung, "1 request waited. Rule: concurrency.")
        ] * 2
        check_books(sim)


@pytest.mark.parametrize("rung", RUNGS)
def test_what_a_rung_holds_is_leased_and_billed_and_nothing_else(rung: Rung) -> None:
    with Sim(4) as sim:
        _deploy(sim, rung)
        worker = _down(sim, rung)
        before_ms = sim.usage_ms("echo")
        sim.run(for_s=1000)
        billed_s = (sim.usage_ms("echo") - before_ms) / 1000
        leases = sim.box.database.execute("SELECT * FROM gpu_lease WHERE released_boot_ns IS NULL").fetchall()
        in_use = sim.do(sim.gpus.usage(tuple(sim.up.fleet.state.gpus)))[0].used_mib
        if rung is Rung.PAUSED:
            assert billed_s == pytest.approx(1000, abs=16)
            assert len(leases) == 1
            assert in_use, "its memory stays"
            phases = sim.box.database.execute("SELECT phase FROM usage_segment WHERE end_boot_ns IS NULL")
            assert [row["phase"] for row in phases] == ["idle"]
        else:
            assert (billed_s, len(leases), in_use) == (0, 0, 0)
        assert _states(sim) == {_STATE[rung]}
        sim.request("echo")
        sim.run(for_s=5)
        assert sim.up.fleet.state.workers[worker].state is WorkerState.READY
        check_books(sim)


@pytest.mark.parametrize("knob", ["WAKE_FAILS", "WAKE_HANGS", "SLEEP_FAILS", "SLEEP_HANGS"])
def test_a_hook_that_fails_or_hangs_ends_the_worker_and_its_request_is_served_cold(knob: str) -> None:
    with Sim(6) as sim:
        _deploy(sim, Rung.SLEEPING, env=((knob, "1"),))
        first = sim.request("echo")
        if knob.startswith("WAKE"):
            worker = _until(sim, WorkerState.SLEEPING)
        else:
            sim.run_until(lambda: bool(sim.events("worker.step_failed")), within_s=60)
            worker = first.served_by[0]
        second = sim.request("echo")
        sim.run(for_s=60)
        assert (first.outcome, second.outcome) == (Outcome.ANSWERED, Outcome.ANSWERED)
        assert second.served_by != [worker]
        failed = sim.events("worker.step_failed")
        assert len(failed) >= 1
        sim.run(for_s=300)
        assert len(sim.events("worker.step_failed")) <= 3, "it is not tried again and again"
        check_books(sim)


def test_a_freeze_that_fails_leaves_the_worker_serving() -> None:
    with Sim(7) as sim:
        _deploy(sim, Rung.PAUSED, env=(("NEVER_FREEZES", "1"),))
        sim.request("echo")
        sim.run_until(lambda: bool(sim.events("worker.step_failed")), within_s=60)
        request = sim.request("echo")
        sim.run(for_s=2)
        assert request.outcome is Outcome.ANSWERED
        assert len(sim.box.lifetimes) == 1


def test_two_models_take_turns_on_one_gpu_by_sleeping() -> None:
    with Sim(8) as sim:
        sim.runtime.boot_s = 30
        scale = ScalePolicy(max_workers=1, concurrency=4, idle_timeout_s=3600, quantum_s=1)
        for name in ("left", "right"):
            _deploy(sim, Rung.SLEEPING, name, scale=scale)
        requests = []
        for number in range(8):
            requests.append(sim.request(("left", "right")[number % 2], takes_s=0.5))
            sim.run(for_s=70 if number < 2 else 8)
        assert [request.outcome for request in requests] == [Outcome.ANSWERED] * 8
        assert len(sim.box.lifetimes) == 2, "nobody starts cold again"
        assert max(r.answered_s - r.arrived_s for r in requests[2:] if r.answered_s) < 5
        check_books(sim)


def test_a_sleeper_whose_gpu_is_taken_starts_cold_on_another() -> None:
    with Sim(9, gpus=2) as sim:
        _deploy(sim, Rung.SLEEPING)
        worker = _down(sim, Rung.SLEEPING)
        sim.deploy("other", ScalePolicy(min_workers=1, max_workers=1))
        sim.run_until(lambda: WorkerState.READY in _states(sim, "other"), within_s=60)
        request = sim.request("echo")
        sim.run(for_s=30)
        assert request.outcome is Outcome.ANSWERED
        on_its_gpu = sim.box.lifetimes[0].gpu_uuids == sim.box.lifetimes[1].gpu_uuids
        assert (request.served_by != [worker]) == on_its_gpu
        check_books(sim)


@pytest.mark.parametrize("somebody_else", [False, True])
def test_what_a_sleeper_keeps_of_a_quarantined_gpu_does_not_hold_it_there(somebody_else: bool) -> None:
    with Sim(10) as sim:
        _deploy(sim, Rung.SLEEPING)
        worker = _down(sim, Rung.SLEEPING)
        (uuid,) = sim.up.fleet.state.workers[worker].gpu_uuids
        sim.ask(lambda: sim.gpus.start_process(uuid, sim.runtime.containers[worker].pid, used_mib=700))
        if somebody_else:
            sim.ask(lambda: sim.gpus.start_process(uuid, 99, used_mib=1))
        sim.up.fleet.gpu_keeper.mark(uuid, GpuHealth.QUARANTINED, "as told")
        sim.run(for_s=1)
        assert sim.up.fleet.state.gpus[uuid].health is GpuHealth.QUARANTINED
        sim.run(for_s=95)
        healed = sim.up.fleet.state.gpus[uuid].health is GpuHealth.HEALTHY
        assert healed is not somebody_else
        assert _states(sim) == {WorkerState.SLEEPING}


def test_what_coming_back_took_is_known_to_the_next_daemon() -> None:
    with Sim(12) as sim:
        _deploy(sim, Rung.PAUSED)
        for _ in range(4):
            sim.request("echo", takes_s=0.1)
            sim.run(for_s=30)
        before = sim.up.fleet.state.memory[EndpointName("echo")].wake_times
        assert len(before.seconds[Rung.PAUSED]) == 3
        assert before.usual_s(Rung.PAUSED) == sorted(before.seconds[Rung.PAUSED])[1]
        sim.crash_daemon()
        sim.restart()
        sim.run(for_s=1)
        after = sim.up.fleet.state.memory[EndpointName("echo")].wake_times
        assert after.revision == before.revision
        assert after.seconds[Rung.PAUSED][:3] == before.seconds[Rung.PAUSED], "and perhaps one more since"


def test_an_exhausted_budget_is_told_and_the_worker_stays_awake() -> None:
    with Sim(10) as sim:
        sleep = SleepPolicy(preset=SleepPreset.VLLM, after_idle_s=5, host_memory_mib=1 << 20)
        sim.deploy("echo", _ONE, sleep=sleep)
        sim.request("echo")
        sim.run(for_s=60)
        assert _states(sim) == {WorkerState.READY}
        (wait,) = sim.up.fleet.state.waits[next(iter(sim.up.fleet.state.waits))]
        assert (wait.reason, "standby.sleep_ram_mib" in wait.detail) == ("sleep_budget", True)


def test_a_worker_pauses_first_sleeps_later_and_ends_at_last() -> None:
    with Sim(11) as sim:
        scale = ScalePolicy(max_workers=1, idle_timeout_s=100)
        sleep = SleepPolicy(preset=SleepPreset.VLLM, after_idle_s=40)
        sim.deploy("echo", scale, pause=PausePolicy(after_idle_s=10), sleep=sleep)
        request = sim.request("echo")
        worker = _until(sim, WorkerState.PAUSED)
        assert request.answered_s is not None
        assert 9 < sim.now_s - request.answered_s < 20
        assert _until(sim, WorkerState.SLEEPING) == worker
        assert 39 < sim.now_s - request.answered_s < 60
        sim.run_until(lambda: not sim.up.fleet.state.workers, within_s=120)
        assert not sim.runtime.containers
        check_books(sim)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("seed", range(4))
def test_a_daemon_that_dies_while_a_worker_steps_down_or_up_leaves_nothing_behind(
    rung: Rung, seed: int
) -> None:
    with Sim(seed) as sim:
        _deploy(sim, rung)
        if seed % 2:
            _down(sim, rung)
            sim.request("echo", takes_s=0.2)
        else:
            sim.request("echo", takes_s=0.2)
            sim.run(for_s=9.9)
        sim.run_steps(seed * 37)
        sim.crash_daemon()
        sim.run(for_s=seed % 3)
        sim.restart()
        sim.run(for_s=30)
        requests = [sim.request("echo", takes_s=0.1) for _ in range(20)]
        sim.run(for_s=30)
        assert [request.outcome for request in requests] == [Outcome.ANSWERED] * 20
        check_books(sim)
        sim.delete("echo")
        sim.run(for_s=120)
        check_calm(sim)


@pytest.mark.parametrize("rung", RUNGS)
def test_workers_on_a_rung_end_with_their_revision_and_with_the_daemon(rung: Rung) -> None:
    with Sim(12) as sim:
        _deploy(sim, rung)
        worker = _down(sim, rung)
        _deploy(sim, rung, env=(("NEW", "1"),))
        sim.run(for_s=120)
        assert worker not in sim.runtime.containers
        _down(sim, rung)
        sim.stop_daemon(drain=True)
        assert not sim.runtime.containers

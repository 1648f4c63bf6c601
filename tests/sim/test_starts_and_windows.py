"""Starts that hang, and workers kept by the clock, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.endpoint import HealthCheck, ScalePolicy
from gpud.core.windows import WarmWindow
from gpud.core.worker import WorkerState
from tests.sim.clients import Outcome

if TYPE_CHECKING:
    from tests.sim.sim import Sim

# The simulated wall clock begins on 2023-11-14 at 22:13:20 UTC.
SOON = WarmWindow(start="30 22 * * *", duration_s=1800)
UNTIL_OPEN_S = 1000
ONE = ScalePolicy(max_workers=1, idle_timeout_s=30, warm_windows=(SOON,))


def _serves(sim: Sim, name: str) -> bool:
    return any(worker.state is WorkerState.READY for worker in sim.workers(name))


def _reason(sim: Sim, name: str) -> str:
    return sim.ask(lambda: sim.up.fleet.control.endpoint(name).scale_reason)


def test_a_start_without_any_sign_of_life_ends_by_its_stall_limit(sim: Sim) -> None:
    sim.deploy(
        "hung",
        env=(("NEVER_LISTEN", "1"), ("HANGS_AFTER_S", "20")),
        health=HealthCheck(start_timeout_s=600, stall_timeout_s=60),
    )
    sim.request("hung")
    sim.run_until(lambda: sim.events("worker.failed"), within_s=100)
    failed = sim.events("worker.failed")[0]
    assert failed["cause"] == "start_stalled"
    assert "health.stall_timeout_s" in str(failed["detail"])


def test_a_slow_start_that_works_on_is_waited_for(sim: Sim) -> None:
    sim.deploy("slow", env=(("BOOT_DELAY_S", "500"),), health=HealthCheck(stall_timeout_s=60))
    request = sim.request("slow")
    sim.run_until(lambda: request.outcome is not None, within_s=520)
    assert request.outcome is Outcome.ANSWERED
    assert not sim.events("worker.failed")


def test_an_engine_that_is_away_stalls_no_start(sim: Sim) -> None:
    sim.deploy(
        "slow",
        ScalePolicy(min_workers=1, max_workers=1),
        env=(("BOOT_DELAY_S", "400"), ("HANGS_AFTER_S", "50")),
        health=HealthCheck(stall_timeout_s=100),
    )
    sim.run(for_s=40)
    sim.runtime.stop_engine()
    sim.run(for_s=355)
    sim.runtime.start_engine()
    sim.run_until(lambda: _serves(sim, "slow"), within_s=30)
    assert not sim.events("worker.failed")


def test_a_window_has_a_worker_ready_and_lets_it_go_at_its_end(sim: Sim) -> None:
    sim.deploy("echo", ONE)
    sim.run(for_s=UNTIL_OPEN_S - 1)
    assert not sim.workers("echo")
    sim.run(for_s=3)
    assert _serves(sim, "echo")
    assert _reason(sim, "echo") == "warm_window"
    sim.run(for_s=1790)
    assert _serves(sim, "echo"), "half an hour, though the idle timeout is half a minute"
    sim.run(for_s=40)
    assert not sim.workers("echo")


def test_a_daemon_that_starts_within_a_window_knows_it(sim: Sim) -> None:
    sim.deploy("echo", ONE)
    sim.run(for_s=UNTIL_OPEN_S + 100)
    kept = sim.workers("echo")[0].id
    sim.restart()
    sim.run(for_s=100)
    assert [worker.id for worker in sim.workers("echo")] == [kept]
    assert _reason(sim, "echo") == "warm_window"


def test_a_windows_worker_lends_its_gpu_to_who_needs_it(sim: Sim) -> None:
    sim.deploy("echo", ONE)
    sim.deploy("other", ScalePolicy(max_workers=1, idle_timeout_s=30))
    sim.run(for_s=UNTIL_OPEN_S + 100)
    request = sim.request("other", takes_s=5)
    sim.run_until(lambda: request.outcome is not None, within_s=60)
    assert request.outcome is Outcome.ANSWERED
    sim.run_until(lambda: _serves(sim, "echo"), within_s=120)
    assert not sim.workers("other")


def test_an_image_that_is_listed_and_not_to_be_started_from_is_tried_ever_more_slowly(sim: Sim) -> None:
    sim.deploy("echo")
    sim.runtime.has_image = lambda _pin: False
    first = sim.request("echo")
    sim.run(for_s=60)
    assert len(sim.events("worker.requested")) <= 7, "1, 2, 4 ... s between them, 30 s at most here"
    assert first.outcome is Outcome.REFUSED
    sim.runtime.has_image = sim.images.has
    sim.run(for_s=40)
    late = sim.request("echo")
    sim.run(for_s=40)
    assert late.outcome is Outcome.ANSWERED


def test_one_removal_of_an_image_fails_the_starts_it_met_once(sim: Sim) -> None:
    scale = ScalePolicy(max_workers=3, concurrency=1)
    sim.images.push("echo:1")
    sim.runtime.create_s = 0.5
    sim.deploy("echo", scale, gpus=0, image="echo:1")
    requests = [sim.request("echo", takes_s=1) for _ in range(3)]
    sim.run_until(
        lambda: any(w.state is WorkerState.CREATING for w in sim.workers()), within_s=5, every_s=0.01
    )
    (endpoint,) = sim.up.fleet.state.endpoints.values()
    sim.ask(lambda: sim.images.evict(endpoint.image.pin))
    sim.run(for_s=20)
    assert "image_vanished" in {each["cause"] for each in sim.events("worker.stopped")}
    assert not sim.events("endpoint.circuit_opened")
    assert {request.outcome for request in requests} == {Outcome.ANSWERED}

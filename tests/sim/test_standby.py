"""Standbys in virtual time: woken, lost, and met by the daemon's death between any two of its turns."""

from __future__ import annotations

from typing import Any

import pytest

from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.standby import Rung, StandbyMode, StandbyPolicy, StandbyState
from gpud.core.worker import WorkerState
from gpud.ports.containers import ContainerStatus
from tests.fakes.tiers import FakeParkedTier
from tests.sim.clients import Outcome
from tests.sim.final import check_calm
from tests.sim.sim import Sim

_ONE = ScalePolicy(max_workers=1, idle_timeout_s=30)
RUNGS = (Rung.CREATED, Rung.PARKED)


def _deploy(sim: Sim, rung: Rung, name: str = "echo", scale: ScalePolicy = _ONE, **facts: Any) -> None:
    sim.deploy(name, scale, standby=StandbyPolicy(mode=StandbyMode(rung.value)), **facts)


def _stands_by(sim: Sim, name: str = "echo") -> str:
    def ready() -> bool:
        return any(
            s.state is StandbyState.READY and s.endpoint == name for s in sim.up.fleet.state.standbys.values()
        )

    sim.run_until(ready, within_s=60)
    return next(s.id for s in sim.up.fleet.state.standbys.values() if s.endpoint == name)


@pytest.mark.parametrize("rung", RUNGS)
def test_twenty_of_twenty_requests_are_answered_by_the_standby(rung: Rung) -> None:
    with Sim(3) as sim:
        sim.runtime.boot_s, sim.runtime.start_s = 2, 0.5
        _deploy(sim, rung, scale=ScalePolicy(max_workers=1, concurrency=4, idle_timeout_s=30))
        standby = _stands_by(sim)
        requests = [sim.request("echo", takes_s=0.5) for _ in range(20)]
        sim.run(for_s=120)
        assert [request.outcome for request in requests] == [Outcome.ANSWERED] * 20
        assert {lifetime.worker_id for lifetime in sim.box.lifetimes} == {standby}
        check_calm(sim)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_standby_holds_no_lease_has_nothing_on_the_gpu_and_is_not_billed(rung: Rung) -> None:
    with Sim(4) as sim:
        _deploy(sim, rung)
        _stands_by(sim)
        sim.run(for_s=3600)
        assert sim.usage_ms("echo") == 0
        assert not sim.box.lifetimes, "the application never ran"
        for table in ("gpu_lease", "usage_segment", "worker"):
            assert not sim.box.database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - names above
        sim.deploy("other", _ONE)
        request = sim.request("other", takes_s=1)
        sim.run(for_s=20)
        assert request.outcome is Outcome.ANSWERED, "the GPU is for whoever needs it"


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("seed", range(12))
def test_a_daemon_that_dies_while_a_standby_wakes_leaves_nothing_behind(rung: Rung, seed: int) -> None:
    with Sim(seed) as sim:
        sim.runtime.boot_s, sim.runtime.start_s, sim.runtime.create_s = 0.2, 0.1, 0.1
        _deploy(sim, rung)
        _stands_by(sim)
        sim.request("echo", takes_s=0.1)
        sim.run_steps(3 + 9 * seed)
        sim.crash_daemon()
        sim.restart()
        after = sim.request("echo", takes_s=0.1)
        sim.run(for_s=300)
        assert after.outcome is Outcome.ANSWERED
        check_calm(sim)


def test_what_a_daemon_triggered_and_could_not_write_down_is_gone_before_anybody_starts_on_its_gpu() -> None:
    with Sim(2) as sim:
        _deploy(sim, Rung.PARKED)
        standby = WorkerId(_stands_by(sim))
        sim.deploy("other", _ONE)
        sim.crash_daemon()
        sim.ask(lambda: sim.runtime.release(standby, {}))
        sim.run(for_s=5)
        sim.restart()
        other = sim.request("other", takes_s=0.1)
        sim.run(for_s=5)
        assert other.outcome is Outcome.ANSWERED
        assert not sim.events("gpu.health_changed"), "nobody was met on the GPU"
        (failed,) = sim.events("standby.failed")
        assert "triggered by a daemon that ended" in str(failed)
        sim.run(for_s=100)
        assert _stands_by(sim) != standby
        check_calm(sim)


def _unreadable(sim: Sim, why: str) -> None:
    (parked,) = (tier for tier in sim.box.tiers if isinstance(tier, FakeParkedTier))
    parked.unreadable = why


def test_a_standby_whose_files_cannot_be_read_keeps_no_daemon_from_starting() -> None:
    with Sim(12) as sim:
        _deploy(sim, Rung.PARKED)
        standby = WorkerId(_stands_by(sim))
        sim.deploy("other", _ONE)
        sim.crash_daemon()
        sim.ask(lambda: sim.runtime.release(standby, {}))
        _unreadable(sim, "[Errno 5] Input/output error")
        sim.restart()
        other = sim.request("other", takes_s=0.1)
        sim.run(for_s=60)
        assert other.outcome is Outcome.ANSWERED
        assert not sim.box.breaches, "nobody started beside what may have been triggered"
        assert not sim.events("gpu.health_changed"), "nobody was met on the GPU"
        assert standby not in sim.runtime.containers
        told = [facts["detail"] for facts in sim.events("standby.failed")]
        assert "Input/output error" in str(told[0])
        _unreadable(sim, "")
        sim.run(for_s=600)
        assert _stands_by(sim) != standby, "the rung is tried again"
        check_calm(sim)


def test_a_disk_that_goes_bad_under_parked_containers_ends_no_daemon() -> None:
    with Sim(13) as sim:
        _deploy(sim, Rung.PARKED)
        standby = WorkerId(_stands_by(sim))
        _unreadable(sim, "[Errno 5] Input/output error")
        sim.run(for_s=60)
        assert standby not in sim.runtime.containers
        request = sim.request("echo", takes_s=0.1)
        sim.run(for_s=60)
        assert request.outcome is Outcome.ANSWERED
        _unreadable(sim, "")
        sim.run(for_s=600)
        check_calm(sim)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("seed", range(8))
def test_a_daemon_that_dies_while_it_prepares_leaves_nothing_behind(rung: Rung, seed: int) -> None:
    with Sim(seed) as sim:
        sim.runtime.start_s, sim.runtime.create_s = 0.1, 0.1
        _deploy(sim, rung)
        sim.run_steps(2 + 4 * seed)
        sim.crash_daemon()
        sim.restart()
        sim.run(for_s=60)
        check_calm(sim)


def test_a_parked_container_that_dies_is_noticed_and_made_anew() -> None:
    with Sim(5) as sim:
        _deploy(sim, Rung.PARKED)
        first = _stands_by(sim)
        sim.ask(lambda: sim.runtime.crash(WorkerId(first)))
        sim.run(for_s=60)
        assert _stands_by(sim) != first
        check_calm(sim)


def test_a_request_that_meets_a_dead_standby_is_served_cold() -> None:
    with Sim(6) as sim:
        _deploy(sim, Rung.PARKED)
        first = _stands_by(sim)
        sim.runtime.event_loss = 1.0
        sim.ask(lambda: sim.runtime.crash(WorkerId(first)))
        request = sim.request("echo", takes_s=0.1)
        sim.run(for_s=5)
        assert request.outcome is Outcome.ANSWERED
        (ran,) = sim.box.lifetimes
        assert ran.worker_id == first, "the same worker, in a new container"
        assert sim.events("standby.failed")
        sim.run(for_s=120)
        check_calm(sim)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_reboot_ends_every_standby_and_they_are_made_anew(rung: Rung) -> None:
    with Sim(7) as sim:
        _deploy(sim, rung)
        before = _stands_by(sim)
        sim.reboot()
        sim.run(for_s=120)
        assert _stands_by(sim) != before
        check_calm(sim)


def test_an_engine_that_goes_and_takes_them_along_costs_no_fault() -> None:
    with Sim(8) as sim:
        _deploy(sim, Rung.PARKED)
        before = _stands_by(sim)
        sim.ask(lambda: sim.runtime.stop_engine(containers_live=False))
        sim.run(for_s=20)
        sim.runtime.start_engine()
        sim.run(for_s=30)
        assert _stands_by(sim) != before
        assert not sim.up.fleet.state.standby_faults


def test_a_new_revision_has_standbys_of_its_own() -> None:
    with Sim(9) as sim:
        _deploy(sim, Rung.PARKED)
        before = _stands_by(sim)
        _deploy(sim, Rung.PARKED, env=(("NEW", "1"),))
        sim.run(for_s=300)
        (kept,) = sim.up.fleet.state.standbys.values()
        assert kept.id != before
        assert sim.runtime.containers[kept.id].env["NEW"] == "1"
        check_calm(sim)


def test_a_drained_daemon_leaves_none() -> None:
    with Sim(10) as sim:
        _deploy(sim, Rung.PARKED)
        _stands_by(sim)
        sim.stop_daemon(drain=True)
        assert not sim.runtime.containers


def test_a_stopped_daemon_leaves_them_to_the_next() -> None:
    with Sim(11) as sim:
        _deploy(sim, Rung.PARKED)
        before = _stands_by(sim)
        sim.stop_daemon()
        sim.restart()
        sim.run(for_s=30)
        assert _stands_by(sim) == before
        (held,) = sim.runtime.containers.values()
        assert (held.status, held.held) == (ContainerStatus.RUNNING, True)
        request = sim.request("echo")
        sim.run_until(lambda: any(w.state is WorkerState.READY for w in sim.workers("echo")), within_s=10)
        sim.run(for_s=5)
        assert request.outcome is Outcome.ANSWERED


def test_nothing_is_prepared_from_an_image_that_is_gone_until_it_was_pulled_again() -> None:
    with Sim(9) as sim:
        sim.images.push("registry.example/echo:1")
        _deploy(sim, Rung.CREATED, image="registry.example/echo:1")
        first = _stands_by(sim)
        pin = sim.up.fleet.state.endpoints[EndpointName("echo")].image.pin
        sim.ask(lambda: sim.images.evict(pin))
        sim.ask(lambda: sim.runtime.vanish(WorkerId(first)))
        sim.run(for_s=60)
        assert len(sim.events("standby.failed")) <= 2
        request = sim.request("echo", takes_s=1)
        sim.run(for_s=120)
        assert request.outcome is Outcome.ANSWERED
        _stands_by(sim)
        check_calm(sim)

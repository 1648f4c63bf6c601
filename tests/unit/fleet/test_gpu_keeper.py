from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.core.gpu import GpuHealth
from gpud.errors import NotFound
from tests.fakes.gpus import fake_gpus

if TYPE_CHECKING:
    from gpud.core.gpu import GpuStatus
    from gpud.core.ids import GpuUuid
    from tests.sim.sim import Sim

_FIRST, _SECOND = (gpu.uuid for gpu in fake_gpus(2))


def _status(sim: Sim, uuid: GpuUuid = _FIRST) -> GpuStatus:
    return sim.up.fleet.state.gpus[uuid]


def _mark(sim: Sim, health: GpuHealth, reason: str = "as told") -> None:
    sim.up.fleet.gpu_keeper.mark(_FIRST, health, reason)
    sim.run(for_s=0.1)


def test_a_quarantined_gpu_returns_after_a_clean_minute(sim: Sim) -> None:
    _mark(sim, GpuHealth.QUARANTINED)
    began_s = sim.now_s
    sim.run_until(lambda: _status(sim).health is GpuHealth.HEALTHY, within_s=120)
    assert 60 <= sim.now_s - began_s <= 91


def test_a_quarantined_gpu_that_is_used_again_starts_its_minute_anew(sim: Sim) -> None:
    _mark(sim, GpuHealth.QUARANTINED)
    sim.run(for_s=50)
    sim.gpus.start_process(_FIRST, 99)
    sim.run(for_s=16)
    sim.ask(lambda: sim.gpus.end_process(99))
    sim.run(for_s=55)
    assert _status(sim).health is GpuHealth.QUARANTINED
    sim.run(for_s=40)
    assert _status(sim).health is GpuHealth.HEALTHY


@pytest.mark.parametrize("kept", [GpuHealth.CORDONED, GpuHealth.UNHEALTHY])
@pytest.mark.parametrize("seen", [GpuHealth.QUARANTINED, GpuHealth.HEALTHY])
def test_what_heals_by_itself_takes_no_place_of_what_needs_an_operator(
    sim: Sim, kept: GpuHealth, seen: GpuHealth
) -> None:
    _mark(sim, kept)
    _mark(sim, seen, "as seen")
    assert (_status(sim).health, _status(sim).reason) == (kept, "as told")


def test_an_unhealthy_gpu_does_not_heal_by_itself(sim: Sim) -> None:
    sim.gpus.lose(_FIRST)
    sim.run(for_s=20)
    sim.gpus.recover(_FIRST)
    sim.run(for_s=600)
    assert _status(sim).health is GpuHealth.UNHEALTHY
    sim.do(sim.up.fleet.control.set_cordon(_FIRST, cordoned=False))
    sim.run(for_s=60)
    assert _status(sim).health is GpuHealth.HEALTHY


def test_an_application_error_on_a_gpu_is_no_fault_of_it(sim: Sim) -> None:
    sim.gpus.xid(_FIRST, 31)
    sim.gpus.xid(_SECOND, 79)
    sim.run(for_s=20)
    assert [_status(sim, uuid).health for uuid in (_FIRST, _SECOND)] == [
        GpuHealth.HEALTHY,
        GpuHealth.UNHEALTHY,
    ]


def test_a_driver_that_hangs_is_said_and_takes_no_gpu_out(sim: Sim) -> None:
    sim.gpus.hang()
    sim.run(for_s=60)
    assert sim.ask(sim.up.fleet.control.health).parts["gpus"]
    assert _status(sim).health is GpuHealth.HEALTHY
    sim.gpus.resume()
    sim.run(for_s=60)
    assert not sim.ask(sim.up.fleet.control.health).parts["gpus"]


def test_a_gpu_that_appears_later_is_taken_in(sim: Sim) -> None:
    third = fake_gpus(3)[2]
    sim.gpus._gpus[third.uuid] = third
    sim.run(for_s=20)
    assert _status(sim, third.uuid).health is GpuHealth.HEALTHY


def test_only_a_gpu_that_is_there_can_be_cordoned(sim: Sim) -> None:
    with pytest.raises(NotFound, match="gpud gpu ls"):
        sim.do(sim.up.fleet.control.set_cordon(fake_gpus(9)[8].uuid, cordoned=True))


def test_a_daemon_that_starts_while_the_driver_hangs_learns_of_the_gpus_later(sim: Sim) -> None:
    sim.crash_daemon()
    sim.gpus.hang()
    sim.restart()
    assert sim.up.fleet.state.gpus == {}
    sim.gpus.resume()
    sim.run(for_s=40)
    assert set(sim.up.fleet.state.gpus) == {_FIRST, _SECOND}


def test_a_change_of_health_is_recorded_once(sim: Sim) -> None:
    _mark(sim, GpuHealth.QUARANTINED)
    _mark(sim, GpuHealth.QUARANTINED)
    told = [facts for facts in sim.events("gpu.health_changed") if facts["gpu_uuid"] == _FIRST]
    assert [facts["health"] for facts in told] == ["quarantined"]

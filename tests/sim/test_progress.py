"""What the watchdog is told: waiting without end is no progress, errors are."""

from __future__ import annotations

from tests.sim.sim import Sim


def _stuck(sim: Sim) -> str:
    async def ask() -> str:
        return sim.up.fleet.stuck(round_limit_s=30)

    return sim.do(ask())


def test_a_disk_that_never_answers_is_told_and_one_that_is_full_is_not() -> None:
    with Sim(1) as sim:
        sim.deploy("echo")
        sim.run(for_s=60)
        assert _stuck(sim) == ""
        sim.box.disk.full = True
        sim.run(for_s=120)
        assert _stuck(sim) == ""
        sim.box.disk.full = False
        sim.run(for_s=5)
        sim.box.disk.delay_s = lambda: 3600.0
        sim.request("echo", takes_s=1)
        sim.run(for_s=60)
        assert "disk" in _stuck(sim)
        sim.box.disk.delay_s = lambda: 0.0

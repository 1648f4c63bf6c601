"""Whole stories of a box, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.endpoint import ScalePolicy
from tests.sim.clients import Outcome

if TYPE_CHECKING:
    from tests.sim.sim import Sim


def test_a_lone_request_is_billed_for_cold_start_run_and_idle_timeout(sim: Sim) -> None:
    sim.runtime.boot_s = 5
    sim.deploy("echo", ScalePolicy(max_workers=1, idle_timeout_s=30))
    request = sim.request("echo", takes_s=1)
    sim.run(for_s=3600)  # an hour of the box's time, milliseconds of yours
    assert request.outcome is Outcome.ANSWERED
    assert sim.workers("echo") == []
    # The worker answers from 5.0 s on; a probe finds that out within a quarter of a second.
    noticed_ms = round((request.waited_s - 6) * 1000)
    assert 0 <= noticed_ms <= 250
    assert sim.usage_ms("echo") == 36_000 + noticed_ms

"""A replay with the settings that really ran comes close to what really happened.

What really happened is the whole daemon on a simulated box. Tolerances, with cold starts of 20 s: the same
number of requests; cold starts within one, or 10 %; GPU time within 5 %; the median wait within 0.5 s and the
95th percentile within 1 s. They cover what a replay leaves out: probes a quarter of a second apart, and
rounds at every change of the load.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gpud.adapters.cron_calendar import CronCalendar
from gpud.core.endpoint import PolicyName, ScalePolicy
from gpud.core.history import arrivals_of
from gpud.core.ids import EndpointName
from gpud.core.standby import StandbyMode, StandbyPolicy
from gpud.core.step_policy import PausePolicy, SleepPolicy, SleepPreset
from gpud.core.whatif import WhatIf, what_happened
from gpud.core.whatif_rungs import samples_of
from gpud.core.windows import WarmWindow
from gpud.fleet.history import WRITE_EVERY_S
from gpud.fleet.replay import replay
from tests.sim.clients import Outcome
from tests.sim.sim import Sim

if TYPE_CHECKING:
    from gpud.core import whatif
    from gpud.core.endpoint import Endpoint

ECHO = EndpointName("echo")
HOURS = 2
COLD_S = 20.0
POLICIES = {
    "default": ScalePolicy(max_workers=3),
    "one request a worker": ScalePolicy(max_workers=3, concurrency=1, idle_timeout_s=120),
    "queue delay": ScalePolicy(
        max_workers=3, concurrency=2, policy=PolicyName.QUEUE_DELAY, idle_timeout_s=30
    ),
    "kept": ScalePolicy(min_workers=1, max_workers=2, concurrency=2),
    "window": ScalePolicy(
        max_workers=2, concurrency=2, warm_windows=(WarmWindow(start="0 23 * * *", duration_s=2400),)
    ),
}


def _traffic(seed: int, hours: float) -> list[tuple[float, float]]:
    """Quiet stretches and busy ones: when requests come, and how long they take."""
    dice = random.Random(seed)
    requests, at_s = [], 5.0
    while at_s < hours * 3600 - 300:
        busy = dice.random() < 0.4
        until_s = min(at_s + dice.uniform(120, 600), hours * 3600 - 15)
        while (at_s := at_s + dice.expovariate(0.3 if busy else 0.01)) < until_s:
            requests.append((at_s, dice.uniform(1.0, 8.0)))
    return requests


def _live(
    sim: Sim, policy: ScalePolicy, seed: int, *, hours: float = HOURS, **rungs: Any
) -> tuple[WhatIf, whatif.Outcome]:
    """Run the daemon under the traffic; what its record says of it."""
    sim.runtime.boot_s = COLD_S
    sim.deploy("echo", policy, **rungs)
    began_ms = sim.ask(sim.box.clock.at_ms)
    for at_s, takes_s in _traffic(seed, hours):
        sim.run(for_s=max(0.0, at_s - sim.now_s))
        sim.request("echo", takes_s=takes_s)
    sim.run(for_s=hours * 3600 - sim.now_s)
    gpu_s = sim.usage_ns("echo") / 1e9
    until_ms = sim.ask(sim.box.clock.at_ms)
    sim.run(for_s=WRITE_EVERY_S + 10)
    assert all(request.outcome is Outcome.ANSWERED for request in sim.requests)
    reads, endpoint = sim.up.store.reads, sim.up.fleet.state.endpoints[ECHO]
    batches = sim.do(reads.arrivals(ECHO, since_ms=began_ms, until_ms=until_ms))
    starts = sim.do(reads.starts(ECHO, since_ms=began_ms, until_ms=until_ms))
    woken = sim.do(reads.starts(ECHO, since_ms=began_ms, until_ms=until_ms, woken=True))
    arrivals = arrivals_of(batches)
    assert sum(arrival.requests for arrival in arrivals) == len(sim.requests), "nothing is lost on the way"
    actual = what_happened(arrivals, cold_starts=len(starts), gpu_s=gpu_s, wakes=len(woken))
    question = WhatIf(
        endpoints=(endpoint,),
        gpus=tuple(sim.up.fleet.state.gpus.values()),
        batches=batches,
        starts=samples_of(starts, woken),
        since_ms=began_ms,
        until_ms=until_ms,
        box_starts=4,
        endpoint_starts=2,
    )
    return question, actual


RUNGS: dict[str, dict[str, Any]] = {
    "paused": {"pause": PausePolicy(after_idle_s=20)},
    "asleep": {"sleep": SleepPolicy(preset=SleepPreset.VLLM, after_idle_s=20)},
    "parked": {"standby": StandbyPolicy(mode=StandbyMode.PARKED)},
}
"""Fields of the spec that bring workers onto rungs; the policy is the same for all."""


@pytest.mark.parametrize("name", RUNGS)
def test_a_replay_goes_through_the_rungs_that_the_endpoint_has(name: str) -> None:
    with Sim(7, gpus=3, shuffle=False) as sim:
        sim.runtime.start_s = 3.0
        policy = ScalePolicy(max_workers=2, idle_timeout_s=200)
        question, actual = _live(sim, policy, 7, hours=0.7, **RUNGS[name])
        (told,) = replay(question, CronCalendar())
    assert (told.requests, told.unserved, actual.unserved) == (actual.requests, 0, 0)
    assert abs(told.cold_starts - actual.cold_starts) <= max(1, 0.1 * actual.cold_starts)
    assert abs(told.wakes - actual.wakes) <= max(1, 0.1 * actual.wakes)
    assert (actual.wakes >= 5) == (name != "parked")
    assert told.gpu_s == pytest.approx(actual.gpu_s, rel=0.05)
    assert told.wait_s_p50 == pytest.approx(actual.wait_s_p50, abs=0.5)
    assert told.wait_s_p95 == pytest.approx(actual.wait_s_p95, abs=1.0)


@pytest.mark.parametrize("name", POLICIES)
def test_a_replay_of_what_ran_comes_close_to_what_happened(name: str) -> None:
    with Sim(7, gpus=3, shuffle=False) as sim:
        question, actual = _live(sim, POLICIES[name], seed=7)
        (told,) = replay(question, CronCalendar())
    assert told.requests == actual.requests
    assert told.unserved == actual.unserved == 0
    assert abs(told.cold_starts - actual.cold_starts) <= max(1, 0.1 * actual.cold_starts)
    assert told.gpu_s == pytest.approx(actual.gpu_s, rel=0.05)
    assert told.wait_s_p50 == pytest.approx(actual.wait_s_p50, abs=0.5)
    assert told.wait_s_p95 == pytest.approx(actual.wait_s_p95, abs=1.0)


def test_other_settings_come_to_something_else_as_they_should(sim: Sim) -> None:
    question, actual = _live(sim, POLICIES["default"], seed=3)

    def with_scale(**changes: float) -> Endpoint:
        endpoint = question.endpoints[0]
        scale = replace(endpoint.spec.scale, **changes)  # type: ignore[arg-type]
        return replace(endpoint, spec=replace(endpoint.spec, scale=scale))

    tried = (with_scale(idle_timeout_s=1800.0), with_scale(idle_timeout_s=5.0), with_scale(min_workers=1))
    patient, hasty, kept = replay(replace(question, endpoints=tried), CronCalendar())
    assert patient.cold_starts < actual.cold_starts < hasty.cold_starts
    assert patient.gpu_s > actual.gpu_s > hasty.gpu_s
    assert kept.cold_starts >= 1
    assert kept.gpu_s == pytest.approx(HOURS * 3600, rel=0.1), "one worker all the time"

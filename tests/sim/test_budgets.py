"""Budgets on a simulated box: what is spent stays spent, over a restart too, until the period ends."""

from __future__ import annotations

from gpud.core.budget import Budget, BudgetPeriod
from gpud.core.endpoint import ScalePolicy
from gpud.core.ids import EndpointName
from gpud.core.worker import WorkerState
from tests.sim.clients import Outcome
from tests.sim.final import check_calm
from tests.sim.sim import Sim

_DAY = Budget(endpoint="echo", per=BudgetPeriod.DAY, gpu_s=60, warn_percent=(50,))


def _told(sim: Sim) -> list[object]:
    return [facts["percent"] for facts in sim.events("budget.threshold_passed")]


def test_a_spent_budget_starts_no_worker_over_a_restart_until_the_next_day() -> None:
    with Sim(1) as sim:
        sim.box.budgets = (_DAY,)
        sim.restart()
        sim.runtime.boot_s = 5
        sim.deploy("echo", ScalePolicy(max_workers=1, idle_timeout_s=10))
        long = sim.request("echo", takes_s=100)
        sim.run(for_s=50)
        assert _told(sim) == [50]
        sim.run(for_s=40)
        assert _told(sim) == [50, 100]
        assert [worker.state for worker in sim.workers("echo")] == [WorkerState.READY], "it goes on"
        beside = sim.request("echo", takes_s=1)
        sim.run(for_s=60)
        assert (long.outcome, beside.outcome) == (Outcome.ANSWERED, Outcome.ANSWERED)
        assert sim.workers("echo") == []

        refused = sim.request("echo")
        sim.run(for_s=5)
        assert refused.outcome is Outcome.REFUSED
        sim.crash_daemon()
        sim.restart()
        again = sim.request("echo")
        sim.run(for_s=5)
        assert again.outcome is Outcome.REFUSED
        assert sim.workers("echo") == []
        assert _told(sim) == [50, 100], "once a period"

        sim.run(for_s=6_500)  # past the midnight of the simulated day
        woken = sim.request("echo")
        sim.run(for_s=60)
        assert woken.outcome is Outcome.ANSWERED
        check_calm(sim)


def test_money_is_spent_as_time_is_and_says_why_a_minimum_is_not_kept() -> None:
    with Sim(2) as sim:
        sim.box.budgets = (Budget(endpoint="echo", per=BudgetPeriod.DAY, micros=30_000),)
        sim.restart()
        sim.deploy("echo", ScalePolicy(min_workers=1, max_workers=2, idle_timeout_s=10))
        sim.run(for_s=60)
        (worker,) = sim.workers("echo")
        assert _told(sim) == [100]
        sim.ask(lambda: sim.runtime.crash(worker.id))
        sim.run(for_s=60)
        assert sim.workers("echo") == []
        (wait,) = sim.up.fleet.state.waits[EndpointName("echo")]
        assert wait.reason == "budget_spent"
        assert wait.ends_at_s is not None
        assert "0.03 a day" in wait.detail

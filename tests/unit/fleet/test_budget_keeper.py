"""The keeper over sums that a test sets, with a fleet that takes its time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gpud.core.budget import Budget, BudgetPeriod, Used
from gpud.core.records import BudgetTold
from gpud.fleet.budget_keeper import BudgetKeeper
from tests.fakes.clock import FakeClock
from tests.unit.fleet.virtual import virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpud.core.usage import UsageBy


def test_a_threshold_is_told_once_though_the_fleet_hears_of_several_looks_at_once() -> None:
    told: list[Callable[[], None]] = []
    rows: list[object] = []
    events: list[Any] = []
    used_gpu_s = 60

    async def spending(_by: UsageBy, _since_ms: int) -> Mapping[str, Used]:
        return {"llm": Used(gpu_ns=used_gpu_s * 10**9)}

    reconciler: Any = SimpleNamespace(
        state=SimpleNamespace(budgets_spent={}, keys_spent={}),
        tell=told.append,
        record=lambda kind, facts, **_: events.append((kind, facts["percent"])),
    )
    journal: Any = SimpleNamespace(add=rows.append)
    budget = Budget(endpoint="llm", per=BudgetPeriod.DAY, gpu_s=100, warn_percent=(50,))
    keeper = BudgetKeeper((budget,), spending, reconciler, journal, FakeClock(), every_s=15)

    async def story() -> None:
        nonlocal used_gpu_s
        await keeper.look()
        await keeper.look()
        used_gpu_s = 100
        await keeper.look()

    virtual(story())
    for observation in told:
        observation()
    assert events == [("budget.threshold_passed", 50), ("budget.threshold_passed", 100)]
    assert [row.percent for row in rows if isinstance(row, BudgetTold)] == [50, 100]
    assert list(reconciler.state.budgets_spent) == ["llm"]

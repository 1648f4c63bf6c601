from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.budget import Budget, BudgetPeriod, Used, judge, window_ms

S = 1_000_000_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("per", "at", "since", "until"),
    [
        (BudgetPeriod.DAY, "2026-11-22T09:30:00.123", "2026-11-22", "2026-11-23"),
        (BudgetPeriod.DAY, "2026-11-22", "2026-11-22", "2026-11-23"),
        (BudgetPeriod.MONTH, "2026-12-31T23:59:59.999", "2026-12-01", "2027-01-01"),
        (BudgetPeriod.MONTH, "2028-02-29", "2028-02-01", "2028-03-01"),
    ],
)
def test_periods_are_days_and_months_of_utc(per: BudgetPeriod, at: str, since: str, until: str) -> None:
    assert window_ms(per, ms(at)) == (ms(since), ms(until))


def test_a_budget_of_time_is_spent_when_all_of_it_was_used() -> None:
    budget = Budget(endpoint="llm", gpu_s=10)
    at_ms = ms("2026-11-22")
    judgement = judge([budget], {budget.id: Used(gpu_ns=10 * S - 1)}, {}, at_ms=at_ms, now_s=5.0)
    assert (judgement.endpoints, judgement.passed) == ({}, ())
    judgement = judge([budget], {budget.id: Used(gpu_ns=10 * S)}, {}, at_ms=at_ms, now_s=5.0)
    spent = judgement.endpoints["llm"]
    assert spent.until_ms == ms("2026-12-01")
    assert spent.ends_at_s == 5.0 + 9 * 86_400
    assert judgement.keys == {}


def test_a_budget_of_money_is_a_keys() -> None:
    budget = Budget(key="key_a", per=BudgetPeriod.DAY, micros=500)
    judgement = judge([budget], {budget.id: Used(cost_micros=500)}, {}, at_ms=0, now_s=0.0)
    assert set(judgement.keys) == {"key_a"}
    (passed,) = judgement.passed
    assert passed.facts == {
        "budget": "key key_a money a day",
        "key": "key_a",
        "percent": 100,
        "used_micros": 500,
        "amount_micros": 500,
        "until": "1970-01-02T00:00:00Z",
    }


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=30), st.lists(st.integers(0, 40), max_size=3))
def test_each_threshold_is_told_at_most_once_a_period_in_rising_order(
    steps: list[int], days: list[int]
) -> None:
    budget = Budget(endpoint="llm", per=BudgetPeriod.DAY, micros=1_000, warn_percent=(25, 50, 80))
    told: dict[str, tuple[int, int]] = {}
    for day in sorted({0, *days}):
        used, seen = 0, []
        for step in steps:
            used += step
            judgement = judge(
                [budget], {budget.id: Used(cost_micros=used)}, told, at_ms=day * 86_400_000 + 5, now_s=0.0
            )
            for passed in judgement.passed:
                told[budget.id] = (passed.since_ms, passed.percent)
                seen.append(passed.percent)
            assert ("llm" in judgement.endpoints) == (used >= 1_000)
        assert seen == sorted(set(seen))
        assert seen[-1:] == [max((p for p in (25, 50, 80, 100) if used >= p * 10), default=None)][: len(seen)]


def test_of_two_budgets_of_one_endpoint_the_one_that_lasts_longer_says_until_when() -> None:
    budgets = [Budget(endpoint="llm", per=per, gpu_s=1) for per in BudgetPeriod]
    used = {budget.id: Used(gpu_ns=S) for budget in budgets}
    judgement = judge(budgets, used, {}, at_ms=ms("2026-11-22"), now_s=0.0)
    assert judgement.endpoints["llm"].until_ms == ms("2026-12-01")

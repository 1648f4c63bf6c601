from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.budget import Budget, BudgetPeriod, BudgetState, Used, judge, standing, window_ms

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


@pytest.mark.parametrize(
    ("used_s", "state", "percent"),
    [
        (0, BudgetState.WITHIN, 0),
        (49, BudgetState.WITHIN, 0),
        (50, BudgetState.WARNED, 50),
        (99, BudgetState.WARNED, 80),
        (100, BudgetState.SPENT, 100),
        (130, BudgetState.SPENT, 100),
    ],
)
def test_how_a_budget_is_follows_from_its_thresholds(used_s: int, state: BudgetState, percent: int) -> None:
    budget = Budget(endpoint="llm", gpu_s=100, warn_percent=(50, 80))
    found = standing(budget, Used(gpu_ns=used_s * S), at_ms=ms("2026-11-22"))
    assert (found.state, found.passed_percent) == (state, percent)
    assert (found.since_ms, found.until_ms) == (ms("2026-11-01"), ms("2026-12-01"))
    assert bool(found.detail) == bool(found.refuses) == (state is BudgetState.SPENT)


@given(
    amount=st.integers(1, 10**6),
    used=st.integers(0, 2 * 10**6),
    warn=st.lists(st.integers(1, 99), max_size=3),
    is_key=st.booleans(),
)
def test_a_budget_shown_as_spent_is_one_that_is_enforced_and_says_the_same(
    amount: int, used: int, warn: list[int], *, is_key: bool
) -> None:
    whose = {"key": "key_a"} if is_key else {"endpoint": "llm"}
    budget = Budget(**whose, micros=amount, warn_percent=tuple(sorted(warn)))  # type: ignore[arg-type]
    had = Used(cost_micros=used)
    found = standing(budget, had, at_ms=0)
    judgement = judge([budget], {budget.id: had}, {}, at_ms=0, now_s=0.0)
    enforced = (judgement.keys if is_key else judgement.endpoints).get(budget.whose)
    assert (found.state is BudgetState.SPENT) == (enforced is not None)
    assert found.detail == (enforced.detail if enforced else "")
    assert [one.percent for one in judgement.passed] == (
        [found.passed_percent] if found.passed_percent else []
    )

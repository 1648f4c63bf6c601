"""How much may an endpoint or a key use in a day or a month, and what follows when it has?

At each threshold people are told, once a period. When all is used no further worker is started: those that
run go on. Days and months are UTC's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.gpu import WHOLE_PPM
from gpud.core.waiting import WaitReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NS_PER_S = 1_000_000_000
_ALL_PERCENT = 100


class BudgetPeriod(StrEnum):
    """When a budget begins anew."""

    DAY = "day"
    MONTH = "month"


class BudgetState(StrEnum):
    """How a budget is."""

    WITHIN = "within"
    """No threshold was passed in this period."""
    WARNED = "warned"
    """A threshold was passed, and something is left."""
    SPENT = "spent"
    """Nothing is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one endpoint or one key may use in a period; one of `micros` and `gpu_s`.

    Args:
        endpoint: Whose; empty for a key's.
        key: Whose, by its id; empty for an endpoint's.
        micros: Money, in millionths; 0 for none.
        gpu_s: Billable GPU seconds; 0 for none.
        warn_percent: Thresholds at which people are told, rising; of the whole they always are.
    """

    endpoint: str = ""
    key: str = ""
    per: BudgetPeriod = BudgetPeriod.MONTH
    micros: int = 0
    gpu_s: int = 0
    warn_percent: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Names the budget, whatever its amount."""
        whose = f"endpoint {self.endpoint}" if self.endpoint else f"key {self.key}"
        return f"{whose} {'money' if self.micros else 'gpu time'} a {self.per}"

    @property
    def whose(self) -> str:
        """The name in a usage report."""
        return self.endpoint or self.key

    @property
    def amount(self) -> int:
        """In micro-units, or nanoseconds."""
        return self.micros or self.gpu_s * _NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What was used in a period: billable GPU nanoseconds, and their price."""

    gpu_ns: int = 0
    cost_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What was used of a budget in the period that a moment lies in.

    Args:
        budget: Which.
        since_ms: The period's first millisecond of Unix wall time.
        until_ms: The first after it.
        taken: In micro-units, or nanoseconds.
        passed_percent: The highest threshold that was reached, 100 for the whole; 0 for none.
    """

    budget: Budget
    since_ms: int
    until_ms: int
    taken: int
    passed_percent: int

    @property
    def state(self) -> BudgetState:
        """In one word."""
        if self.taken >= self.budget.amount:
            return BudgetState.SPENT
        return BudgetState.WARNED if self.passed_percent else BudgetState.WITHIN

    @property
    def detail(self) -> str:
        """Says of a spent budget whose it is and until when it holds; empty while something is left."""
        return _detail(self.budget, self.until_ms) if self.state is BudgetState.SPENT else ""

    @property
    def refuses(self) -> str:
        """What a spent budget refuses, and what goes on; empty while something is left."""
        if self.state is not BudgetState.SPENT:
            return ""
        if self.budget.endpoint:
            return (
                "Its workers serve on. Where none is ready requests are refused with 429 budget-spent, "
                "and jobs wait."
            )
        return (
            "Its requests run at workers that have a free place and are refused with 429 budget-spent where "
            "none has; so are its jobs while no worker of their endpoint is ready."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpent:
    """A budget of which nothing is left.

    Args:
        budget: Its id.
        detail: For a person.
        until_ms: Unix wall time at which it begins anew.
        ends_at_s: The same in loop time.
    """

    budget: str
    detail: str
    until_ms: int
    ends_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A threshold was passed for the first time in a period."""

    budget: Budget
    since_ms: int
    percent: int
    used: int
    until_ms: int

    @property
    def facts(self) -> dict[str, object]:
        """As an event tells it."""
        budget = self.budget
        if budget.micros:
            amounts = {"used_micros": self.used, "amount_micros": budget.micros}
        else:
            amounts = {"used_gpu_ms": self.used // 1_000_000, "amount_gpu_ms": budget.gpu_s * 1000}
        whose = {"key": budget.key} if budget.key else {}
        until = datetime.fromtimestamp(self.until_ms / 1000, tz=UTC).isoformat().replace("+00:00", "Z")
        return {"budget": budget.id, **whose, "percent": self.percent, **amounts, "until": until}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from what was used.

    Args:
        endpoints: Whose budget is spent.
        keys: Whose budget is spent.
        passed: To be told.
    """

    endpoints: Mapping[str, BudgetSpent]
    keys: Mapping[str, BudgetSpent]
    passed: tuple[Passed, ...]


def window_ms(per: BudgetPeriod, at_ms: int) -> tuple[int, int]:
    """The period that a moment of Unix wall time lies in: its first millisecond, and the first after it."""
    at = datetime.fromtimestamp(at_ms // 1000, tz=UTC)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if per is BudgetPeriod.DAY:
        since, until = day, day + timedelta(days=1)
    else:
        since = day.replace(day=1)
        until = (since + timedelta(days=32)).replace(day=1)
    return round(since.timestamp()) * 1000, round(until.timestamp()) * 1000


def standing(budget: Budget, used: Used, *, at_ms: int) -> Standing:
    """Say how a budget is.

    Args:
        budget: Which.
        used: In the present period.
        at_ms: Unix wall time.
    """
    since_ms, until_ms = window_ms(budget.per, at_ms)
    taken = used.cost_micros if budget.micros else used.gpu_ns
    thresholds = (*budget.warn_percent, _ALL_PERCENT)
    reached = [percent for percent in thresholds if taken * _ALL_PERCENT >= budget.amount * percent]
    return Standing(
        budget=budget,
        since_ms=since_ms,
        until_ms=until_ms,
        taken=taken,
        passed_percent=max(reached, default=0),
    )


def judge(
    budgets: Iterable[Budget],
    used: Mapping[str, Used],
    told: Mapping[str, tuple[int, int]],
    *,
    at_ms: int,
    now_s: float,
) -> Judgement:
    """Compare what was used with what may be.

    Args:
        budgets: All of them.
        used: In each budget's present period, by its id.
        told: By a budget's id the period's first millisecond and the highest percentage that was told.
        at_ms: Unix wall time.
        now_s: Loop time of the same moment.
    """
    endpoints: dict[str, BudgetSpent] = {}
    keys: dict[str, BudgetSpent] = {}
    passed: list[Passed] = []
    for budget in budgets:
        found = standing(budget, used.get(budget.id, Used()), at_ms=at_ms)
        since_ms, until_ms, percent = found.since_ms, found.until_ms, found.passed_percent
        told_since_ms, told_percent = told.get(budget.id, (0, 0))
        known = told_percent if told_since_ms == since_ms else 0
        if percent > known:
            passed.append(
                Passed(budget=budget, since_ms=since_ms, percent=percent, used=found.taken, until_ms=until_ms)
            )
        if found.state is BudgetState.SPENT:
            spent = _spent(budget, until_ms, now_s + (until_ms - at_ms) / 1000)
            into = endpoints if budget.endpoint else keys
            before = into.get(budget.whose)
            if before is None or before.until_ms < until_ms:
                into[budget.whose] = spent
    return Judgement(endpoints=endpoints, keys=keys, passed=tuple(passed))


def _spent(budget: Budget, until_ms: int, ends_at_s: float) -> BudgetSpent:
    return BudgetSpent(
        budget=budget.id, detail=_detail(budget, until_ms), until_ms=until_ms, ends_at_s=ends_at_s
    )


def _detail(budget: Budget, until_ms: int) -> str:
    amount = f"{budget.micros / WHOLE_PPM:,.6g}" if budget.micros else f"{budget.gpu_s:,} GPU seconds"
    until = datetime.fromtimestamp(until_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    whose = f"endpoint {budget.endpoint}" if budget.endpoint else f"key {budget.key}"
    return f"The budget of {whose}, {amount} a {budget.per}, is spent: it gets no new worker until {until}."


def wait_for(spent: BudgetSpent) -> WaitReason:
    """Why an endpoint gets no worker."""
    return WaitReason(
        reason="budget_spent",
        detail=spent.detail,
        facts={"budget": spent.budget},
        ends_at_s=spent.ends_at_s,
    )

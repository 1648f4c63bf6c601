"""Budgets as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.schemas.base import Document, Timestamp, timestamp
from gpud.core.budget import BudgetPeriod, BudgetState

if TYPE_CHECKING:
    from gpud.core.budget import Standing

_NS_PER_MS = 1_000_000


class BudgetDocument(Document):
    """What an endpoint or a key may use in a day or a month, and what it used in the present one."""

    id: str
    """Names it in events and webhooks."""
    endpoint: str
    """Whose; empty for a key's."""
    key: str
    """Whose, by its id; empty for an endpoint's."""
    label: str
    """Of the key."""
    per: BudgetPeriod
    state: BudgetState
    """`within`, `warned` when a threshold was passed, `spent` when nothing is left."""
    amount_micros: int | None
    """Money, in millionths of `currency`; null for a budget of GPU time."""
    used_micros: int | None
    amount_gpu_ms: int | None
    """Billable GPU time; null for a budget of money."""
    used_gpu_ms: int | None
    used_percent: float
    warn_percent: tuple[int, ...]
    """Thresholds at which an event and webhooks tell, apart from the whole."""
    passed_percent: int
    """The highest threshold that was passed, 100 for the whole; 0 for none."""
    since: Timestamp
    until: Timestamp
    """When it begins anew."""
    detail: str
    """Whose budget is spent, and until when; empty while something is left."""
    refuses: str
    """What a spent budget refuses, and what goes on; empty while something is left."""


class BudgetList(Document):
    """Every budget of the settings, in their order."""

    items: tuple[BudgetDocument, ...]
    next: str | None
    """Always null: all are on one page."""
    currency: str
    check_s: float
    """Between two looks at what was used: a budget is enforced at the look after it was spent."""


def budget_document(standing: Standing, *, label: str) -> BudgetDocument:
    """Show a budget."""
    budget = standing.budget
    is_money = budget.micros > 0
    return BudgetDocument(
        id=budget.id,
        endpoint=budget.endpoint,
        key=budget.key,
        label=label,
        per=budget.per,
        state=standing.state,
        amount_micros=budget.micros if is_money else None,
        used_micros=standing.taken if is_money else None,
        amount_gpu_ms=None if is_money else budget.gpu_s * 1000,
        used_gpu_ms=None if is_money else standing.taken // _NS_PER_MS,
        used_percent=round(100 * standing.taken / budget.amount, 2),
        warn_percent=budget.warn_percent,
        passed_percent=standing.passed_percent,
        since=timestamp(standing.since_ms),
        until=timestamp(standing.until_ms),
        detail=standing.detail,
        refuses=standing.refuses,
    )

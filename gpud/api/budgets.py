"""Budgets: what each endpoint and key that has one used of it, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.operations import Operation, Scope
from gpud.api.rendering import answer
from gpud.api.schemas.budgets import BudgetList, budget_document
from gpud.api.services import SERVICES
from gpud.api.tariffs import tariff_of
from gpud.core.budget import Budget, Used, standing, window_ms
from gpud.core.usage import UsageBy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from gpud.api.services import Services
    from gpud.core.budget import Standing


async def list_budgets(request: web.Request) -> web.StreamResponse:
    """Every budget, with what was used up to now."""
    services = request.app[SERVICES]
    limits = services.settings.budgets
    found = await _standings(services, [Budget(**limit.model_dump()) for limit in limits.limits])
    labels = {str(key.id): key.label for key in services.keyring.list_keys()}
    return answer(
        BudgetList(
            items=tuple(budget_document(one, label=labels.get(one.budget.key, "")) for one in found),
            next=None,
            currency=services.settings.prices.currency,
            check_s=limits.check_s,
        )
    )


async def _standings(services: Services, budgets: list[Budget]) -> list[Standing]:
    """What was used of each; sums that several need are asked for once."""
    at_ms = services.clock.at_ms()
    tariff = await tariff_of(services)
    sums: dict[tuple[UsageBy, int], Mapping[str, Used]] = {}
    found = []
    for budget in budgets:
        by = UsageBy.ENDPOINT if budget.endpoint else UsageBy.KEY
        since_ms, _ = window_ms(budget.per, at_ms)
        if (by, since_ms) not in sums:
            sums[by, since_ms] = await services.reads.spent(
                by=by, since_ms=since_ms, tariff=tariff, running=services.readings.running()
            )
        used = sums[by, since_ms].get(budget.whose, Used())
        found.append(standing(budget, used, at_ms=at_ms))
    return found


OPERATIONS_HERE = (
    Operation(
        name="list_budgets",
        method="GET",
        path="/v1/budgets",
        handler=list_budgets,
        scope=Scope.READ,
        summary="List budgets: what was used of each, and what a spent one refuses",
        tag="usage",
        answer=BudgetList,
    ),
)

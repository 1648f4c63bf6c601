"""Compares what endpoints and keys used with their budgets, every few seconds, and tells the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import structlog

from gpud.core.budget import Budget, Used, judge, window_ms
from gpud.core.records import BudgetTold
from gpud.core.usage import UsageBy
from gpud.errors import GpudError

if TYPE_CHECKING:
    from gpud.core.budget import Judgement
    from gpud.core.pricing import Tariff
    from gpud.fleet.journal import Journal
    from gpud.fleet.meter import Meter
    from gpud.fleet.reconciler import Reconciler
    from gpud.fleet.state import FleetState
    from gpud.ports.store import ReadModel
    from gpud.ports.time import Clock

log = structlog.get_logger(__name__)

Spending: TypeAlias = Callable[[UsageBy, int], Awaitable[Mapping[str, Used]]]
"""What each endpoint or key used since a moment of Unix wall time, in milliseconds."""


def spending_of(reads: ReadModel, meter: Meter, state: FleetState, tariff: Tariff) -> Spending:
    """What the store says was used, with what runs now, at the prices of the settings.

    Args:
        reads: The store.
        meter: Knows what keys had of what runs.
        state: The fleet, for the names of GPUs.
        tariff: The prices, for GPUs whose names are not known.
    """

    def spent(by: UsageBy, since_ms: int) -> Awaitable[Mapping[str, Used]]:
        models = {uuid: status.gpu.name for uuid, status in state.gpus.items()}
        priced = replace(tariff, models=models)
        return reads.spent(by=by, since_ms=since_ms, tariff=priced, running=meter.running())

    return spent


class BudgetKeeper:
    """What was used is in the store, so that a restart forgets none of it.

    Args:
        budgets: Of the settings.
        spending: Tells what was used.
        reconciler: Owns what follows.
        journal: Takes what was told into the next round's transaction.
        clock: Its wall time decides which day and month it is.
        every_s: Between two looks.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        spending: Spending,
        reconciler: Reconciler,
        journal: Journal,
        clock: Clock,
        *,
        every_s: float,
    ) -> None:
        self._budgets = tuple(budgets)
        self._spending = spending
        self._reconciler = reconciler
        self._journal = journal
        self._clock = clock
        self._every_s = every_s
        self.told: dict[str, tuple[int, int]] = {}
        """By a budget's id the first millisecond of the period and the highest percentage that was told."""

    async def run(self) -> None:
        """Look until cancelled: every few seconds, and when a period ends."""
        while self._budgets:
            await self.look()
            at_ms = self._clock.at_ms()
            ends_ms = min(window_ms(budget.per, at_ms)[1] for budget in self._budgets)
            await asyncio.sleep(min(self._every_s, (ends_ms - at_ms) / 1000 + 0.001))

    async def look(self) -> None:
        """Compare once; what cannot be read is as it was."""
        if not self._budgets:
            return
        at_ms, now_s = self._clock.at_ms(), self._clock.now_s()
        used: dict[str, Used] = {}
        sums: dict[tuple[UsageBy, int], Mapping[str, Used]] = {}
        try:
            for budget in self._budgets:
                by = UsageBy.ENDPOINT if budget.endpoint else UsageBy.KEY
                asked = by, window_ms(budget.per, at_ms)[0]
                if asked not in sums:
                    sums[asked] = await self._spending(*asked)
                used[budget.id] = sums[asked].get(budget.whose, Used())
        except GpudError as error:
            log.warning("budgets.not_read", error=error.detail)
            return
        judgement = judge(self._budgets, used, self.told, at_ms=at_ms, now_s=now_s)
        self._reconciler.tell(lambda: self._apply(judgement))

    def _apply(self, judgement: Judgement) -> None:
        state = self._reconciler.state
        state.budgets_spent, state.keys_spent = judgement.endpoints, judgement.keys
        for passed in judgement.passed:
            budget = passed.budget
            since_ms, percent = self.told.get(budget.id, (0, 0))
            if since_ms == passed.since_ms and percent >= passed.percent:
                continue  # an earlier look told it, which was not heard when this one looked
            self.told[budget.id] = (passed.since_ms, passed.percent)
            self._journal.add(BudgetTold(budget=budget.id, since_ms=passed.since_ms, percent=passed.percent))
            self._reconciler.record("budget.threshold_passed", passed.facts, endpoint=budget.endpoint)

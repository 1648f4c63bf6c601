"""What becomes of the wish for workers: activation, panic, pace, patience, bounds, failures, in that order.

`decide` is the whole answer to "how many workers?". Memory goes in and comes back out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.demand import LoadWindow
from gpud.core.policies import STABLE_WINDOW_S, Fixed, Rule, flaw, largest_wish, requests_per_worker

if TYPE_CHECKING:
    from gpud.core.policies import AnyRule, Demand

_PANIC_THRESHOLD = 2.0
_PANIC_LOAD_MIN = 2
_PANIC_HOLD_S = STABLE_WINDOW_S
_ROUNDING = 1e-9


class ScaleReason(StrEnum):
    """What decided the number of workers: the last step that changed it."""

    QUEUE_DELAY = "queue_delay"
    REQUEST_COUNT = "request_count"
    CONCURRENCY = "concurrency"
    FIXED = "fixed"
    IDLE = "idle"
    ACTIVATION = "activation"
    PANIC = "panic"
    UP_RATE = "up_rate"
    DOWN_DELAY = "down_delay"
    IDLE_TIMEOUT = "idle_timeout"
    WARM_WINDOW = "warm_window"
    MIN_WORKERS = "min_workers"
    MAX_WORKERS = "max_workers"
    PAUSED = "paused"
    CIRCUIT_OPEN = "circuit_open"
    BUDGET_SPENT = "budget_spent"
    NO_DATA = "no_data"


_OF_RULE = {
    Rule.QUEUE_DELAY: ScaleReason.QUEUE_DELAY,
    Rule.REQUEST_COUNT: ScaleReason.REQUEST_COUNT,
    Rule.CONCURRENCY: ScaleReason.CONCURRENCY,
    Rule.FIXED: ScaleReason.FIXED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How an endpoint's number of workers may change.

    Args:
        rules: At least one; the largest wish wins.
        concurrency: Requests one worker takes at a time.
        min_workers: Kept without load.
        warm_workers: Kept without load while a window is open; as all warmth, it gives way to need.
        max_workers: Never exceeded; 0 pauses the endpoint.
        activation_scale: Workers to begin with when there is none and one is asked for.
        up_rate: Most times the present workers that are asked for at once.
        scale_down_delay_s: A wish must have been smaller for this long before workers go.
    """

    rules: tuple[AnyRule, ...]
    concurrency: int = 1
    min_workers: int = 0
    warm_workers: int = 0
    max_workers: int = 1
    activation_scale: int = 1
    up_rate: float = 1000.0
    scale_down_delay_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceMemory:
    """What one decision leaves for the next.

    Args:
        panic_until_s: Loop time until which panic holds what it reached; minus infinity without.
        panic_max: Most workers asked for in this panic.
        wishes: Recent wishes, for the patience before shrinking.
    """

    panic_until_s: float = -math.inf
    panic_max: int = 0
    wishes: LoadWindow = field(default_factory=LoadWindow)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDecision:
    """How many workers an endpoint should have, and why.

    Args:
        desired: Within the bounds.
        reason: The last step that changed the number.
        wished: What the rules asked for, before everything else.
        needed: The part of `desired` that present load asks for; the rest is kept warm, and
            gives way when another endpoint needs its GPUs.
        ask_again_at_s: Loop time at which the answer may differ without any new load; None if never.
    """

    desired: int
    reason: ScaleReason
    wished: int = 0
    needed: int = 0
    ask_again_at_s: float | None = None


def decide(
    pace: Pace,
    demand: Demand | None,
    memory: PaceMemory,
    *,
    workers: int,
    now_s: float,
    starts_max: int | None = None,
) -> tuple[ScaleDecision, PaceMemory]:
    """Decide how many workers an endpoint should have.

    Args:
        pace: The endpoint's rules and bounds.
        demand: What its load looked like; None when that is not known.
        memory: Left by the last decision.
        workers: READY or on their way there; draining ones do not count.
        now_s: Loop time.
        starts_max: While its starts fail, how many more may be made: 1 for a probe that is due,
            0 before that; None when they do not fail. Starts under way are left alone.

    Returns:
        The decision, and what to remember for the next one.
    """
    if pace.max_workers == 0:
        return ScaleDecision(desired=0, reason=ScaleReason.PAUSED), PaceMemory()
    if demand is None or flaw(demand):
        kept = min(max(workers, pace.min_workers), pace.max_workers)
        return ScaleDecision(desired=kept, reason=ScaleReason.NO_DATA, needed=kept), memory
    step = _Steps(pace, demand, memory, workers, now_s)
    step.wish()
    step.activate()
    step.panic()
    step.limit_rate()
    step.delay_shrinking()
    step.bound()
    if starts_max is not None:
        step.limit_starts(starts_max)
    return step.decision(), step.memory


class _Steps:
    """One decision in the making; each step may change `desired` and says so in `reason`."""

    def __init__(self, pace: Pace, demand: Demand, memory: PaceMemory, workers: int, now_s: float) -> None:
        self.pace, self.demand, self.memory = pace, demand, memory
        self.workers, self.now_s = workers, now_s
        self.desired = 0
        self.reason = ScaleReason.IDLE
        self.ask_again_at_s: float | None = None

    def wish(self) -> None:
        self._largest = largest_wish(self.pace.rules, self.demand, concurrency=self.pace.concurrency)
        self.wished = self._largest.workers
        if self.wished:
            self._set(self.wished, _OF_RULE[self._largest.rule])

    def activate(self) -> None:
        if self.workers == 0 and 0 < self.desired < self.pace.activation_scale:
            self._set(self.pace.activation_scale, ScaleReason.ACTIVATION)

    def panic(self) -> None:
        memory, panic = self.memory, self._largest.panic
        panicking = self.now_s < memory.panic_until_s
        over = panic / max(1, self.workers) >= _PANIC_THRESHOLD
        if over and (panicking or self.demand.load >= _PANIC_LOAD_MIN):
            memory = replace(memory, panic_until_s=self.now_s + _PANIC_HOLD_S)
            panicking = True
        if not panicking:
            self.memory = replace(memory, panic_max=0, panic_until_s=-math.inf)
            return
        if not self.demand.load:  # patience alone keeps workers that nobody calls
            return
        # The bound is applied here too: what can never be reached must not be held.
        reached = min(max(memory.panic_max, panic, self.desired), self.pace.max_workers)
        if reached > self.desired:
            self._set(reached, ScaleReason.PANIC)
        self.memory = replace(memory, panic_max=reached)
        self._ask_at(self.memory.panic_until_s)

    def limit_rate(self) -> None:
        most = math.ceil(self.pace.up_rate * max(1, self.workers) - _ROUNDING)
        if self.desired > most:
            self._set(most, ScaleReason.UP_RATE)

    def delay_shrinking(self) -> None:
        """Keep what was wished for lately, and what the load of the last idle timeout had use for.

        Both only keep workers that there are: a worker that gave way is not started again for warmth.
        """
        span_s = self.pace.scale_down_delay_s
        wishes = self.memory.wishes.observed(self.desired, at_s=self.now_s, span_s=span_s)
        self.memory = replace(self.memory, wishes=wishes)
        peak = min(self.workers, wishes.peak(now_s=self.now_s, span_s=span_s))
        if peak > self.desired:
            self._set(peak, ScaleReason.DOWN_DELAY)
            self._ask_at(wishes.falls_at_s(now_s=self.now_s, span_s=span_s))
        if any(isinstance(rule, Fixed) for rule in self.pace.rules):
            return
        per_worker = requests_per_worker(self.pace.rules, concurrency=self.pace.concurrency)
        warm = min(self.workers, math.ceil(self.demand.load_peak / per_worker - _ROUNDING))
        if warm <= 1 and self.demand.load_peak_of_last is not None:  # the last has a patience of its own
            warm = min(self.workers, 1 if self.demand.load_peak_of_last > 0 else 0)
        if warm > self.desired:
            self._set(warm, ScaleReason.IDLE_TIMEOUT)

    def bound(self) -> None:
        if self.desired < self.pace.warm_workers:
            self._set(self.pace.warm_workers, ScaleReason.WARM_WINDOW)
        if self.desired > self.pace.max_workers:
            self._set(self.pace.max_workers, ScaleReason.MAX_WORKERS)
        if self.desired < self.pace.min_workers:
            self._set(self.pace.min_workers, ScaleReason.MIN_WORKERS)

    def limit_starts(self, starts_max: int) -> None:
        if self.desired > self.workers + starts_max:
            self._set(self.workers + starts_max, ScaleReason.CIRCUIT_OPEN)

    def decision(self) -> ScaleDecision:
        return ScaleDecision(
            desired=self.desired,
            reason=self.reason,
            wished=self.wished,
            needed=min(self.desired, self._useful()),
            ask_again_at_s=self.ask_again_at_s,
        )

    def _useful(self) -> int:
        """Workers that present load asks for and can keep busy."""
        load = self.demand.load
        if not load:
            return 0
        per_worker = requests_per_worker(self.pace.rules, concurrency=self.pace.concurrency)
        usable = max(1, math.ceil(load / per_worker - _ROUNDING))
        return min(max(self.wished, self._largest.panic, 1), usable)

    def _set(self, desired: int, reason: ScaleReason) -> None:
        self.desired, self.reason = desired, reason

    def _ask_at(self, at_s: float | None) -> None:
        if at_s is not None and (self.ask_again_at_s is None or at_s < self.ask_again_at_s):
            self.ask_again_at_s = at_s

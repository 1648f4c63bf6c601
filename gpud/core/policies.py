"""How many workers does the load ask for? Four rules, each a pure function of what was seen.

Several may be set; the largest wish wins. What becomes of a wish (panic, pace, bounds) is
`gpud.core.pacing`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from collections.abc import Iterable

UTILISATION = 0.7
"""Share of a worker's concurrency that `concurrency` aims for, as Knative's KPA does."""

STABLE_WINDOW_S = 60.0
PANIC_WINDOW_S = 6.0

_RHO = 0.85
"""Share of their time workers may be busy for `queue_delay` to hold them for enough."""
_ROUNDING = 1e-9


class Rule(StrEnum):
    """Which rule a wish comes from."""

    QUEUE_DELAY = "queue_delay"
    REQUEST_COUNT = "request_count"
    CONCURRENCY = "concurrency"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one endpoint's load looked like at one moment.

    Args:
        waiting: Requests held; clients that left are not counted.
        in_flight: Requests at workers.
        oldest_wait_s: Age of the oldest held request; 0 without one.
        load_stable: Average of waiting plus in flight over the stable window.
        load_panic: The same over the panic window.
        load_peak: Largest load of the last idle timeout, now included.
        load_peak_of_last: The same over the idle timeout of the last worker; None when it is no other.
        arrivals: In the last `arrival_window_s(cold_start_s)`.
        observed_s: For how long arrivals have been watched.
        service_s: Usual duration of one request.
        cold_start_s: Usual time from a worker's GPU to its readiness.
        available_in_s: For each worker READY or on its way there, when it can take its next
            request; 0 for one with a free slot.
        ready: Of those workers, the READY ones.
    """

    waiting: int
    in_flight: int
    oldest_wait_s: float = 0.0
    load_stable: float = 0.0
    load_panic: float = 0.0
    load_peak: int = 0
    load_peak_of_last: int | None = None
    arrivals: int = 0
    observed_s: float = 1.0
    service_s: float = 10.0
    cold_start_s: float = 60.0
    available_in_s: tuple[float, ...] = ()
    ready: int = 0

    @property
    def load(self) -> int:
        """Waiting plus in flight."""
        return self.waiting + self.in_flight

    @property
    def workers(self) -> int:
        """READY or on their way there; draining ones do not count."""
        return len(self.available_in_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDelay:
    """Start a worker only for work the present ones will not have finished before it is ready.

    Args:
        target_s: Wait that is fine.
        beta: How much of a cold start may pass as wait: 0 for least wait, 0.5 for thrift.
    """

    target_s: float = 4.0
    beta: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCount:
    """One worker for so many requests, waiting ones included.

    Args:
        per_worker: Requests; 0 takes the worker's concurrency.
    """

    per_worker: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """So many requests a worker on average over a minute; over six seconds when they jump.

    Args:
        per_worker: Requests; 0 takes 0.7 of the worker's concurrency, and 1 for concurrency 1,
            where 0.7 of one would always ask for two.
    """

    per_worker: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Always the same number."""

    workers: int


AnyRule = QueueDelay | RequestCount | Concurrency | Fixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many workers one rule asks for.

    Args:
        workers: Now; for `queue_delay` no fewer than the load has use for.
        panic: By the short window, for rules that can panic; else 0.
    """

    rule: Rule
    workers: int
    panic: int = 0


def arrival_window_s(cold_start_s: float) -> float:
    """Over which time arrivals are counted: long enough to see a rate worth a cold start."""
    return max(60.0, 2.0 * cold_start_s)


def flaw(demand: Demand) -> str:
    """Say what makes a picture of demand unusable; empty when it is sound.

    A decision on unsound figures would be worse than none: the scale is kept instead.
    """
    counts = (demand.waiting, demand.in_flight, demand.load_peak, demand.arrivals)
    spans = (demand.oldest_wait_s, demand.load_stable, demand.load_panic, *demand.available_in_s)
    positive = (demand.observed_s, demand.service_s, demand.cold_start_s)
    if not all(map(math.isfinite, (*spans, *positive))):
        return "a figure of the load is not a number"
    if any(count < 0 for count in counts) or any(span < 0 for span in spans):
        return "a figure of the load is below zero"
    if any(span <= 0 for span in positive):
        return "a duration that must be above zero is not"
    if demand.oldest_wait_s and not demand.waiting:
        return "a wait is told though nothing waits"
    return ""


def wish_of(rule: AnyRule, demand: Demand, *, concurrency: int) -> Wish:
    """Ask one rule.

    Args:
        rule: With its settings.
        demand: Sound (see `flaw`).
        concurrency: Requests one worker takes at a time.
    """
    match rule:
        case QueueDelay():
            return Wish(rule=Rule.QUEUE_DELAY, workers=_queue_delay(rule, demand, concurrency))
        case RequestCount(per_worker=per_worker):
            wanted = _ceil(demand.load / (per_worker or concurrency))
            return Wish(rule=Rule.REQUEST_COUNT, workers=wanted, panic=wanted)
        case Concurrency():
            return _concurrency(rule, demand, concurrency)
        case Fixed(workers=workers):
            return Wish(rule=Rule.FIXED, workers=workers)
        case _:
            assert_never(rule)


def largest_wish(rules: Iterable[AnyRule], demand: Demand, *, concurrency: int) -> Wish:
    """Ask every rule; the largest wish wins, the earlier rule among equals.

    The panic wish is the largest of all rules' that can panic.
    """
    wishes = [wish_of(rule, demand, concurrency=concurrency) for rule in rules]
    largest = max(wishes, key=lambda wish: wish.workers)
    return Wish(rule=largest.rule, workers=largest.workers, panic=max(wish.panic for wish in wishes))


def requests_per_worker(rules: Iterable[AnyRule], *, concurrency: int) -> float:
    """Load that keeps one worker: the least any rule gives it."""
    return min((_per_worker(rule, concurrency) for rule in rules), default=float(concurrency))


def _per_worker(rule: AnyRule, concurrency: int) -> float:
    match rule:
        case RequestCount(per_worker=per_worker):
            return per_worker or float(concurrency)
        case Concurrency(per_worker=per_worker):
            if per_worker:
                return per_worker
            return 1.0 if concurrency == 1 else concurrency * UTILISATION
        case QueueDelay() | Fixed():
            return float(concurrency)
        case _:
            assert_never(rule)


def available_in_s(*, in_flight: int, concurrency: int, service_s: float) -> float:
    """When a ready worker can take its next request.

    Ages of its requests are not known: of C requests at random points of their service the
    first ends after S / (C + 1) on average.
    """
    return 0.0 if in_flight < concurrency else service_s / (concurrency + 1)


def ready_in_s(*, age_s: float, cold_start_s: float) -> float:
    """When a worker on its way will be ready: what is left of a usual cold start, 1 s at least."""
    return max(1.0, cold_start_s - age_s)


def _queue_delay(rule: QueueDelay, demand: Demand, concurrency: int) -> int:
    waiting, workers = demand.waiting, demand.workers
    useful = min(workers, _ceil(demand.load / concurrency))
    if not waiting or not (demand.oldest_wait_s > rule.target_s or workers == 0):
        return useful
    service_s, cold_start_s = demand.service_s, demand.cold_start_s
    window_s = min(arrival_window_s(cold_start_s), max(1.0, demand.observed_s))
    arrivals_per_s = max(0, demand.arrivals - 1) / window_s  # one arrival proves no rate
    capacity = sum(max(0.0, cold_start_s - t) for t in demand.available_in_s) * concurrency / service_s
    backlog = max(0.0, waiting + arrivals_per_s * cold_start_s - capacity)
    horizon_s = max(rule.target_s, service_s, rule.beta * cold_start_s)
    return max(
        workers,
        1,
        _ceil(backlog * service_s / (concurrency * horizon_s)),
        _ceil(arrivals_per_s * service_s / (_RHO * concurrency)) if backlog else 0,
    )


def _concurrency(rule: Concurrency, demand: Demand, concurrency: int) -> Wish:
    per_worker = max(0.01, _per_worker(rule, concurrency))
    if demand.ready == 0:
        wanted = _ceil(demand.load / per_worker)
        return Wish(rule=Rule.CONCURRENCY, workers=wanted, panic=wanted)
    if not demand.load:  # an average remembers longer than an idle timeout may
        return Wish(rule=Rule.CONCURRENCY, workers=0)
    return Wish(
        rule=Rule.CONCURRENCY,
        workers=_ceil(demand.load_stable / per_worker),
        panic=_ceil(demand.load_panic / per_worker),
    )


def _ceil(value: float) -> int:
    return math.ceil(value - _ROUNDING)

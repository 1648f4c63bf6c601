"""How many workers should an endpoint have?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, assert_never

from gpud.core.endpoint import PolicyName, ScalePolicy
from gpud.core.pacing import Pace, PaceMemory, ScaleDecision, ScaleReason, decide
from gpud.core.patience import patience_s
from gpud.core.policies import (
    PANIC_WINDOW_S,
    STABLE_WINDOW_S,
    AnyRule,
    Concurrency,
    Demand,
    Fixed,
    QueueDelay,
    RequestCount,
    arrival_window_s,
    available_in_s,
    ready_in_s,
)
from gpud.core.worker import STEPPED_DOWN, Worker, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.ids import WorkerId
    from gpud.core.world import EndpointSeen

_NOTHING = PaceMemory()
ASLEEP = ScaleDecision(desired=0, reason=ScaleReason.IDLE)
_SERVING = frozenset({WorkerState.READY, WorkerState.NOT_READY}) | STEPPED_DOWN
_NOT_BEGUN = frozenset({WorkerState.PENDING, WorkerState.PULLING})
_AVAILABLE = frozenset({WorkerState.READY, WorkerState.PAUSED})


def desired_workers(
    seen: EndpointSeen, workers: Sequence[Worker], in_flight: Mapping[WorkerId, int], *, now_s: float
) -> tuple[ScaleDecision, PaceMemory]:
    """Decide how many workers an endpoint should have.

    Args:
        seen: The endpoint with its load and its luck.
        workers: Its workers that count, of the present revision.
        in_flight: Requests at each worker.
        now_s: Loop time.

    Returns:
        A count within `min_workers..max_workers` with its reason, and what to remember.
    """
    decision, pace = _unlimited(seen, workers, in_flight, now_s=now_s)
    if seen.spent is not None:
        begun = sum(worker.state not in _NOT_BEGUN for worker in workers)
        if decision.desired > begun:
            reason, needed = ScaleReason.BUDGET_SPENT, min(decision.needed, begun)
            decision = replace(decision, desired=begun, needed=needed, reason=reason)
    return decision, pace


def _unlimited(
    seen: EndpointSeen, workers: Sequence[Worker], in_flight: Mapping[WorkerId, int], *, now_s: float
) -> tuple[ScaleDecision, PaceMemory]:
    """The same without any budget."""
    scale = seen.endpoint.spec.scale
    if seen.resting:
        return kept_at(scale.min_workers), seen.pace
    if _sleeps_on(seen, workers):
        return ASLEEP, seen.pace
    starts_max = None
    if seen.starts.failures:  # half open: one start shows whether more make sense
        probing = any(worker.state not in _SERVING for worker in workers)
        starts_max = int(seen.starts.may_start(now_s=now_s) and not probing)
    return decide(
        pace_of(scale, cold_start_s=seen.cold_start_s, warm_workers=seen.window_open.workers),
        demand_of(seen, workers, in_flight, now_s=now_s),
        seen.pace,
        workers=len(workers),
        now_s=now_s,
        starts_max=starts_max,
    )


@cache
def kept_at(min_workers: int) -> ScaleDecision:
    """What is decided about an endpoint that rests."""
    if not min_workers:
        return ASLEEP
    return ScaleDecision(desired=min_workers, reason=ScaleReason.MIN_WORKERS)


def _sleeps_on(seen: EndpointSeen, workers: Sequence[Worker]) -> bool:
    """Whether nothing is there and nothing is asked for: most endpoints, most of the time."""
    scale = seen.endpoint.spec.scale
    return (
        not workers
        and not seen.load
        and not scale.min_workers
        and not seen.window_open.workers
        and scale.max_workers > 0
        and scale.policy is not PolicyName.FIXED
        and not scale.more_policies
        and seen.pace == _NOTHING
    )


def pace_of(scale: ScalePolicy, *, cold_start_s: float = 60.0, warm_workers: int = 0) -> Pace:
    """What an endpoint's scale policy means for the decision.

    Args:
        scale: The policy.
        cold_start_s: Usual time of a start.
        warm_workers: Asked for by its windows now.
    """
    return Pace(
        rules=tuple(_rule(name, scale) for name in (scale.policy, *scale.more_policies)),
        concurrency=scale.concurrency,
        min_workers=scale.min_workers,
        warm_workers=warm_workers,
        max_workers=scale.max_workers,
        activation_scale=scale.activation_workers,
        scale_down_delay_s=min(scale.scale_down_delay_s, patience_s(scale, cold_start_s)),
    )


def _rule(name: PolicyName, scale: ScalePolicy) -> AnyRule:
    match name:
        case PolicyName.CONCURRENCY:
            return Concurrency(per_worker=scale.target)
        case PolicyName.QUEUE_DELAY:
            return QueueDelay(target_s=scale.queue_delay_s, beta=scale.beta)
        case PolicyName.REQUEST_COUNT:
            return RequestCount(per_worker=scale.target)
        case PolicyName.FIXED:
            return Fixed(workers=scale.max_workers)
        case _:
            assert_never(name)


def demand_of(
    seen: EndpointSeen, workers: Sequence[Worker], in_flight: Mapping[WorkerId, int], *, now_s: float
) -> Demand:
    """Put together what the rules look at."""
    scale, cold_start_s = seen.endpoint.spec.scale, seen.cold_start_s
    available = []
    for worker in workers:
        if worker.state in _AVAILABLE:
            busy = in_flight.get(worker.id, 0)
            available.append(
                available_in_s(in_flight=busy, concurrency=scale.concurrency, service_s=seen.service_s)
            )
        else:
            age_s = now_s - worker.since_s if worker.state is WorkerState.STARTING else 0.0
            available.append(ready_in_s(age_s=age_s, cold_start_s=cold_start_s))
    return Demand(
        waiting=seen.waiting,
        in_flight=max(0, seen.load - seen.waiting),
        oldest_wait_s=seen.oldest_wait_s if seen.waiting else 0.0,
        load_stable=seen.average.average(now_s=now_s, window_s=STABLE_WINDOW_S),
        load_panic=seen.average.average(now_s=now_s, window_s=PANIC_WINDOW_S),
        load_peak=max(seen.load, seen.window.peak(now_s=now_s, span_s=seen.patience_s)),
        load_peak_of_last=(
            max(seen.load, seen.window.peak(now_s=now_s, span_s=scale.scale_to_zero_delay_s))
            if scale.scale_to_zero_delay_s
            else None
        ),
        arrivals=seen.arrivals.count(now_s=now_s, window_s=arrival_window_s(cold_start_s)),
        observed_s=seen.arrivals.observed_s(now_s=now_s),
        service_s=seen.service_s,
        cold_start_s=cold_start_s,
        available_in_s=tuple(available),
        ready=sum(worker.state is WorkerState.READY for worker in workers),
    )

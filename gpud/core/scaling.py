"""How many workers should an endpoint have?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from gpud.core.endpoint import PolicyName

if TYPE_CHECKING:
    from gpud.core.endpoint import ScalePolicy

_UTILISATION = 0.7
"""Share of a worker's concurrency the rule aims for, as Knative's KPA; 1 for concurrency 1,
where 0.7 of one would always ask for two."""


class ScaleReason(StrEnum):
    """Why this many."""

    LOAD = "load"
    MIN_WORKERS = "min_workers"
    MAX_WORKERS = "max_workers"
    FIXED = "fixed"
    IDLE = "idle"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDecision:
    """How many workers an endpoint should have, and why."""

    desired: int
    reason: ScaleReason


def requests_per_worker(policy: ScalePolicy) -> float:
    """Load one worker is meant to carry before another is started."""
    if policy.target:
        return policy.target
    return 1.0 if policy.concurrency == 1 else policy.concurrency * _UTILISATION


def desired_workers(policy: ScalePolicy, *, load_peak: int) -> ScaleDecision:
    """Decide how many workers an endpoint should have.

    Growth is immediate; shrinking waits, because `load_peak` remembers the busiest moment of
    the last `idle_timeout_s`.

    Args:
        policy: Legal by construction.
        load_peak: Most requests in flight plus waiting at any one moment of the last
            `policy.idle_timeout_s` seconds, now included.

    Returns:
        A count within `min_workers..max_workers`, and the reason for it.
    """
    if policy.max_workers == 0:
        return ScaleDecision(desired=0, reason=ScaleReason.PAUSED)
    match policy.policy:
        case PolicyName.FIXED:
            return ScaleDecision(desired=policy.max_workers, reason=ScaleReason.FIXED)
        case PolicyName.CONCURRENCY:
            needed = math.ceil(load_peak / requests_per_worker(policy) - 1e-9)
        case _:
            assert_never(policy.policy)
    if needed > policy.max_workers:
        return ScaleDecision(desired=policy.max_workers, reason=ScaleReason.MAX_WORKERS)
    if needed > policy.min_workers:
        return ScaleDecision(desired=needed, reason=ScaleReason.LOAD)
    reason = ScaleReason.MIN_WORKERS if policy.min_workers else ScaleReason.IDLE
    return ScaleDecision(desired=policy.min_workers, reason=reason)

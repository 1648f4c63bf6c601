"""Which ready workers are left out because requests to them keep failing at the gateway?

Only failures that say something about the worker count: no connection, a connection broken before the
answer, and the worker's own 502, 503 and 504. An application's 500 is an answer like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gpud.core.ids import WorkerId

FAILURES_MAX = 5
"""Consecutive failures after which a worker is left out."""
EJECTION_S = 30.0
"""How long, times the number of ejections."""
EJECTION_S_MAX = 300.0
FORGET_S = 300.0
"""Clean time after which one ejection is forgotten."""
EJECTED_SHARE_MAX = 0.5
"""Most of the ready workers that are left out at once; the last one never is."""

EJECTIONS_MAX = 3
"""Ejections within `RECYCLE_WINDOW_S` after which a worker is replaced."""
RECYCLE_WINDOW_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How requests to one worker have gone lately.

    Args:
        failures: Consecutive ones.
        ejections: Not yet forgotten ones.
        ejected_until_s: Loop time; in the past when it is not left out.
        changed_s: Loop time of the last failure.
    """

    failures: int = 0
    ejections: int = 0
    ejected_until_s: float = 0.0
    changed_s: float = 0.0


GOOD = Standing()


def after_failure(standing: Standing, now_s: float) -> Standing:
    """Count a failure; the last of a row of them ejects."""
    standing = _forgetting(standing, now_s)
    failures = standing.failures + 1
    if failures < FAILURES_MAX:
        return replace(standing, failures=failures, changed_s=now_s)
    ejections = standing.ejections + 1
    until_s = now_s + min(EJECTION_S_MAX, EJECTION_S * ejections)
    return Standing(ejections=ejections, ejected_until_s=until_s, changed_s=now_s)


def after_success(standing: Standing, now_s: float) -> Standing:
    """Forget failures: they were not in a row."""
    return replace(_forgetting(standing, now_s), failures=0)


def ejected(
    standings: Mapping[WorkerId, Standing], ready: Collection[WorkerId], now_s: float
) -> frozenset[WorkerId]:
    """Name the workers to leave out now: those whose time is longest, and not too many.

    Args:
        standings: Of workers that have failed lately.
        ready: Workers that could be chosen.
        now_s: Loop time.
    """
    out = [
        worker_id
        for worker_id in ready
        if worker_id in standings and standings[worker_id].ejected_until_s > now_s
    ]
    most = min(int(len(ready) * EJECTED_SHARE_MAX), len(ready) - 1)
    out.sort(key=lambda worker_id: (-standings[worker_id].ejected_until_s, worker_id))
    return frozenset(out[: max(0, most)])


def recent(ejected_at_s: Collection[float], now_s: float) -> tuple[float, ...]:
    """Keep the moments of ejection that still count towards replacing the worker."""
    return tuple(at_s for at_s in ejected_at_s if now_s - at_s <= RECYCLE_WINDOW_S)


def _forgetting(standing: Standing, now_s: float) -> Standing:
    since_s = max(standing.changed_s, standing.ejected_until_s)
    forgotten = int(max(0.0, now_s - since_s) // FORGET_S)
    if not forgotten or not standing.ejections:
        return standing
    return replace(standing, ejections=max(0, standing.ejections - forgotten), changed_s=now_s)

"""May a request pass to a worker now, must it be held, or is it refused?"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.routing import Route


class Admission(StrEnum):
    """What becomes of a request that just arrived."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    HOLD = "hold"
    REFUSE = "refuse"
    QUEUE_FULL = "queue_full"


def admit(route: Route, *, waiting: int, free_slot: bool) -> Admission:
    """Decide about one request.

    Nobody overtakes: while requests are held, a new one joins them even if a slot is free.
    A refusal stands in for holding only: an endpoint whose further starts fail still serves
    from the workers it has, and requests wait for those.

    Args:
        route: The endpoint's present route.
        waiting: Requests held now.
        free_slot: A ready worker has room.
    """
    if waiting == 0 and free_slot:
        return Admission.PASS
    if route.refusal is not None and not route.workers:
        return Admission.REFUSE
    if waiting >= route.max_queue:
        return Admission.QUEUE_FULL
    return Admission.HOLD


def queue_retry_after_s(route: Route, *, waiting: int, service_s: float) -> float:
    """Estimate when a full queue has drained: the work ahead over the workers that do it.

    Args:
        route: The endpoint's present route.
        waiting: Requests held now.
        service_s: Usual duration of one request, in seconds.

    Returns:
        Seconds, 1 to 600.
    """
    slots = max(1, len(route.workers) * route.concurrency)
    start_s = 0.0 if route.workers else route.expected_start_s
    return min(600.0, max(1.0, start_s + waiting * service_s / slots))

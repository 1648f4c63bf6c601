"""May a request pass to a worker now, must it be held, or is it refused?"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def giving_way(held: Mapping[str, int], newcomer: str, max_queue: int) -> str | None:
    """Name the party whose newest held request gives its place in a full queue to a newcomer's.

    Each party that waits has an equal share of the places. Whoever has less than that takes a
    place of whoever has most; a party alone has them all.

    Args:
        held: Requests held of each party; together `max_queue`.
        newcomer: Whose request just came.
        max_queue: Requests held at once.

    Returns:
        None when the newcomer is refused.
    """
    share = max_queue / len({*held, newcomer})
    if held.get(newcomer, 0) + 1 > share:
        return None
    return max(sorted(held), key=lambda party: held[party], default=None)


def queue_retry_after_s(route: Route, *, waiting: int, service_s: float) -> float:
    """Estimate when a full queue has drained: the work ahead over the workers that do it.

    Args:
        route: The endpoint's present route.
        waiting: Requests held now.
        service_s: Usual duration of one request, in seconds.

    Returns:
        Seconds, 1 to 600.
    """
    slots = max(1, len(route.workers)) * route.concurrency
    start_s = 0.0 if route.workers else route.expected_start_s
    return min(600.0, max(1.0, start_s + waiting * service_s / slots))

"""Why a request gets no slot, said so that its sender knows what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.admission import queue_retry_after_s
from gpud.errors import (
    Asleep,
    BudgetSpent,
    ColdStartTimeout,
    Conflict,
    GpudError,
    NoCapacity,
    NotFound,
    QueueFull,
    Unavailable,
    WorkerUnreachable,
)

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName
    from gpud.core.routing import Refusal, Route, RoutingTable


def refused(refusal: Refusal) -> GpudError:
    """Make the error an endpoint's refusal stands for; its slug may be of any class."""
    kinds: list[type[GpudError]] = [GpudError]
    while kinds:
        kind = kinds.pop()
        if kind.slug == refusal.slug:
            reason = "circuit_open" if refusal.slug == "start-failed" else refusal.slug.replace("-", "_")
            return kind(refusal.detail, retry_after_s=refusal.retry_after_s, extra={"reason": reason})
        kinds.extend(kind.__subclasses__())
    return Unavailable(
        refusal.detail, retry_after_s=refusal.retry_after_s, extra={"reason": refusal.slug.replace("-", "_")}
    )


def require_budget(table: RoutingTable, key: str, now_s: float) -> None:
    """See that a key that must wait for a worker may have one started.

    Raises:
        BudgetSpent: Nothing is left of its budget.
    """
    spent = table.keys_spent.get(key)
    if spent is not None:
        raise BudgetSpent(
            f"{spent.detail} Its requests run at workers that have a free place, and wait for none.",
            retry_after_s=max(spent.ends_at_s - now_s, 1.0),
            extra={"reason": "budget_spent"},
        )


def require_budget_of_job(table: RoutingTable, endpoint: EndpointName, key: str, now_s: float) -> None:
    """See that a job of a key may wait for workers of an endpoint.

    Raises:
        BudgetSpent: None is ready, and nothing is left of the key's budget.
    """
    route = table.routes.get(endpoint)
    if table.keys_spent and (route is None or not route.workers):
        require_budget(table, key, now_s)


def deleted(name: str) -> NotFound:
    """Say that the endpoint went away."""
    return NotFound(f"The endpoint {name} was deleted while the request waited.")


def none_reached(name: str, waited_s: float) -> WorkerUnreachable:
    """Say that there are workers and none took a connection."""
    return WorkerUnreachable(
        unreachable_text(name, f"No worker of {name} took a connection for {waited_s:g} s")
    )


def hold_ended(route: Route, waited_s: float, waiting: int, service_s: float) -> GpudError:
    """Say why a request was held in vain: no worker, or workers without room."""
    name = route.endpoint
    extra: dict[str, object] = {"waited_s": round(waited_s, 3), "workers": len(route.workers)}
    if route.workers:
        return NoCapacity(
            f"All {len(route.workers)} workers of {name} were full for {waited_s:.1f} s. "
            "Try again later, or raise scale.max_workers or scale.concurrency.",
            retry_after_s=queue_retry_after_s(route, waiting=waiting, service_s=service_s),
            extra={**extra, "reason": "no_capacity"},
        )
    because = f" ({route.waiting_for})" if route.waiting_for else ""
    return ColdStartTimeout(
        f"No worker of {name} became ready within {waited_s:.1f} s{because}. "
        f"`gpud endpoint get {name}` says what it waits for.",
        retry_after_s=max(1.0, route.expected_start_s),
        extra={**extra, "reason": route.waiting_for or "cold_start_timeout"},
    )


def queue_full(route: Route, waiting: int, service_s: float) -> QueueFull:
    """Say that no more may wait, and when the queue should have drained."""
    return QueueFull(
        f"{waiting} requests of {route.endpoint} are waiting, as many as limits.max_queue allows. "
        "Try again later, or raise max_queue, max_workers or concurrency.",
        retry_after_s=queue_retry_after_s(route, waiting=waiting, service_s=service_s),
        extra={"waiting": waiting, "max_queue": route.max_queue, "reason": "queue_full"},
    )


def gave_way(route: Route, waiting: int, service_s: float) -> QueueFull:
    """Say to the newest request of whoever holds most that another's took its place."""
    return QueueFull(
        f"{waiting} requests of {route.endpoint} are waiting, as many as limits.max_queue allows, and "
        "another caller has less than its share of them. Try again later, or send fewer requests at once.",
        retry_after_s=queue_retry_after_s(route, waiting=waiting, service_s=service_s),
        extra={"waiting": waiting, "max_queue": route.max_queue, "reason": "queue_share"},
    )


def unreachable_text(endpoint: str, detail: str) -> str:
    """Add to what happened what to do about it."""
    return (
        f"{detail.rstrip('.')}. `gpud worker ls --endpoint {endpoint}` shows its workers; "
        "it is safe to try again."
    )


def asleep(route: Route) -> GpudError:
    """Say to a monitor that no worker is ready."""
    if route.refusal is not None:
        return refused(route.refusal)
    return Asleep(
        f"No worker of {route.endpoint} is ready, and requests of this kind start none "
        "(requests.quiet_methods, requests.quiet_paths).",
        extra={"reason": "asleep"},
    )


def stopping() -> Unavailable:
    """Say that the daemon is going down."""
    return Unavailable("gpud is stopping; try again in a moment.", retry_after_s=1.0)


def jobs_only(endpoint: str) -> Conflict:
    """Say that an endpoint's workers fetch jobs and take no requests."""
    return Conflict(
        f"{endpoint} is a queue endpoint: its workers fetch jobs and take no requests. Send a job to "
        f"/v2/{endpoint}/run, or an OpenAI call to /v2/{endpoint}/openai/v1."
    )

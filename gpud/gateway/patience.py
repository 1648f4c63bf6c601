"""How long may an exchange still take? Looked at once a second."""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING

from gpud.errors import RequestTimeout

if TYPE_CHECKING:
    from gpud.core.routing import Route
    from gpud.gateway.exchange import Exchange
    from gpud.gateway.lane import Slot


def limit_s(route: Route, slot: Slot | None) -> float:
    """Longest time from dispatch to the last byte; a worker's first answer has a limit of its own."""
    first_s = route.first_request_timeout_s
    return first_s if first_s > 0 and slot is not None and slot.first else route.request_timeout_s


def exceeded(exchange: Exchange, now_s: float, *, answering: bool) -> RequestTimeout | None:
    """Say what took too long, if anything did.

    Args:
        exchange: Which.
        now_s: Loop time.
        answering: Its answer has begun.
    """
    route = exchange.route
    if route is None:
        return None
    silent_s = route.stream_idle_timeout_s
    if answering and silent_s and _silence_s(exchange, now_s) > silent_s:
        return RequestTimeout(
            f"The worker sent nothing for {silent_s:g} s inside its answer (limits.stream_idle_timeout_s)."
        )
    if exchange.deadline_s and now_s >= exchange.deadline_s:
        took_s = exchange.deadline_s - exchange.dispatched_s
        first = route.first_request_timeout_s > 0 and isclose(took_s, route.first_request_timeout_s)
        setting = "first_request_timeout_s" if first else "request_timeout_s"
        return RequestTimeout(f"The worker did not finish within {took_s:g} s (limits.{setting}).")
    return None


def _silence_s(exchange: Exchange, now_s: float) -> float:
    """For how long the worker has sent nothing although the client would have taken it."""
    connection = exchange.connection
    if connection is None or connection.heard or exchange.client.writing_paused or not exchange.quiet_since_s:
        if connection is not None:
            connection.heard = False
        exchange.quiet_since_s = now_s
    return now_s - exchange.quiet_since_s

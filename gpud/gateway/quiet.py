"""Does a request start nothing and keep nothing awake? Monitors ask all day, and mean nobody's work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.request_rules import is_quiet

if TYPE_CHECKING:
    from gpud.core.routing import Route
    from gpud.gateway.heads import RequestHead

_LOUD = (b"x-gpud-wake:", b"access-control-request-method:")
"""Fields of requests that start a worker all the same: asked for, or a browser's word that one follows."""


def starts_nothing(head: RequestHead, route: Route, target: str) -> bool:
    """Whether a request is a monitor's, as far as its head tells."""
    if head.websocket or not is_quiet(route.quiet_methods, route.quiet_paths, head.method, target):
        return False
    return not any(line.lower().startswith(_LOUD) for line in head.lines)

"""What an endpoint's spec says about single requests: which are refused, and which start nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.request_path import is_request_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gpud.core.endpoint import EndpointSpec

PATHS_MAX = 64
"""Most paths in one list."""
_QUIET_METHODS = ("HEAD", "OPTIONS", "GET")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """How single requests are treated. Applies at once, outside revisions.

    Args:
        denied_paths: Refused with 403, however they are written; a `*` at the end means all that begin so.
        quiet_methods: Requests with one of these start no worker, and keep none.
        quiet_paths: GETs of these, and of the health path, likewise.
        progress: A held request for a stream of events is told how the start goes.
    """

    denied_paths: tuple[str, ...] = ()
    quiet_methods: tuple[str, ...] = ("HEAD", "OPTIONS")
    quiet_paths: tuple[str, ...] = ("/metrics", "/v1/models")
    progress: bool = False


def quiet_paths(spec: EndpointSpec) -> frozenset[str]:
    """Paths that monitors ask for; the root is somebody's page, whoever probes it."""
    health = {spec.health.path.partition("?")[0]} - {"/"}
    return frozenset(spec.requests.quiet_paths) | health


def is_quiet(methods: Collection[str], paths: Collection[str], method: str, target: str) -> bool:
    """Whether a request is one of a monitor's, which neither starts nor keeps a worker."""
    return method in methods or (method == "GET" and target.partition("?")[0] in paths)


def require_rules(rules: RequestRules, require: Callable[[bool, str, str], None]) -> None:
    """Name each fault."""
    for name in ("denied_paths", "quiet_paths"):
        paths: tuple[str, ...] = getattr(rules, name)
        require(len(paths) <= PATHS_MAX, f"requests.{name}", f"may have {PATHS_MAX} paths")
        for i, path in enumerate(paths):
            require(
                is_request_path(path) and not set(path) & set("?#%"),
                f"requests.{name}.{i}",
                "must start with '/' and hold printable ASCII without ' ', '?', '#' and '%'",
            )
            star = "*" in (path[:-1] if name == "denied_paths" else path)
            where = "only at its end" if name == "denied_paths" else "nowhere: it names one path"
            require(not star, f"requests.{name}.{i}", f"may hold '*' {where}")
    require(
        set(rules.quiet_methods) <= set(_QUIET_METHODS),
        "requests.quiet_methods",
        f"may hold {', '.join(_QUIET_METHODS)}",
    )

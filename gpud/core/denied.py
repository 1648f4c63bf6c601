"""Which paths of an endpoint does the gateway refuse? A worker's control paths are not for its callers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from gpud.core.step_policy import hooks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.endpoint import EndpointSpec


def denied_paths(spec: EndpointSpec) -> tuple[str, ...]:
    """List the patterns that hold for an endpoint, to be given to `denied`.

    Those are the paths that its spec names, and those by which its workers are put to sleep and woken.
    """
    own = spec.requests.denied_paths
    if not spec.sleep.on:
        return own
    steering = (path for path in hooks_of(spec.sleep).control_paths if path != spec.health.path)
    return tuple(dict.fromkeys((*own, *steering)))


def denied(patterns: Sequence[str], target: str) -> bool:
    """Whether a request target means one of some paths, however it is written.

    A server may decode a path, merge slashes, resolve dot segments, drop parameters or a trailing slash,
    or do nothing of it. So each reading counts, and a target that means a denied path in one is refused.

    Args:
        patterns: Paths as servers know them; one that ends in `*` means all that begin so.
        target: In origin form, query included.
    """
    path = _decoded(target.partition("?")[0]).replace("\\", "/")
    plain = [part.partition(";")[0] for part in path.split("/")]
    readings = {_joined(plain), _joined(_resolved(plain))}
    if path.startswith("//"):  # some read what follows as a host
        readings.add(_joined(plain[3:]))
    return any(_matches(pattern, reading) for pattern in patterns for reading in readings)


def _decoded(path: str) -> str:
    """Decode as often as there is anything to decode; each time makes it shorter."""
    while "%" in path:
        once = unquote(path, errors="replace")
        if once == path:
            break
        path = once
    return "".join(character for character in path if character > " ")


def _resolved(parts: list[str]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    return kept


def _joined(parts: list[str]) -> str:
    return "/" + "/".join(part for part in parts if part)


def _matches(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        beginning = pattern[:-1]
        return path.startswith(beginning) or path + "/" == beginning
    return path == (pattern.rstrip("/") or "/")

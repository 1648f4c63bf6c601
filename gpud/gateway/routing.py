"""Which upstream does a request go to? A pure function of its target and the routing table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from gpud.core.ids import ENDPOINT_NAME, EndpointName
from gpud.errors import NotFound

if TYPE_CHECKING:
    from gpud.core.routing import Route, RoutingTable

_ENDPOINT_PATH = re.compile(r"/e/([^/?]+)(.*)", re.DOTALL)
_OPENAI_PREFIX = "/openai/v1"


class ToEndpoint(NamedTuple):
    """Forward to a worker of the endpoint, with this request target."""

    name: EndpointName
    target: str


class AsJob(NamedTuple):
    """Make a job of it if that is possible, else forward it like `ToEndpoint`."""

    name: EndpointName
    target: str


class ByModel(NamedTuple):
    """Read `model` in the body, then forward with this request target."""

    target: str


class ModelList(NamedTuple):
    """Answer with the models the key may call; wakes nothing."""


class ToControl(NamedTuple):
    """Hand to the control API, unchanged."""


Upstream = ToEndpoint | AsJob | ByModel | ModelList | ToControl
CONTROL = ToControl()
MODELS = ModelList()


def endpoint_in_host(host: bytes | None, domain: str) -> EndpointName | None:
    """Read `<endpoint>.<domain>` in a Host field; None when it is another host's or there is no domain."""
    if not domain or host is None:
        return None
    name, _, rest = host.decode("latin-1").lower().partition(".")
    return EndpointName(name) if name and rest.partition(":")[0].removesuffix(".") == domain else None


def choose_upstream(method: str, target: str, host: bytes | None = None, domain: str = "") -> Upstream:
    """Decide from a request's head alone; the names are looked up afterwards.

    `/e/<endpoint>/rest?query` is forwarded as `/rest?query`, `/e/<endpoint>` as `/`. The path is
    passed on as it was written: it is neither decoded nor normalised. A host name of the form
    `<endpoint>.<domain>` goes before every path: all of that host is the endpoint's.

    Args:
        method: As it was sent.
        target: In origin form.
        host: The Host field.
        domain: `server.domain`; empty for none.
    """
    named = endpoint_in_host(host, domain) if domain else None
    if named is not None:
        return ToEndpoint(named, target)
    if target.startswith("/e/"):
        found = _ENDPOINT_PATH.match(target)
        if found is not None:
            name, rest = found.groups()
            return ToEndpoint(EndpointName(name), rest if rest.startswith("/") else "/" + rest)
    elif target.startswith(_OPENAI_PREFIX):
        path = target.partition("?")[0]
        if path == "/openai/v1/models" and method in ("GET", "HEAD"):
            return MODELS
        if path.startswith("/openai/v1/") and method == "POST":
            return ByModel(target.removeprefix("/openai"))
    return CONTROL


def find_route(table: RoutingTable, name: EndpointName) -> Route:
    """Look an endpoint up.

    Raises:
        NotFound: None of that name.
    """
    route = table.routes.get(name)
    if route is None:
        shown = name if ENDPOINT_NAME.match(name) else "that name"
        raise NotFound(f"There is no endpoint named {shown}. `gpud endpoint ls` lists them.")
    return route


def find_model(table: RoutingTable, model: str) -> EndpointName:
    """Look an OpenAI model name up: an alias first, then an endpoint's own name.

    Raises:
        NotFound: Neither.
    """
    name = table.aliases.get(model)
    if name is not None:
        return name
    if EndpointName(model) in table.routes:
        return EndpointName(model)
    known = ", ".join(sorted({*table.aliases, *table.routes})[:20]) or "none"
    raise NotFound(f"The model {model[:120]!r} is served by no endpoint. Models here: {known}.")

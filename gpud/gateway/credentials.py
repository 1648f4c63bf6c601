"""Who is calling: finds the key in a request and checks it against an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.key_shares import PUBLIC
from gpud.errors import Forbidden, GpudError, NotFound, TooManyAttempts, Unauthenticated
from gpud.gateway.routing import find_model, find_route

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName
    from gpud.core.routing import Route, RoutingTable
    from gpud.ports.traffic import KeyRing

_NEVER_GRANTED = "invoke:"


def token_of(authorization: str | None, api_key: str | None) -> str | None:
    """Read the key from `Authorization: Bearer` or else from `X-API-Key`."""
    if authorization is not None:
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    return api_key.strip() if api_key and api_key.strip() else None


def counted(keys: KeyRing, error: GpudError, token: str | None, peer: str) -> GpudError:
    """Count a request whose key was not valid; what its sender is told instead when there were too many."""
    if token is None or not isinstance(error, Unauthenticated):
        return error
    try:
        keys.note_failure(peer)
    except TooManyAttempts as too_many:
        return too_many
    return error


def allowed_route(
    keys: KeyRing, table: RoutingTable, name: EndpointName, token: str | None
) -> tuple[Route, str]:
    """Look an endpoint up on behalf of a caller, and say on whose account its requests run.

    A caller without a good key learns nothing about which names exist, public ones excepted.

    Raises:
        Unauthenticated: No good key, and the endpoint is not public.
        Forbidden: The key may not invoke this endpoint.
        NotFound: The key is good and there is no such endpoint.
    """
    route = table.routes.get(name)
    if route is not None:
        if route.public:
            return route, PUBLIC
        return route, keys.authorize(token, f"invoke:{name}").id
    require_any_key(keys, token)
    return find_route(table, name), PUBLIC


def allowed_model(keys: KeyRing, table: RoutingTable, model: str, token: str | None) -> tuple[Route, str]:
    """Look a model up on behalf of a caller; raises as `allowed_route`."""
    try:
        name = find_model(table, model)
    except NotFound:
        require_any_key(keys, token)
        raise
    return allowed_route(keys, table, name, token)


def callable_models(keys: KeyRing, table: RoutingTable, token: str | None) -> list[str]:
    """List the model names a caller may use: endpoints by their aliases, else by their name.

    Raises:
        Unauthenticated: No good key, and nothing here is public.
    """
    if not any(route.public for route in table.routes.values()):
        require_any_key(keys, token)
    aliased = set(table.aliases.values())
    names: dict[str, EndpointName] = {str(name): name for name in table.routes if name not in aliased}
    names.update(table.aliases)
    return sorted(model for model, name in names.items() if _may_invoke(keys, table, name, token))


def require_any_key(keys: KeyRing, token: str | None) -> None:
    """Check that the key is good, whatever it may do.

    Raises:
        Unauthenticated: It is not.
    """
    try:
        keys.authorize(token, _NEVER_GRANTED)
    except Forbidden:
        return


def _may_invoke(keys: KeyRing, table: RoutingTable, name: EndpointName, token: str | None) -> bool:
    try:
        allowed_route(keys, table, name, token)
    except (Unauthenticated, Forbidden, NotFound):
        return False
    return True

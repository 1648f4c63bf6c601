"""Finds out who asks, and refuses what the caller may not do.

A process of root or of the daemon's own user that connects through the Unix socket is an
administrator without a key; the kernel says who it is. Everyone else brings a bearer token,
and nothing in a header but that token ever counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from gpud.api.dialects import Dialect, dialect_of
from gpud.api.operations import Scope, operation_of
from gpud.api.services import SERVICES
from gpud.core import keys
from gpud.errors import Forbidden, GpudError, Unauthenticated
from gpud.gateway.local import LocalPeer, local_peer

if TYPE_CHECKING:
    from gpud.api.operations import Handler

_BEARER = "bearer "

LOCAL = "local"
"""Name of the administrator at the Unix socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a key, or the administrator at the Unix socket."""

    name: str
    scopes: tuple[str, ...]


CALLER = web.RequestKey("CALLER", Caller)
ADMINISTRATOR_UIDS = web.AppKey("ADMINISTRATOR_UIDS", frozenset[int])

_FROM_BROWSERS = frozenset({hdrs.ORIGIN, "Sec-Fetch-Site"})
"""A browser puts them into what it sends for a page, and takes no other word for them."""
_NO_BROWSERS = (
    "A browser's request came through the Unix socket, as through a front-end that connects there: nobody is "
    "an administrator by that. Have the front-end connect to the TCP port, and send a key."
)
_ADMINISTRATOR = Caller(name=LOCAL, scopes=(keys.ADMIN,))


@web.middleware
async def identity_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request pass to its handler only when its caller may do that."""
    operation = operation_of(request)
    if operation is None:
        if request.match_info.http_exception is None:
            raise Forbidden("This route asks for no scope, so nobody may use it.")
        return await handler(request)
    if operation.scope is Scope.INVOKE:
        request[CALLER] = caller_of(request, keys.invoke_scope(request.match_info["endpoint"]))
    elif operation.scope is not Scope.OPEN and not (operation.key_may_follow and _may_send_it_later(request)):
        request[CALLER] = caller_of(request, operation.scope)
    return await handler(request)


def _may_send_it_later(request: web.Request) -> bool:
    """Whether it opens a WebSocket without a key in its head, where a browser cannot put one."""
    return is_websocket(request) and hdrs.AUTHORIZATION not in request.headers


def is_websocket(request: web.Request) -> bool:
    """Whether a request asks to go on as a WebSocket."""
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def caller_of(request: web.Request, scope: str, *, token: str | None = None) -> Caller:
    """Who asks, if they may do what `scope` says.

    Args:
        request: What they ask.
        scope: What it needs.
        token: Of a key that came by another way than the header.

    Raises:
        Unauthenticated, Forbidden, TooManyAttempts: They may not.
    """
    token = _bearer_token(request) if token is None else token
    uid = peer_uid(request)
    if token is None and uid is not None and uid in request.app[ADMINISTRATOR_UIDS]:
        if not _FROM_BROWSERS.isdisjoint(request.headers):
            raise Unauthenticated(_NO_BROWSERS)
        return _ADMINISTRATOR
    peer = source_of(request)
    key = request.app[SERVICES].keyring.authorize_from(peer, token, scope)
    return Caller(name=key.id, scopes=key.scopes)


def source_of(request: web.Request) -> str:
    """Where a request comes from: `uid 0` at a Unix socket, else an address."""
    uid = peer_uid(request)
    return f"uid {uid}" if uid is not None else _address_of(request)


def may_read(request: web.Request) -> bool:
    """Whether the caller of an open route could read as well."""
    try:
        caller_of(request, keys.READ)
    except GpudError:
        return False
    return True


def _bearer_token(request: web.Request) -> str | None:
    header = request.headers.get(hdrs.AUTHORIZATION)
    if header is None:
        return None
    if dialect_of(request.path) is not Dialect.GPUD and " " not in header.strip():
        return header.strip()  # RunPod's workers and curl samples send the bare key
    if header[: len(_BEARER)].lower() != _BEARER:
        raise Unauthenticated(
            "The Authorization header is of another kind. Send Authorization: Bearer gpud_…."
        )
    return header[len(_BEARER) :].strip()


def _address_of(request: web.Request) -> str:
    """The address of the other end, asked of the transport: the gateway's wire changes its peer."""
    peername = request.transport.get_extra_info("peername") if request.transport else None
    return str(peername[0] if isinstance(peername, tuple | list) and peername else peername or "unknown")


def peer_uid(request: web.Request) -> int | None:
    """The user id of the process at the other end of a Unix socket, as the kernel tells; None elsewhere."""
    transport = request.transport
    if transport is None:
        return None
    # The gateway passes on who is at its own Unix socket; no header can be mistaken for it.
    passed_on = transport.get_extra_info("peername")
    peer = passed_on if isinstance(passed_on, LocalPeer) else local_peer(transport)
    return peer.uid if peer else None

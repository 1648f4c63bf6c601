"""Refuses requests that a page of others may have had a browser send: another Host, another Origin.

A browser never sends a bearer key by itself, so whoever sends one is no such page, and is let through by
whatever name a front-end passes on. What is left is what asks for no key: the dashboard, where a person
would type one, and a WebSocket, whose key comes later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from gpud.api.identity import is_websocket, peer_uid
from gpud.core.hosts import answers_to, is_own_page
from gpud.errors import CrossOrigin, UnknownHost

if TYPE_CHECKING:
    from gpud.api.operations import Handler
    from gpud.settings import Settings

HOSTS = web.AppKey("HOSTS", frozenset)
"""Names that gpud answers to, in lower case."""
HOSTS_CHECKED = web.AppKey("HOSTS_CHECKED", bool)

_OF_MONITORS = ("/livez", "/readyz")
"""They tell nothing that a page of others could use, and monitors ask by names of their own."""


def set_hosts(app: web.Application, settings: Settings) -> None:
    """Take from the settings by which names gpud may be asked."""
    server = settings.server
    app[HOSTS] = frozenset({*server.hosts, server.domain} - {""})
    # Under TLS of our own the browser has compared the name with the certificate.
    app[HOSTS_CHECKED] = not server.tls_cert


@web.middleware
async def hosts_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let requests pass that are addressed to this daemon, or bring a key."""
    if hdrs.AUTHORIZATION not in request.headers:
        if request.app[HOSTS_CHECKED] and peer_uid(request) is None and request.path not in _OF_MONITORS:
            _check_host(request)
        if is_websocket(request):
            _check_origin(request)
    return await handler(request)


def _check_host(request: web.Request) -> None:
    host = request.headers.get(hdrs.HOST, "")
    if not answers_to(host, request.app[HOSTS]):
        raise UnknownHost(
            f"This was sent to {host[:253]!r}, and gpud does not know that name as one of its own: a page "
            "of others could have a name of theirs lead here. Use its address, or add the name to "
            "server.hosts in gpud.toml. Requests that bring a key may use any name."
        )


def _check_origin(request: web.Request) -> None:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and not is_own_page(origin, request.headers.get(hdrs.HOST, ""), request.app[HOSTS]):
        raise CrossOrigin(
            f"A page of {origin[:300]!r} may open no WebSocket here. Behind a front-end that changes the "
            "Host header, add the name that people use to server.hosts in gpud.toml."
        )

"""Which client connections have taken too long, and how are they ended? Looked at once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.gateway import answers

if TYPE_CHECKING:
    from gpud.gateway.client_side import ClientConnection
    from gpud.gateway.plane import Plane

IDLE_S_MAX = 75.0
"""How long a connection may rest between requests."""
HEAD_S_MAX = 15.0
"""How long a head may take from its first byte to its last."""
STALL_S_MAX = 60.0
"""How long a request's body may bring nothing while it is read."""
UNREAD_S_MAX = 300.0
"""How long a client may take none of the bytes that are ready for it."""
LINGER_S = 2.0
"""How long what a refused client still sends is read, so that it gets to see why."""


def sweep(client: ClientConnection, plane: Plane, now_s: float) -> None:
    """End what takes too long on one connection."""
    exchange = client.exchange
    if client.closing_since_s > 0:
        if now_s - client.closing_since_s > LINGER_S:
            client.transport.abort()
    elif client.writing_paused and now_s - client.unread_since_s > UNREAD_S_MAX:
        client.abort()
    elif exchange is not None:
        exchange.check_deadline(now_s)
        _check_stalled_body(client, now_s)
    elif client.head_since_s:
        if now_s - client.head_since_s > HEAD_S_MAX:
            client.write(answers.bad_request_bytes(answers.slow_head(HEAD_S_MAX), plane.new_request_id()))
            client.linger()
    elif now_s - client.last_s > IDLE_S_MAX:
        client.close()


def _check_stalled_body(client: ClientConnection, now_s: float) -> None:
    if client.body.done or client.stops or now_s - client.last_s <= STALL_S_MAX:
        return
    if client.exchange is not None:
        client.keep_alive = False
        client.exchange.fail(answers.stalled(STALL_S_MAX))

"""Who is at the other end of the Unix socket, and what that allows.

The kernel tells the user id of the process that connected. One of root or of the daemon's own
user is an administrator without a key; nothing a request says can claim as much.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core import keys
from gpud.core.ids import KeyId
from gpud.ports.store import ApiKey

if TYPE_CHECKING:
    import asyncio

    from gpud.ports.traffic import KeyRing

_PEER_CREDENTIALS = struct.Struct("3i")
_LOCAL_KEY = ApiKey(
    id=KeyId("local"), label="Unix socket", secret_sha256=b"", scopes=(keys.ADMIN,), created_at_ms=0
)


@dataclass(frozen=True, slots=True)
class LocalPeer:
    """A process at the Unix socket; stands where others have their address."""

    uid: int

    def __str__(self) -> str:
        return f"uid {self.uid}"


def administrators() -> frozenset[int]:
    """Users that need no key on the Unix socket: root, and the daemon's own."""
    return frozenset({0, os.getuid()})


def local_peer(transport: asyncio.BaseTransport) -> LocalPeer | None:
    """Ask the kernel who connected; None when the connection is not by Unix socket."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    # A duplicate, because the transports of some event loops show a socket that cannot be asked.
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as duplicate:
        raw = duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _pid, uid, _gid = _PEER_CREDENTIALS.unpack(raw)
    return LocalPeer(int(uid))


class LocalKeys:
    """The key ring of an administrator's connection: no key is needed, and one that is sent counts."""

    def __init__(self, others: KeyRing) -> None:
        self._others = others

    def authorize(self, token: str | None, scope: str) -> ApiKey:
        """Let a request without a key pass; raises as any key ring for one with a key."""
        return _LOCAL_KEY if token is None else self._others.authorize(token, scope)

    def note_failure(self, peer: str) -> None:
        """Count a failure as any key ring does."""
        self._others.note_failure(peer)

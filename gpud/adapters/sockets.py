"""Opens the sockets gpud listens on, and says where they are."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from gpud.errors import BadSettings

if TYPE_CHECKING:
    from pathlib import Path

_BACKLOG = 1024


def open_tcp(listen: str) -> socket.socket:
    """Open the one TCP port.

    Args:
        listen: `host:port`; port 0 takes a free one.

    Raises:
        BadSettings: The address cannot be had; the message says who may hold it.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, int(port)))
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or str(error)
        raise BadSettings(
            f"Cannot listen on {listen}: {why}. Is another gpud or program there (`ss -ltnp`)? "
            "Set server.listen to another address."
        ) from error
    listening.listen(_BACKLOG)
    listening.setblocking(False)  # noqa: FBT003 - the library asks by position
    return listening


def open_unix(path: Path) -> socket.socket:
    """Open the API's Unix socket, for root and the daemon's own user.

    A socket file left by a daemon that was killed is replaced; the store's lock makes sure
    that no other daemon of this data directory is alive.

    Raises:
        BadSettings: The directory cannot be used.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        umask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(umask)
    except OSError as error:
        listening.close()
        raise BadSettings(
            f"Cannot open the API's socket {path}: {error.strerror or error}. Set paths.run_dir to a "
            "directory that gpud may write to, with a short path."
        ) from error
    listening.listen(_BACKLOG)
    listening.setblocking(False)  # noqa: FBT003 - the library asks by position
    return listening


def address_of(listening: socket.socket) -> str:
    """Say where a TCP socket listens, as `host:port`."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

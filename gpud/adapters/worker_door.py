"""The listening socket that workers call: on the gateway address of their own network, and nowhere else.

Its address is written down at the first start and stays what it is, because workers that run have it in their
environment. Where a service manager keeps sockets over a restart it gets this one too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import structlog

from gpud.errors import DependencyDown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

ADDRESS_FILE = "worker-listener"
STORED_NAME = "workers"
"""What the socket is called where it is kept over a restart."""
_BACKLOG = 1024
_RETRY_S = 0.5
_log = structlog.get_logger(__name__)


class WorkerDoor:
    """See the module's text.

    Args:
        folder: Where the address is written down.
        port: Wanted; 0 for any at the first start, and the same from then on.
        kept: The socket as it was kept over a restart, if it was.
    """

    def __init__(self, folder: Path, *, port: int, kept: socket.socket | None = None) -> None:
        self._path = folder / ADDRESS_FILE
        self._port = port
        self._why_not = "gpud has not asked the Docker Engine for the workers' network yet."
        self.socket: socket.socket | None = kept or self._resumed()

    def base_url(self) -> str:
        """Where workers call.

        Raises:
            Unavailable: Nowhere yet, or nowhere at all.
        """
        if self.socket is None:
            raise Unavailable(f"There is no listener for workers: {self._why_not}", retry_after_s=1.0)
        host, port = self.socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def url_or_empty(self) -> str:
        """Where workers call; empty while that is nowhere."""
        return "" if self.socket is None else self.base_url()

    async def keep_open(
        self,
        gateway: Callable[[], Awaitable[str]],
        opened: Callable[[socket.socket], Awaitable[None]],
    ) -> None:
        """Open it on the address of the workers' network, or say in the log why that cannot be.

        Args:
            gateway: Asks the engine for the address.
            opened: Begins to accept on a socket; called again when the network has another address.
        """
        if self.socket is not None:
            await opened(self.socket)
        while True:
            try:
                address = await gateway()
            except DependencyDown:
                await asyncio.sleep(_RETRY_S)
                continue
            if self.socket is not None and self.socket.getsockname()[0] == address:
                return
            try:
                listening = self._bound(address)
            except OSError as error:
                self._why_not = (
                    f"{address}, the address of this box in the network of the workers, cannot be listened "
                    f"on: {error.strerror or error}. Does the engine run on another box?"
                )
                _log.error("worker_listener.unavailable", address=address, error=str(error))
                await asyncio.sleep(20 * _RETRY_S)
                continue
            before, self.socket = self.socket, listening
            if before is not None:
                # The network was made anew: whoever had the old address ended with the old one.
                _log.warning("worker_listener.moved", before=before.getsockname()[0], address=address)
            self._write_down()
            await opened(listening)
            return

    def close(self) -> None:
        """Close this process's copy; one that is kept elsewhere stays open there."""
        if self.socket is not None:
            self.socket.close()

    def _bound(self, address: str) -> socket.socket:
        remembered = self._remembered()
        wanted = self._port or (remembered[1] if remembered is not None else 0)
        try:
            return _listening(address, wanted)
        except OSError as error:
            if self._port or not wanted or error.errno != errno.EADDRINUSE:
                raise
            # Somebody else has the port of last time; workers that have it cannot be reached again.
            return _listening(address, 0)

    def _resumed(self) -> socket.socket | None:
        """The address of the last run again, at once and before the engine is asked: workers are calling."""
        remembered = self._remembered()
        if remembered is None or (self._port and remembered[1] != self._port):
            return None
        with contextlib.suppress(OSError):
            return _listening(*remembered, may_be_absent=True)
        return None

    def _remembered(self) -> tuple[str, int] | None:
        try:
            host, _, port = self._path.read_text(encoding="ascii").strip().rpartition(":")
        except (OSError, UnicodeDecodeError):
            return None
        return (host, int(port)) if host and port.isdigit() else None

    def _write_down(self) -> None:
        if self.socket is not None:
            host, port = self.socket.getsockname()[:2]
            self._path.write_text(f"{host}:{port}\n", encoding="ascii")


def _listening(address: str, port: int, *, may_be_absent: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if may_be_absent:
            # The bridge may be made only once the engine is up.
            listening.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)  # noqa: FBT003 - the library asks by position
    return listening


_IP_FREEBIND = 15
"""From linux/in.h; Python's socket module does not name it everywhere."""

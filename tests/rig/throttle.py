"""Puts a slow, stalling or failing network between a client and a loopback server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

_PIECE_BYTES = 16 * 1024


class ThrottlingProxy:
    """A TCP proxy on a free loopback port whose network can be made worse while it runs.

    Attributes:
        bytes_per_s: The most that all connections together carry to clients, None for no limit.
        cut_after_bytes: Connections are cut once this much more was carried to clients, None for never.
        stalled: Whether nothing is carried to clients; connections stay open.
        refusing: Whether new connections are closed at once.
        bytes_carried: What was carried to clients so far.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._next_s = 0.0
        self.port: int = self._listener.getsockname()[1]
        self.bytes_per_s: float | None = None
        self.cut_after_bytes: int | None = None
        self.stalled = False
        self.refusing = False
        self.bytes_carried = 0
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="throttle", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the proxy and every connection through it."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # Wakes the thread that accepts.
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cuts every connection that is open now."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            threading.Thread(target=self._carry_both_ways, args=(client,), daemon=True).start()

    def _carry_both_ways(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(client)
            try:
                server = stack.enter_context(socket.create_connection(("127.0.0.1", self._upstream_port), 10))
            except OSError:
                return
            server.settimeout(None)
            pair = {client, server}
            with self._lock:
                self._open |= pair
            upwards = threading.Thread(target=self._carry, args=(client, server), daemon=True)
            upwards.start()
            self._carry(server, client, limited=True)
            upwards.join()
            with self._lock:
                self._open -= pair

    def _carry(self, source: socket.socket, target: socket.socket, *, limited: bool = False) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                if limited and not self._may_pass(len(piece)):
                    break
                target.sendall(piece)
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _may_pass(self, count: int) -> bool:
        """Waits until the limit allows another piece; False when the connection is to be cut."""
        while self.stalled and not self._closed.is_set():
            self._closed.wait(0.01)
        with self._lock:
            now_s = time.monotonic()
            wait_s = max(0.0, self._next_s - now_s)
            self._next_s = max(now_s, self._next_s) + (count / self.bytes_per_s if self.bytes_per_s else 0.0)
            if self.cut_after_bytes is not None:
                self.cut_after_bytes -= count
                if self.cut_after_bytes < 0:
                    self.cut_after_bytes = 0
                    return False
            self.bytes_carried += count
        return not self._closed.wait(wait_s)

"""Connects the Docker SDK to a Unix socket and leaves nothing open when that fails."""

from __future__ import annotations

import socket

from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool


class _Connection(UnixHTTPConnection):  # type: ignore[misc]  # The SDK has no types.
    def connect(self) -> None:
        """Connect; the SDK's own forgets the socket when nobody listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):  # type: ignore[misc]  # The SDK has no types.
    def _new_conn(self) -> _Connection:
        return _Connection(self.base_url, self.socket_path, self.timeout)


class UnixSocketAdapter(UnixHTTPAdapter):  # type: ignore[misc]  # The SDK has no types.
    """Takes the place of the SDK's own adapter in one client, which one thread uses."""

    def get_connection(self, url: str, proxies: object = None) -> _Pool:
        """The connections to the engine; `proxies` mean nothing to a socket."""
        del proxies
        with self.pools.lock:
            pool: _Pool | None = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _Pool(
                    url, self.socket_path, self.timeout, maxsize=self.max_pool_size
                )
            return pool

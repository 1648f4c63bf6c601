"""Connects the Docker SDK to a Unix socket: shorter on the way, and nothing left open when that fails."""

from __future__ import annotations

import socket
from typing import Any

import docker
import requests
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


class SocketClient(docker.APIClient):  # type: ignore[misc]  # The SDK has no types.
    """The SDK's client of an engine behind a Unix socket, used by one thread.

    The SDK sends everything through `requests`, whose sessions merge settings, look for proxies, keep
    cookies and follow redirects: a third of a light call's CPU time, which all threads take turns for.
    The engine has none of these, so a request is prepared and sent as it is.
    """

    def __init__(self, host: str, *, version: str, timeout_s: float) -> None:
        super().__init__(base_url=host, version=version, timeout=timeout_s)
        self._to_socket = UnixSocketAdapter(f"http+{host}", timeout_s)
        self.mount("http+docker://", self._to_socket)

    def request(self, method: str, url: str, **said: Any) -> requests.Response:  # noqa: ANN401 - as there
        """Send one request; as `requests.Session.request` does, for what the SDK says of one."""
        prepared = requests.PreparedRequest()
        headers = {**self.headers, **(said.get("headers") or {})}
        prepared.prepare(method, url, headers, data=said.get("data"), params=said.get("params"))
        stream = bool(said.get("stream"))
        response: requests.Response = self._to_socket.send(
            prepared, stream=stream, timeout=said.get("timeout")
        )
        if not stream:
            _ = response.content  # read to its end, so that the connection can be used again
        return response

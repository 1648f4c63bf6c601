"""Speaks HTTP to a daemon under test, over its Unix socket or its port, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer, read to its end; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def worker(self) -> str:
        """The worker that served it."""
        return self.headers["x-gpud-worker"]


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        super().__init__("gpud", timeout=timeout_s)
        self._path = str(path)
        self._limit_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._limit_s)
        self.sock.connect(self._path)


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request and read its answer; the connection is closed.

    Raises:
        OSError: Nobody listens, the connection broke, or no answer came in time.
    """
    try:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(status=response.status, headers=names, body=response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"{method} {target}: {error!r}") from error
    finally:
        connection.close()


class Stream:
    """An answer that is read piece by piece."""

    def __init__(
        self, connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str]
    ) -> None:
        self._connection = connection
        connection.request("GET", target, headers=dict(headers))
        self._response = connection.getresponse()
        self.status = self._response.status

    @property
    def worker(self) -> str:
        """The worker that serves it."""
        return self._response.headers["X-Gpud-Worker"]

    def lines(self) -> Iterator[bytes]:
        """The lines of the answer that hold something, as they come.

        Raises:
            OSError: The connection broke before the end.
        """
        try:
            while line := self._response.readline():
                if line.strip():
                    yield line.strip()
        except http.client.HTTPException as error:
            raise ConnectionError(f"the stream broke: {error!r}") from error

    def close(self) -> None:
        """Hang up."""
        self._response.close()
        self._connection.close()

"""Makes the Docker SDK's clients: one a thread, one API version for all, and answers that stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import docker
import docker.auth
import docker.errors
import requests

from gpud.adapters.docker_socket import SocketClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

_ANY_VERSION = "1.41"
_BACKLOG = 256
"""Items of a stream that wait for the loop; then its thread waits too, and so does the engine."""


class DockerClients:
    """Clients of one engine, each used by the thread that asked for it only.

    What a call costs is CPU time of Python's, for which threads take turns: ten at once take each about ten
    times as long as one. A client of its own spares each thread the lock and the connection pool that the
    others would share, and a `SocketClient` most of what `requests` does before each call.

    Args:
        host: Address of the engine, such as `unix:///var/run/docker.sock`.
        call_timeout_s: Longest silence within one call.
    """

    def __init__(self, host: str, *, call_timeout_s: float) -> None:
        self.host = host
        self.call_timeout_s = call_timeout_s
        self._version = ""
        self._of_thread = threading.local()

    def get(self) -> docker.APIClient:
        """This thread's client; the first one asks the engine which API version it speaks.

        Raises:
            docker.errors.DockerException: The engine could not be asked. The next call asks again.
        """
        version = self._version
        if not version:
            # Every engine answers this one question whatever version is asked in.
            version = self._version = self._connect(_ANY_VERSION).version(api_version=False)["ApiVersion"]
        client = getattr(self._of_thread, "client", None)
        if client is None or client.api_version != version:
            client = self._of_thread.client = self._connect(version)
        return client

    def pin_version(self, version: str) -> None:
        """Speak another version from now on; empty asks the engine again, which may be another release."""
        self._version = version

    def open_events(self, filters: Mapping[str, list[str]], *, since_s: float) -> requests.Response:
        """Open the engine's event stream, with what it remembers since `since_s` (Unix) first."""
        client = self.get()
        params = {"filters": json.dumps(filters), "since": f"{since_s:.9f}"}
        return self._stream(client, "GET", "/events", params=params, timeout=(self.call_timeout_s, None))

    def open_pull(
        self, repository: str, digest: str, *, auth: Mapping[str, str], silence_s: float
    ) -> requests.Response:
        """Ask the engine to pull; it tells its progress for as long as the answer is read.

        Credentials are sent with this one request. Those in a Docker configuration file of the
        user who runs gpud are never used: what a registry is told must come from gpud's own store.
        """
        client = self.get()
        return self._stream(
            client,
            "POST",
            "/images/create",
            params={"fromImage": repository, "tag": digest},
            headers={"X-Registry-Auth": docker.auth.encode_header(dict(auth))},
            timeout=(self.call_timeout_s, silence_s),
        )

    def _connect(self, version: str) -> docker.APIClient:
        if self.host.startswith("unix://"):
            return SocketClient(self.host, version=version, timeout_s=self.call_timeout_s)
        client = docker.APIClient(base_url=self.host, version=version, timeout=self.call_timeout_s)
        client.trust_env = False
        return client

    def _stream(self, client: docker.APIClient, method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401
        url = f"{client.base_url}/v{client.api_version}{path}"
        response: requests.Response = client.request(method, url, stream=True, **options)
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            with response:
                docker.errors.create_api_error_from_http_exception(error)
        return response


async def stream_items(
    connect: Callable[[], requests.Response], *, name: str
) -> AsyncGenerator[dict[str, Any]]:
    """Yield the JSON documents of an answer that does not end soon, read on a thread of its own.

    Leaving the iteration, or cancelling it, shuts the connection's socket down, which frees a
    thread blocked in a read. A thread that still waits for the first byte of the answer drops it
    when it comes; it is a daemon thread and holds nobody up.

    Raises:
        OSError, docker.errors.DockerException: As the SDK raised them.
    """
    reader = _Reader(connect, asyncio.get_running_loop(), name)
    reader.start()
    try:
        while (item := await reader.next()) is not None:
            yield item
    finally:
        reader.leave()


class _Reader(threading.Thread):
    def __init__(
        self, connect: Callable[[], requests.Response], loop: asyncio.AbstractEventLoop, name: str
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._connect = connect
        self._loop = loop
        self._inbox: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self._room = threading.Semaphore(_BACKLOG)
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._left = False

    async def next(self) -> dict[str, Any] | None:
        """The next document; None when the stream has ended."""
        item = await self._inbox.get()
        self._room.release()
        if isinstance(item, Exception):
            raise item
        return item

    def leave(self) -> None:
        """Stop reading; safe to repeat."""
        with self._lock:
            self._left = True
            if self._response is not None:
                # An answer that was read to its end has given its connection back already.
                with contextlib.suppress(OSError, RuntimeError, ValueError):
                    self._response.raw.shutdown()
        self._room.release()

    def run(self) -> None:
        end: Exception | None = None
        try:
            self._read()
        except Exception as error:  # noqa: BLE001  # The task that iterates raises it.
            end = error
        self._put(end)

    def _read(self) -> None:
        with self._connect() as response:
            with self._lock:
                if self._left:
                    return
                self._response = response
            for line in _lines(response):
                if self._left:
                    return
                if line.strip():
                    self._put(json.loads(line))

    def _put(self, item: dict[str, Any] | Exception | None) -> None:
        self._room.acquire()
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody reads on.
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, item)


def _lines(response: requests.Response) -> Iterator[bytes]:
    rest = b""
    for piece in response.iter_content(chunk_size=None):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    yield rest

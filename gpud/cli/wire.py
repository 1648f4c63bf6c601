"""HTTP/1.1 as a client speaks it: one connection, one request at a time, answers as they come."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, NamedTuple

from gpud.cli import exits
from gpud.cli.exits import CommandFailed

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Mapping

_LINE_BYTES_MAX = 65_536
_HEADERS_MAX = 256
_PIECE_BYTES = 65_536


class ConnectionLost(Exception):
    """The other side closed or broke the connection before it answered."""


class Head(NamedTuple):
    """The head of a request, without the body's length."""

    method: str
    path: str
    headers: Mapping[str, str]


class Chunks(NamedTuple):
    """A body in pieces whose total length is known."""

    length_bytes: int
    pieces: Iterable[bytes]


Body = bytes | Chunks


class Connection:
    """One connection to a server."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.reader = connected.makefile("rb")
        self.usable = True

    def close(self) -> None:
        """Close the connection; a running answer ends."""
        self.usable = False
        self.reader.close()
        self._socket.close()

    def send(self, head: Head, body: Body, timeout_s: float | None) -> Pending:
        """Send a request; its answer is read from what this returns.

        Raises:
            ConnectionLost: The connection broke first.
            CommandFailed: The other side took nothing for `timeout_s`.
        """
        self._socket.settimeout(timeout_s)
        self.usable = False
        try:
            self._write(head, body)
        except TimeoutError as error:
            raise _silent(timeout_s) from error
        return Pending(self, head.method, timeout_s)

    def take_over(self) -> tuple[socket.socket, bytes]:
        """The socket, which no longer blocks, and what was received and not read; this is over then."""
        self._socket.settimeout(0)
        try:
            received = self.reader.peek()
        except OSError:  # TLS says in its own way that there is nothing.
            received = b""
        return self._socket, received

    def arrived(self, within_s: float) -> bool:
        """Whether something to read comes within a time."""
        return bool(select.select([self._socket], [], [], within_s)[0])

    def _write(self, head: Head, body: Body) -> None:
        length_bytes = len(body) if isinstance(body, bytes) else body.length_bytes
        lines = [f"{head.method} {head.path} HTTP/1.1"]
        lines += [f"{name}: {text}" for name, text in head.headers.items()]
        if length_bytes or head.method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {length_bytes}")
        start = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        try:
            if isinstance(body, bytes):
                self._socket.sendall(start + body)
                return
            self._socket.sendall(start)
            for piece in body.pieces:
                self._socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            # A server may refuse before it has read the whole body; its answer is then already here.
            pass

    def receive(self, pending: Pending) -> Answer:
        """Read the head of an answer.

        Raises:
            ConnectionLost: The connection broke first.
            CommandFailed: The answer is not HTTP, or does not come in time.
        """
        try:
            return self._answer(pending)
        except TimeoutError as error:
            raise _silent(pending.timeout_s) from error
        except (ConnectionError, EOFError) as error:
            raise ConnectionLost from error

    def _answer(self, pending: Pending) -> Answer:
        while True:
            words = self._line().split(" ", 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
                raise CommandFailed(
                    "What answered does not speak HTTP.",
                    todo="Check the address; it may belong to another service.",
                    code=exits.UNREACHABLE,
                )
            headers = self._headers()
            status = int(words[1])
            if status >= 200 or status == 101:
                return Answer(pending, status, words[2] if len(words) > 2 else "", headers)

    def _line(self) -> str:
        line = self.reader.readline(_LINE_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise EOFError
        return line.rstrip(b"\r\n").decode("latin-1")

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_HEADERS_MAX):
            line = self._line()
            if not line:
                return headers
            name, _, text = line.partition(":")
            headers[name.strip().lower()] = text.strip()
        raise EOFError


class Pending(NamedTuple):
    """A request that was sent and not answered yet."""

    connection: Connection
    method: str
    timeout_s: float | None

    def arrived(self, within_s: float) -> bool:
        """Whether the answer begins within a time."""
        return self.connection.arrived(within_s)

    def answer(self) -> Answer:
        """Wait for the head of the answer.

        Raises:
            ConnectionLost: The connection broke first.
            CommandFailed: The answer is not HTTP, or does not come in time.
        """
        return self.connection.receive(self)


class Answer:
    """An answer whose head is here and whose body is still coming.

    Args:
        pending: The request it answers.
        status: HTTP status.
        reason: The words beside the status.
        headers: By name in lower case.
    """

    def __init__(self, pending: Pending, status: int, reason: str, headers: dict[str, str]) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._connection = pending.connection
        self._timeout_s = pending.timeout_s
        self._bodyless = pending.method == "HEAD" or status in (204, 304)
        if self._bodyless:
            self._finish()

    @property
    def refused_by_gpud(self) -> bool:
        """Whether gpud itself refuses here, and no worker was asked."""
        if self.status < 400 or "x-gpud-worker" in self.headers:
            return False
        problem = self.headers.get("content-type", "").startswith("application/problem+json")
        return problem or self.headers.get("gpud-origin") == "gateway"

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives.

        Raises:
            CommandFailed: It broke off.
        """
        if self._bodyless:
            return
        try:
            yield from self._framed()
        except TimeoutError as error:
            raise _silent(self._timeout_s) from error
        except (ConnectionError, EOFError, ValueError) as error:
            raise CommandFailed(
                "The connection broke in the middle of the answer; what was received is incomplete.",
                code=exits.FAILED,
            ) from error
        self._finish()

    def _framed(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            yield from self._chunked()
        elif "content-length" in self.headers:
            yield from self._counted(int(self.headers["content-length"]))
        else:
            self.headers["connection"] = "close"
            while piece := self._connection.reader.read1(_PIECE_BYTES):
                yield piece

    def _chunked(self) -> Iterator[bytes]:
        reader = self._connection.reader
        while True:
            line = reader.readline(_LINE_BYTES_MAX)
            left = int(line.split(b";")[0], 16)
            if left == 0:
                break
            yield from self._counted(left)
            reader.readline(_LINE_BYTES_MAX)
        while reader.readline(_LINE_BYTES_MAX).strip():
            pass

    def _counted(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self._connection.reader.read1(min(left, _PIECE_BYTES))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece

    def _finish(self) -> None:
        self._connection.usable = self.headers.get("connection", "").lower() != "close"


def sse_messages(answer: Answer) -> Iterator[str]:
    """The data of each server-sent event."""
    rest = b""
    data: list[str] = []
    for piece in answer.pieces():
        *lines, rest = (rest + piece).split(b"\n")
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data = []


def _silent(timeout_s: float | None) -> CommandFailed:
    return CommandFailed(
        f"There was no answer within {timeout_s or 0:g} s.",
        todo="The daemon may be busy; gpud status says how it is.",
        code=exits.TIMED_OUT,
    )

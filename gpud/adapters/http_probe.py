"""Health probes on bare sockets: a worker that does not listen yet is asked every few milliseconds."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final

import httptools

from gpud.core.probing import ProbeOutcome, ProbeResult
from gpud.core.request_path import is_request_path

_BODY_BYTES_MAX: Final = 10 * 1024
_HEAD_BYTES_MAX: Final = 32 * 1024
_CHUNK_BYTES: Final = 4096

_OUTCOMES: Final = {
    errno.ECONNREFUSED: ProbeOutcome.REFUSED,
    # Nobody has the address any more: as with a refusal, nobody listens.
    errno.EHOSTUNREACH: ProbeOutcome.REFUSED,
    errno.EHOSTDOWN: ProbeOutcome.REFUSED,
    errno.ECONNRESET: ProbeOutcome.RESET,
    errno.ECONNABORTED: ProbeOutcome.RESET,
    errno.EPIPE: ProbeOutcome.RESET,
    errno.ENOTCONN: ProbeOutcome.RESET,
    errno.ETIMEDOUT: ProbeOutcome.TIMEOUT,
}
"""What the worker did. Any other error (no free descriptor, port or route) is our own."""


class SocketProbe:
    """Asks with one GET on a fresh connection, and keeps nothing between two probes."""

    async def probe(
        self, address: str, port: int, path: str, *, timeout_s: float, body: str = ""
    ) -> ProbeResult:
        """Send one GET and judge its status; a redirect is a success and is not followed.

        Args:
            address: IPv4 or IPv6 address; a name is a local error, since looking it up blocks.
            port: Where the worker listens.
            path: Path and query, printable ASCII.
            timeout_s: For the whole of it: connect, answer, and at most 10 KiB of the body.
            body: JSON of a POST; empty for a GET.
        """
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            socket.inet_pton(family, address)
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
                # A refusal by a neighbour on this machine is known at once; it must cost no timer.
                code = sock.connect_ex((address, port))
                if code not in (0, errno.EINPROGRESS):
                    return ProbeResult(outcome=_OUTCOMES.get(code, ProbeOutcome.LOCAL_ERROR))
                async with asyncio.timeout(timeout_s):
                    if code:
                        await asyncio.get_running_loop().sock_connect(sock, (address, port))
                    return await _ask(sock, _request(address, port, path, body))
        except TimeoutError:
            return ProbeResult(outcome=ProbeOutcome.TIMEOUT)
        except OSError as error:
            return ProbeResult(outcome=_OUTCOMES.get(error.errno or 0, ProbeOutcome.LOCAL_ERROR))
        except (ValueError, OverflowError):
            return ProbeResult(outcome=ProbeOutcome.LOCAL_ERROR)


def _request(address: str, port: int, path: str, body: str) -> bytes:
    if not is_request_path(path):
        raise ValueError(path)
    host = f"[{address}]" if ":" in address else address
    sent = body.encode()
    fields = f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n" if sent else ""
    head = (
        f"{'POST' if sent else 'GET'} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: gpud-probe\r\n"
        f"Accept: */*\r\n{fields}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + sent


async def _ask(sock: socket.socket, request: bytes) -> ProbeResult:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    answer.parser = parser
    while not answer.enough:
        data = await loop.sock_recv(sock, _CHUNK_BYTES)
        if not data:
            if not answer.status:
                return ProbeResult(outcome=ProbeOutcome.RESET)
            break
        try:
            answer.take(data)
        except httptools.HttpParserError:
            # Not HTTP; or, after a complete answer, bytes that are no concern of a probe.
            break
    if not answer.status:
        return ProbeResult(outcome=ProbeOutcome.BAD_STATUS)
    well = 200 <= answer.status <= 399
    return ProbeResult(outcome=ProbeOutcome.OK if well else ProbeOutcome.BAD_STATUS, status=answer.status)


class _Answer:
    """Collects what the parser calls back with: the final status, and how much was read."""

    parser: httptools.HttpResponseParser

    def __init__(self) -> None:
        self.status = 0
        self.seen = 0
        self.body_bytes = 0
        self.complete = False

    @property
    def enough(self) -> bool:
        if self.status:
            return self.complete or self.body_bytes >= _BODY_BYTES_MAX
        return self.seen >= _HEAD_BYTES_MAX

    def take(self, data: bytes) -> None:
        self.seen += len(data)
        self.parser.feed_data(data)

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        # 100 and 103 announce an answer, they are none.
        if not 100 <= status <= 199 or status == 101:
            self.status = self.status or status

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)

    def on_message_complete(self) -> None:
        self.complete = bool(self.status)

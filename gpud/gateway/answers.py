"""What the gateway itself puts on the wire: rewritten heads, and answers of its own. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gpud.core import problem as problems
from gpud.errors import BodyTooLarge, GpudError, RequestStalled
from gpud.gateway import openai as openai_dialect

if TYPE_CHECKING:
    from gpud.gateway.heads import RequestHead, ResponseHead
    from gpud.gateway.lane import Slot

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_VIA = b"Via: 1.1 gpud\r\n"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a client connection.

    Args:
        address: Its IP address, as text.
        fields: The forwarding fields of a request that carries none.
        trusted: It is on this machine, so it may be a front-end whose own forwarding fields hold.
        scheme: `http`, or `https` when gpud itself ended TLS.
    """

    address: bytes
    fields: bytes
    trusted: bool
    scheme: bytes


def peer_of(peername: object, *, tls: bool) -> Peer:
    """Describe a client by the address of its socket."""
    text = str(peername[0]) if isinstance(peername, tuple) and peername else "unknown"
    try:
        trusted = ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        trusted = False
    address = text.encode("ascii", "replace")
    scheme = b"https" if tls else b"http"
    fields = b"X-Forwarded-For: " + address + b"\r\nX-Forwarded-Proto: " + scheme + b"\r\n" + _VIA
    return Peer(address, fields, trusted, scheme)


def request_bytes(
    head: RequestHead, path: str, peer: Peer, request_id: str, body: bytes, *, credentials: bool
) -> bytes:
    """Write what a worker, or the control API, gets: the head, and as much of the body as is there.

    The client's credentials go to the control API, and to workers whose endpoint asks for them. A
    forwarding field the client sent is kept when the client is on this machine (a front-end), and replaced
    otherwise.
    """
    parts = [head.start or head.start_for(path)]
    if credentials:
        parts += head.credentials
    if peer.trusted and (head.forwarded_for or head.forwarded):
        before = head.forwarded_for + b", " if head.forwarded_for else b""
        parts.append(b"X-Forwarded-For: " + before + peer.address + b"\r\n")
        parts += head.forwarded
        parts.append(_VIA)
    else:
        parts.append(peer.fields)
        parts.append(b"X-Forwarded-Host: " + (head.host or b"gpud") + b"\r\n")
    parts += (b"X-Gpud-Request-Id: ", request_id.encode("ascii"), head.end or end_of_request(head), body)
    return b"".join(parts)


def end_of_request(head: RequestHead) -> bytes:
    """Write the fields that frame a request, after the value of another."""
    framing = b""
    if head.chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif head.length is not None:
        framing = b"Content-Length: %d\r\n" % head.length
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if head.websocket else b""
    return b"".join((b"\r\n", framing, upgrade, b"\r\n"))


def slot_fields(slot: Slot, request_id: str, connect_s: float = 0.0, first_byte_s: float = 0.0) -> bytes:
    """Write the fields that tell who answered and how long each part took.

    While a request was held for a cold start, the wait is told as `start`, with the phases of the
    worker's start beside it, else as `queue`.
    """
    fixed = _WARM_FIELDS
    if slot.queue_s > 0:
        fixed = _held_fields(slot.queue_s * 1000, slot.worker.start_timing, cold=slot.cold)
    timing = (
        f"{connect_s * 1000:.1f}, first_byte;dur={first_byte_s * 1000:.1f}"
        if connect_s > 0
        else (f"0, first_byte;dur={first_byte_s * 1000:.1f}")
    )
    return (
        f"X-Gpud-Request-Id: {request_id}\r\nX-Gpud-Worker: {slot.worker.worker_id}{fixed}{timing}\r\n"
    ).encode("ascii")


def _held_fields(wait_ms: float, start_timing: str = "", *, cold: bool) -> str:
    queue, start = ("0", f"{wait_ms:.1f}") if cold else (f"{wait_ms:.1f}", "0")
    if cold and start_timing:
        start = f"{start}, {start_timing}"
    return (
        f"\r\nX-Gpud-Cold-Start: {'true' if cold else 'false'}\r\nX-Gpud-Queue-Ms: {wait_ms:.0f}\r\n"
        f"Server-Timing: queue;dur={queue}, start;dur={start}, connect;dur="
    )


_WARM_FIELDS = _held_fields(0.0, cold=False)


def response_bytes(
    head: ResponseHead, request: RequestHead, extra: bytes, body: bytes, *, keep_alive: bool, decoded: bool
) -> bytes:
    """Write the head the client gets, and the body that came with it.

    Framing fields are written anew, the rest as they came.
    """
    framing = b"" if head.chunked and (decoded or request.http10) else framing_of_response(head)
    start = head.start or start_of_response(head)
    return b"".join((start, extra, framing, _end(request, keep_alive=keep_alive), body))


def framing_of_response(head: ResponseHead) -> bytes:
    """Write the fields that frame a response."""
    if head.chunked:
        return b"Transfer-Encoding: chunked\r\n"
    if head.length is not None and head.status != 204:
        return b"Content-Length: %d\r\n" % head.length
    return b""


def start_of_response(head: ResponseHead) -> bytes:
    """Write the status line and the fields that are passed on as they are."""
    return b"".join((_status_line(head), *head.lines, _VIA))


def switch_bytes(head: ResponseHead, extra: bytes) -> bytes:
    """Write the head that opens a tunnel."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    return b"".join((start_of_response(head), extra, upgrade))


def interim_bytes(head: ResponseHead) -> bytes:
    """Write a 1xx head."""
    return b"".join((_status_line(head), *head.lines, b"\r\n"))


def own_bytes(
    status: int, headers: list[tuple[str, str]], body: bytes, request: RequestHead, *, keep_alive: bool
) -> bytes:
    """Write an answer of gpud's own."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    start = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n{lines}Content-Length: {len(body)}\r\n"
    end = _end(request, keep_alive=keep_alive)
    return start.encode("latin-1", "replace") + end + (b"" if request.method == "HEAD" else body)


def bad_request_bytes(error: GpudError, request_id: str) -> bytes:
    """Write the answer to something that is no request; the connection closes after it."""
    body, headers = problem(error, request_id, openai=False)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    reason = _REASONS.get(error.status, "Error")
    start = f"HTTP/1.1 {error.status} {reason}\r\n{lines}Content-Length: {len(body)}\r\n"
    return start.encode("latin-1", "replace") + b"Connection: close\r\n\r\n" + body


def problem(error: GpudError, request_id: str, *, openai: bool) -> tuple[bytes, list[tuple[str, str]]]:
    """Render an error, as a problem document or in OpenAI's shape: its body and its fields."""
    if openai:
        body = openai_dialect.error_body(error)
    else:
        document = problems.problem_document(error, request_id=request_id)
        body = json.dumps(document, separators=(",", ":")).encode()
    headers = [
        ("Content-Type", "application/json" if openai else problems.PROBLEM_TYPE),
        ("Gpud-Origin", "gateway"),
        ("X-Gpud-Request-Id", request_id),
        ("Cache-Control", "no-store"),
        *problems.problem_headers(error).items(),
    ]
    return body, headers


def too_large(body_bytes_max: int) -> BodyTooLarge:
    """Say that a body of unknown length turned out too long."""
    return BodyTooLarge(f"The body has more than {body_bytes_max} bytes, which is server.body_bytes_max.")


def stalled(after_s: float) -> RequestStalled:
    """Say that a body stopped coming."""
    return RequestStalled(f"Nothing of the request's body came for {after_s:g} s.")


def slow_head(after_s: float) -> RequestStalled:
    """Say that a head was not finished."""
    return RequestStalled(f"The request's head was not finished within {after_s:g} s.")


def _status_line(head: ResponseHead) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)


def _end(request: RequestHead, *, keep_alive: bool) -> bytes:
    if not keep_alive:
        return b"Connection: close\r\n\r\n"
    return b"Connection: keep-alive\r\n\r\n" if request.http10 else b"\r\n"

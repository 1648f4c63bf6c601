"""Tells a client that waits for a stream of events how the start of its worker goes, in comments.

The head of the answer is sent with the first comment, so from then on it is 200 and a stream of events,
whatever the worker answers: its stream follows, another answer of it becomes one event, and an error the
last event.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.errors import WorkerUnreachable
from gpud.gateway import openai
from gpud.gateway.breaking import error_event, is_event_stream
from gpud.gateway.phases import HELD

if TYPE_CHECKING:
    from gpud.errors import GpudError
    from gpud.gateway.exchange import Exchange
    from gpud.gateway.heads import RequestHead, ResponseHead

FIRST_AFTER_S = 2.0
"""A wait shorter than this is nobody's trouble, and its answer keeps its own status."""
EVERY_S = 5.0
EVENT_BYTES_MAX = 1024 * 1024
"""Longest answer that is no stream and is passed on as one event."""

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\nVia: 1.1 gpud\r\nX-Gpud-Request-Id: "
)
_EVENTS = b"text/event-stream"


def asks_for_stream(head: RequestHead, body: bytes) -> bool:
    """Whether a request wants events: by its Accept field, or by `"stream": true` in its JSON."""
    if head.websocket or head.method == "HEAD":
        return False
    for line in head.lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"accept" and _EVENTS in value.lower():
            return True
    return b'"stream"' in body and openai.streams(openai.beginning(head, body))


class Herald:
    """For one request that is held; made when its hold begins.

    Args:
        exchange: The request. Its body is here whole, so that nothing more is read before the answer.
    """

    __slots__ = ("_collected", "_ended", "_exchange", "_failed", "_passes", "_timer", "begun")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._timer: asyncio.TimerHandle | None = None
        self._passes = self._failed = self._ended = False
        self._collected = b""
        self.begun = False
        """The head of the answer is sent."""

    def start(self) -> None:
        """The request waits."""
        after_s = EVERY_S if self.begun else FIRST_AFTER_S
        self._timer = asyncio.get_running_loop().call_later(after_s, self._tell)

    def stop(self) -> None:
        """It waits no more; safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        exchange = self._exchange
        if exchange.phase != HELD:
            return
        client = exchange.client
        if not client.writing_paused:
            comment = self._framed(self._comment())
            client.write(comment if self.begun else self._head() + comment)
            self.begun = True
        self.start()

    def _head(self) -> bytes:
        exchange = self._exchange
        if exchange.head.http10:
            exchange.client.keep_alive = False
        end = b"" if exchange.head.http10 else b"\r\nTransfer-Encoding: chunked"
        closes = b"" if exchange.client.keep_alive else b"\r\nConnection: close"
        return b"".join((_HEAD, exchange.request_id.encode("ascii"), end, closes, b"\r\n\r\n"))

    def _comment(self) -> bytes:
        exchange = self._exchange
        named = exchange.route
        table = exchange.plane.dispatcher.table
        route = table.routes.get(named.endpoint, named) if named is not None else None
        if route is None:
            return b": gpud waiting\n\n"
        phase = "queued" if route.workers else route.start_phase or route.waiting_for
        waited_s = exchange.plane.now_s() - exchange.began_s
        of = f"/{route.expected_start_s:.0f}s" if route.expected_start_s and not route.workers else ""
        return f": gpud {phase} {waited_s:.0f}s{of}\n\n".encode()

    # The answer.

    def answer(self, head: ResponseHead, body: bytes) -> bytes:
        """Begin to pass on a worker's answer; `body` is all of it or nothing."""
        self._passes = head.status == 200 and is_event_stream(head)
        self._failed = head.status >= 400
        return self.pass_on(body, done=head.length == len(body) and not head.bodiless)

    def pass_on(self, data: bytes, *, done: bool) -> bytes:
        """Frame what came of the answer's body, out of its own framing."""
        if self._ended:
            return b""
        if self._passes:
            framed = self._framed(data) if data else b""
        else:
            framed = b""
            self._collected += data[: EVENT_BYTES_MAX + 1 - len(self._collected)]
        if not done:
            return framed
        self._ended = True
        event = b"" if self._passes else self._framed(self._as_event())
        return framed + event + (b"" if self._exchange.head.http10 else b"0\r\n\r\n")

    def last_event(self, error: GpudError) -> bytes:
        """Frame the event that says why there is no more; the stream ends without its end after it."""
        return b"" if self._ended else self._framed(error_event(self._exchange, error))

    def _as_event(self) -> bytes:
        """Write an answer that is no stream as one event."""
        body = self._collected
        try:
            body.decode()
        except UnicodeDecodeError:
            body = b""
        if (not body and self._collected) or len(body) > EVENT_BYTES_MAX:
            return error_event(
                self._exchange,
                WorkerUnreachable(
                    "The worker's answer is no stream of events, and cannot be passed on as one event."
                ),
            )
        kind = b"event: error\n" if self._failed else b""
        return kind + b"".join(b"data: " + line + b"\n" for line in body.splitlines() or [b""]) + b"\n"

    def _framed(self, data: bytes) -> bytes:
        return data if self._exchange.head.http10 else b"%x\r\n%b\r\n" % (len(data), data)

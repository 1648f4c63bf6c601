"""One connection to a worker: a request goes out, its answer's framing is watched, bytes come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from gpud.errors import BadFraming
from gpud.gateway.framing import Body, EndlessBody
from gpud.gateway.heads import ResponseHead, check_unfinished

if TYPE_CHECKING:
    from gpud.gateway.exchange import Exchange
    from gpud.gateway.pool import Pool

_WRITE_BUFFER_BYTES = 256 * 1024


class WorkerConnection(asyncio.Protocol):
    """Serves one exchange at a time.

    Args:
        pool: Where it rests between exchanges.
    """

    __slots__ = (
        "_buffer",
        "_reading",
        "body",
        "closed",
        "exchange",
        "heard",
        "idle_since_s",
        "pool",
        "reusable",
        "transport",
        "tunnel",
        "used",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.exchange: Exchange | None = None
        self.body: Body | None = None
        self.closed = False
        self.reusable = True
        self.heard = False
        """Something of an answer's body has come since the last look."""
        self.tunnel = False
        self.used = False
        self.idle_since_s = 0.0
        self._buffer = b""
        self._reading = True

    @property
    def began_answer(self) -> bool:
        """Some bytes of a head have come."""
        return bool(self._buffer)

    @property
    def descriptor(self) -> int:
        """Of the socket; -1 when there is none any more."""
        peer = self.transport.get_extra_info("socket")
        return peer.fileno() if peer is not None else -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def begin(self, exchange: Exchange, request: bytes) -> None:
        """Send a request; its answer goes to `exchange`."""
        self.exchange = exchange
        if not self.transport.is_closing():
            self.transport.write(request)

    def rest(self, now_s: float) -> None:
        """The answer is whole: go back to the pool, or close when that is not safe."""
        self.exchange = None
        self.body = None
        self.used = True
        if self.reusable and not self.closed:
            if not self._reading:
                self.resume()
            self.pool.give(self, now_s)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once; nobody is told."""
        self.exchange = None
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def write(self, data: bytes) -> None:
        """Send, unless the worker is gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close after what was written; nobody is told."""
        self.exchange = None
        if not self.closed:
            self.closed = True
            self.transport.close()

    def write_eof(self) -> None:
        """Close the sending half of a tunnel."""
        if not self.transport.is_closing() and self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:  # the worker reset the connection, and nothing has read that yet
                self.transport.abort()

    def pause(self) -> None:
        """Stop reading: the client does not keep up."""
        if self._reading and not self.closed:
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self._reading and not self.closed:
            self._reading = True
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on as they are."""
        exchange = self.exchange
        if exchange is None:
            self.pool.forget(self)  # nobody asked: whatever it is must not reach the next client
            self.abort()
            return
        body = self.body
        if self.tunnel:
            exchange.client.write(data)
        elif body is None:
            self._take_head(exchange, data)
        else:
            self.heard = True
            self._pass_body(exchange, body, b"", data)

    def _take_head(self, exchange: Exchange, data: bytes) -> None:
        received = self._buffer + data if self._buffer else data
        self._buffer = b""
        try:
            while True:
                end = received.find(b"\r\n\r\n") + 4
                if end < 4:
                    check_unfinished(received)
                    self._buffer = received
                    return
                head = exchange.read_answer(received[:end])
                received = received[end:]
                if head.status >= 200 or head.status == 101:
                    break
                exchange.interim(head)
        except BadFraming as error:
            exchange.worker_broke(f"sent an answer that cannot be passed on: {error.detail}")
            return
        self._begin_answer(exchange, head, received)

    def _begin_answer(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        if head.status == 101:
            if not (exchange.head.websocket and head.websocket):
                exchange.worker_broke("switched to a protocol that was not asked for")
                return
            self.tunnel = True
            self.reusable = False
            exchange.switched(head, rest)
            return
        self.reusable = head.keep_alive
        if head.length == len(rest) and not head.bodiless:  # all of it is here, as small ones are
            exchange.client.write(exchange.answer(head, rest))
            exchange.finished()
            return
        body = self.body = head.body
        self._pass_body(exchange, body, exchange.answer(head, b""), rest)

    def _pass_body(self, exchange: Exchange, body: Body, head: bytes, data: bytes) -> None:
        decoded: list[bytes] | None = [] if exchange.decodes else None
        try:
            size = body.take(data, decoded) if data else 0
        except BadFraming as error:
            self.body = None  # nothing more fits into it
            exchange.worker_broke(f"sent an answer that cannot be passed on: {error.detail}")
            return
        if size != len(data):
            self.reusable = False  # more than the answer: unsolicited, and never passed on
            data = data[:size]
        if decoded is not None:
            data = exchange.decoded(b"".join(decoded), done=body.done)
        if head or data:
            exchange.client.write(head + data if head else data)
        if body.done and self.exchange is exchange:
            exchange.finished()

    def eof_received(self) -> bool:
        """End an answer that has no other end; keep the other half of a tunnel open."""
        exchange = self.exchange
        if exchange is None:
            self.pool.forget(self)
            self.closed = True
            return False
        if self.tunnel:
            exchange.half_closed(by_client=False)
            return True
        if type(self.body) is EndlessBody:
            if exchange.decodes:
                exchange.client.write(exchange.decoded(b"", done=True))
            exchange.finished()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer."""
        self.closed = True
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            self.pool.forget(self)
        else:
            exchange.worker_lost(self, f": {exc}" if exc is not None else "")

    def pause_writing(self) -> None:
        """The worker does not keep up with the upload."""
        if self.exchange is not None:
            self.exchange.client.stop_reading(upload=True)

    def resume_writing(self) -> None:
        """The worker has caught up."""
        if self.exchange is not None:
            self.exchange.client.go_on_reading(upload=True)

"""One client connection: heads in, bytes through, answers in the order of the requests.

Memory is bounded: at most one head and `PENDING_BYTES_MAX` of further requests wait here, an exchange
keeps at most 1 MiB of a body, and the transports buffer 256 KiB and one read each way.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from gpud.errors import BadFraming
from gpud.gateway import answers
from gpud.gateway.entry import begin
from gpud.gateway.exchange import Exchange
from gpud.gateway.framing import NO_BODY, Body
from gpud.gateway.heads import RequestHead, check_unfinished
from gpud.gateway.local import local_peer
from gpud.gateway.phases import OVER, TUNNEL
from gpud.gateway.upload import Upload

if TYPE_CHECKING:
    from gpud.gateway.plane import Plane

PENDING_BYTES_MAX = 64 * 1024
"""Pipelined bytes kept while a request is being answered."""
DISCARD_BYTES_MAX = 256 * 1024
"""Longest rest of a body that is read and dropped to keep the connection."""
_WRITE_BUFFER_BYTES = 256 * 1024
_REQUESTS_A_TURN = 32


class ClientConnection(asyncio.Protocol):
    """See the module's text.

    Args:
        plane: What all connections share.
    """

    __slots__ = (
        "_in_turn",
        "_pending",
        "_plane",
        "_skipped",
        "body",
        "closing_since_s",
        "exchange",
        "head_since_s",
        "keep_alive",
        "keys",
        "last_s",
        "peer",
        "peername",
        "stops",
        "transport",
        "unread_since_s",
        "writing_paused",
    )

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.peername: object = None
        self.keys = plane.keys
        self.peer = plane.no_peer
        self.keep_alive = True
        self.writing_paused = False
        self.exchange: Exchange | None = None
        self.body: Body = NO_BODY
        self._pending = b""
        self._in_turn = False
        self._skipped = False
        self.stops = 0
        self.last_s = 0.0
        self.head_since_s = 0.0
        self.unread_since_s = 0.0
        self.closing_since_s = 0.0

    @property
    def sender(self) -> str:
        """The address at the other end, or the user at the other end of a Unix socket."""
        peername = self.peername
        return str(peername[0] if isinstance(peername, tuple) and peername else peername or "unknown")

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        local = local_peer(transport)
        if local is not None and local.uid in self._plane.administrators:
            self.keys = self._plane.local_keys
        self.peername = local or transport.get_extra_info("peername")
        self.peer = self._plane.peer_of(self.peername)
        self.last_s = self._plane.now_s()
        self._plane.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is over either way
        """The client is gone."""
        self._plane.clients.discard(self)
        self._plane.departures.ignore(self)
        self._leave()

    def eof_received(self) -> bool:
        """Nobody who closes their half waits for an answer, a tunnel's user excepted."""
        exchange = self.exchange
        if exchange is not None and exchange.phase == TUNNEL:
            exchange.half_closed(by_client=True)
            return self.transport.can_write_eof()  # TLS has no half that stays open
        self._leave()
        return False

    def data_received(self, data: bytes) -> None:
        """Take bytes: of a body, of a tunnel, or of the next requests."""
        self.last_s = self._plane.now_s()
        exchange = self.exchange
        if exchange is not None and exchange.phase == TUNNEL:
            if exchange.connection is not None:
                exchange.connection.write(data)
        elif self.closing_since_s:
            return
        elif not self.body.done:
            self._take_body(data)
        else:
            self._pending = self._pending + data if self._pending else data
            if exchange is None:
                self.next_request()
            elif len(self._pending) > PENDING_BYTES_MAX:
                self.stop_reading()

    def pause_writing(self) -> None:
        """The client does not keep up: stop reading its worker."""
        self.writing_paused = True
        self.unread_since_s = self._plane.now_s()
        if self.exchange is not None and self.exchange.connection is not None:
            self.exchange.connection.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.writing_paused = False
        if self.exchange is not None and self.exchange.connection is not None:
            self.exchange.connection.resume()
        else:
            self.last_s = self._plane.now_s()
            self.next_request()

    # Requests.

    def next_request(self) -> None:
        """Begin exchanges from what has been received, one after the other."""
        if self._in_turn:
            return
        self._in_turn = True
        try:
            for _ in range(_REQUESTS_A_TURN):
                if not self._pending or self.exchange is not None or self._blocked():
                    return
                if not self._begin_request():
                    return
        finally:
            self._in_turn = False
        asyncio.get_running_loop().call_soon(self.next_request)

    def _blocked(self) -> bool:
        return self.writing_paused or self.closing_since_s > 0 or not self.body.done

    def _begin_request(self) -> bool:
        """Begin one exchange; False when there is no whole head to begin it with."""
        received = self._pending
        if not self._skipped and received.startswith(b"\r\n"):
            self._skipped = True  # some clients end a body with one empty line too many
            received = received[2:]
        end = received.find(b"\r\n\r\n") + 4
        try:
            if end < 4:
                check_unfinished(received)
                self._pending = received
                self.head_since_s = self.head_since_s or self._plane.now_s()
                return False
            head = self._plane.request_heads.read(received[:end])
        except BadFraming as error:
            self._pending = b""
            self.write(answers.bad_request_bytes(error, self._plane.new_request_id()))
            self.linger()
            return False
        self._begin_exchange(head, received[end:])
        return True

    def _begin_exchange(self, head: RequestHead, rest: bytes) -> None:
        plane = self._plane
        self.keep_alive = head.keep_alive and not plane.stopping
        self.head_since_s = 0.0
        self._skipped = False
        self._pending = b""
        plane.exchanges += 1
        if len(rest) == (head.length or 0) and not head.chunked:  # all of it is here, as small ones are
            exchange = self.exchange = Exchange(plane, self, head, Upload(rest, done=True))
        else:
            body = self.body = head.body
            exchange = self.exchange = Exchange(plane, self, head, Upload(done=body.done))
            if body.done:
                self._pending = rest
            elif rest:
                self._take_body(rest)
        if self.exchange is exchange:
            begin(exchange)
        if self.stops:
            self.go_on_reading()

    def _take_body(self, data: bytes) -> None:
        body = self.body
        exchange = self.exchange
        try:
            size = body.take(data)
        except BadFraming as error:
            self.body = NO_BODY
            if exchange is None or exchange.phase == OVER:
                self.linger()
            else:
                self.keep_alive = False
                exchange.fail(error)
            return
        if size == len(data):
            mine, rest = data, b""
        else:
            mine, rest = data[:size], data[size:]
        if exchange is not None:
            exchange.take_body(mine, done=body.done)
        if rest and not self.closing_since_s:
            self._pending += rest
        if body.done and self.exchange is None:
            self.next_request()

    def settle_body(self, *, awaits_continue: bool) -> bool:
        """Decide, before an answer of gpud's own, whether the connection outlives it."""
        body = self.body
        if not body.done and (awaits_continue or body.left > DISCARD_BYTES_MAX):
            self.keep_alive = False
        return self.keep_alive

    def exchange_over(self, exchange: Exchange, now_s: float) -> None:
        """An answer is whole: go on with the next request, or close."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        plane = self._plane
        plane.exchanges -= 1
        if not plane.exchanges:
            plane.all_ended()
        if not self.keep_alive or plane.stopping:
            self.linger()
            return
        if self.stops:
            self.stops = 0
            self._resume_transport()
        self.last_s = now_s
        if self._pending:
            self.next_request()

    # What exchanges and workers ask for.

    def write(self, data: bytes) -> None:
        """Send, unless the client is gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def write_eof(self) -> bool:
        """Close the sending half; False when the connection has no halves, as with TLS."""
        if not self.transport.can_write_eof():
            return False
        if not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:  # the client reset the connection, and nothing has read that yet
                self.transport.abort()
        return True

    def begin_tunnel(self, head: bytes) -> None:
        """Send the head of an upgrade; what the client has sent ahead goes to the worker."""
        self.keep_alive = False
        self.write(head)
        pending, self._pending = self._pending, b""
        if pending and self.exchange is not None and self.exchange.connection is not None:
            self.exchange.connection.write(pending)
        self.stops = 0
        self._resume_transport()

    def stop_reading(self, *, upload: bool = False) -> None:
        """Read no more for now; that the client leaves is noticed all the same."""
        if not self.stops and not self.transport.is_closing():
            self.transport.pause_reading()
            self._plane.departures.watch(self)
        self.stops |= 2 if upload else 1

    def go_on_reading(self, *, upload: bool = False) -> None:
        """Read again, unless there is another reason not to."""
        if self.stops:
            self.stops &= ~(2 if upload else 1)
            if not self.stops:
                self._resume_transport()

    def _resume_transport(self) -> None:
        if self._plane.departures.ignore(self) and not self.transport.is_closing():
            self.transport.resume_reading()

    def cut(self, last: bytes = b"") -> None:
        """End the answer so that nobody takes it for whole; with some last bytes if there are any."""
        if last:
            self.write(last)
            self.close()
            return
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._plane.exchange_ended()
        self._plane.reset(self.transport)

    def close(self) -> None:
        """Close after what was written."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._plane.exchange_ended()
        self.closing_since_s = self._plane.now_s()
        self.transport.close()

    def departed(self) -> None:
        """The client left while it was not being read."""
        self._leave()
        self.transport.abort()

    def abort(self) -> None:
        """Close at once."""
        self._leave()
        # Under TLS, early releases of Python 3.11 forget a connection before they say it is lost.
        with contextlib.suppress(AttributeError):
            self.transport.abort()

    def _leave(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._plane.exchange_ended()
            exchange.client_left()

    def linger(self) -> None:
        """Close the sending half, and read a while: closing at once could destroy the answer."""
        self.closing_since_s = self._plane.now_s()
        self.body = NO_BODY
        self._pending = b""
        self.stops = 0
        self._resume_transport()
        if not self.write_eof():
            self.transport.close()

    def close_if_idle(self) -> None:
        """Close when no request is under way: gpud is stopping."""
        if self.exchange is None:
            self.close()

"""Connects two asyncio protocols to each other without a socket.

The control API is an upstream like any worker; this is the wire to it. Bytes go over in the same
loop turn order as a socket would bring them, and each side's flow control stops the other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

HIGH_WATER_BYTES = 256 * 1024
"""Bytes under way in one direction at which the writer is told to pause."""


class MemoryTransport(asyncio.Transport):
    """One end of the wire.

    Args:
        protocol: Whose end it is.
        peername: What its protocol is told to be talking to.
    """

    def __init__(self, protocol: asyncio.BaseProtocol, peername: object) -> None:
        super().__init__()
        self.peername = peername
        self._loop = asyncio.get_running_loop()
        self.protocol = protocol
        self.other: MemoryTransport | None = None
        self.inbox = bytearray()
        self.eof = False
        self._reading = True
        self._closing = False
        self.lost = False
        self.writer_paused = False
        self._scheduled = False

    def connect(self, other: MemoryTransport) -> None:
        """Join the two ends; each protocol is told in turn."""
        self.other, other.other = other, self
        self.stream_protocol.connection_made(self)
        other.stream_protocol.connection_made(other)

    @property
    def stream_protocol(self) -> asyncio.Protocol:
        """Whose end it is, as what it must be."""
        return cast("asyncio.Protocol", self.protocol)

    def tell_peername(self, peername: object) -> None:
        """Change what the other end is told to be talking to, between two requests."""
        if self.other is not None:
            self.other.peername = peername

    def get_extra_info(self, name: str, default: object = None) -> object:
        """`peername` and `sockname`; there is no socket."""
        if name == "peername":
            return self.peername
        return ("127.0.0.1", 0) if name == "sockname" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Ignore: the limit is fixed."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change whose end it is."""
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose end it is."""
        return self.protocol

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send to the other end."""
        other = self.other
        if other is None or self._closing or not data:
            return
        other.inbox += data
        other.schedule()
        if len(other.inbox) > HIGH_WATER_BYTES and not self.writer_paused:
            self.writer_paused = True
            self.protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """A wire has two halves."""
        return True

    def write_eof(self) -> None:
        """Close the sending half."""
        if self.other is not None:
            self.other.eof = True
            self.other.schedule()

    def get_write_buffer_size(self) -> int:
        """Bytes sent and not yet read."""
        return len(self.other.inbox) if self.other is not None else 0

    def is_reading(self) -> bool:
        """Whether bytes are handed on."""
        return self._reading

    def pause_reading(self) -> None:
        """Stop handing bytes on."""
        self._reading = False

    def resume_reading(self) -> None:
        """Hand bytes on again."""
        self._reading = True
        self.schedule()

    def is_closing(self) -> bool:
        """Whether the end was closed."""
        return self._closing

    def close(self) -> None:
        """Close; what was written before still arrives."""
        if self._closing:
            return
        self._closing = True
        self.write_eof()
        self._loop.call_soon(self._lose)

    def abort(self) -> None:
        """Close at once; what was written and not read is lost."""
        if self.other is not None:
            self.other.inbox.clear()
        self.close()

    def schedule(self) -> None:
        """Look at the inbox in the next loop turn; called by the other end."""
        if not self._scheduled and not self.lost:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self.lost or self._closing or not self._reading:
            return
        if self.inbox:
            received, self.inbox = bytes(self.inbox), bytearray()
            self.stream_protocol.data_received(received)
            self._relieve_writer()
        self._deliver_eof()

    def _deliver_eof(self) -> None:
        if self.eof and not self.inbox and self._reading and not self._closing:
            self.eof = False
            if not self.stream_protocol.eof_received():
                self.close()

    def _relieve_writer(self) -> None:
        other = self.other
        if other is not None and other.writer_paused and not other.lost:
            other.writer_paused = False
            other.protocol.resume_writing()

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self.protocol.connection_lost(None)
        self.other = None


def join(
    client: asyncio.BaseProtocol, factory: Callable[[], asyncio.BaseProtocol], peername: object
) -> MemoryTransport:
    """Connect `client` to a new protocol from `factory`, which sees `peername` as its peer.

    Returns:
        The client's end.
    """
    near = MemoryTransport(client, ("memory", 0))
    far = MemoryTransport(factory(), peername)
    near.connect(far)
    return near

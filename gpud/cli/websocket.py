"""WebSocket (RFC 6455) as a client speaks it: frames out and in over a socket that never blocks.

Whoever uses it waits with `select`, so that it can wait for a terminal too.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import ssl
from typing import TYPE_CHECKING, NamedTuple

from gpud.cli import exits
from gpud.cli.exits import CommandFailed

if TYPE_CHECKING:
    import socket

    from gpud.cli.wire import Answer

TEXT, BINARY = 1, 2
_MORE, _CLOSE, _PING, _PONG = 0, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_READ_BYTES = 65_536
_MESSAGE_BYTES_MAX = 16 << 20


class Message(NamedTuple):
    """What the other side sent.

    Args:
        kind: TEXT or BINARY.
        data: Whole.
    """

    kind: int
    data: bytes


def new_key() -> str:
    """What a client asks with; the answer must fit it."""
    return binascii.b2a_base64(os.urandom(16), newline=False).decode()


def handshake(key: str) -> dict[str, str]:
    """The headers that ask for a WebSocket."""
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }


def agreed(answer: Answer, key: str) -> bool:
    """Whether the other side speaks WebSocket from here on."""
    # The protocol wants SHA-1, and nothing rests on its strength.
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    wanted = binascii.b2a_base64(digest, newline=False).decode()
    return answer.status == 101 and answer.headers.get("sec-websocket-accept") == wanted


class Channel:
    """One WebSocket.

    Args:
        connected: A socket on which both sides have agreed.
        received: What came behind the head of the answer.
    """

    def __init__(self, connected: socket.socket, received: bytes) -> None:
        self._socket = connected
        self._received = bytearray(received)
        self._unsent = bytearray()
        self._kind = 0
        self._parts = bytearray()
        self.closed = False
        connected.settimeout(0)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    @property
    def unsent_bytes(self) -> int:
        """What waits to be sent; while there is any, wait until the socket takes more, and call `flush`."""
        return len(self._unsent)

    def send(self, kind: int, data: bytes) -> None:
        """Send a message as far as the socket takes it."""
        self._unsent += _frame(kind, data)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self.closed = True

    def receive(self) -> list[Message]:
        """Every message that is here; `closed` is set after the last one."""
        try:
            while piece := self._socket.recv(_READ_BYTES):
                self._received += piece
                if len(self._received) > _MESSAGE_BYTES_MAX:
                    break
            else:
                self.closed = True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self.closed = True
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def close(self) -> None:
        """Say goodbye and close; nothing more is read."""
        self.send(_CLOSE, (1000).to_bytes(2, "big"))
        self._socket.close()

    def _next(self) -> Message | None:
        while (frame := self._take_frame()) is not None:
            last, opcode, data = frame
            if opcode == _PING:
                self.send(_PONG, data)
            elif opcode == _CLOSE:
                self.closed = True
                return None
            elif opcode in (TEXT, BINARY, _MORE):
                self._kind = opcode or self._kind
                self._parts += data
                if last:
                    whole, self._parts = bytes(self._parts), bytearray()
                    return Message(self._kind, whole)
        return None

    def _take_frame(self) -> tuple[bool, int, bytes] | None:
        """The next frame, if all of it is here: whether it is the last of its message, its kind, its data."""
        received = self._received
        if len(received) < 2:
            return None
        length, at = received[1] & 0x7F, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(received[2 : 2 + size], "big"), 2 + size
        if len(received) < at or len(received) - at < length:
            if length > _MESSAGE_BYTES_MAX:
                raise CommandFailed("The daemon sent a message that is too long.", code=exits.FAILED)
            return None
        first, data = received[0], bytes(received[at : at + length])
        del received[: at + length]
        return bool(first & 0x80), first & 0x0F, data


def _frame(kind: int, data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    repeated = (mask * (size // 4 + 1))[:size]
    # As whole numbers, since a loop over bytes would be a hundred times slower.
    hidden = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
    return bytes([0x80 | kind]) + length + mask + hidden

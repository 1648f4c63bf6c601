"""Where does a body end? Finds it in a stream of bytes without touching the bytes.

Each kind of body has `take(received)`, which says how many of the bytes it is given still belong to
it, and `done`. Nothing is decoded, except for clients that cannot read chunks. Pure: any split of the
stream gives the same answer.
"""

from __future__ import annotations

import re

from gpud.errors import BadFraming

CHUNK_LINE_BYTES_MAX = 256
"""Longest chunk-size line, extensions included."""
CHUNK_OVERHEAD_BYTES_MAX = 16 * 1024
"""How far chunk lines may outweigh what they frame before the sender is thought hostile."""
TRAILER_BYTES_MAX = 16 * 1024
"""Longest trailer section."""

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*\r\n")
_NOT_IN_TRAILERS = frozenset(
    [b"content-length", b"transfer-encoding", b"host", b"authorization", b"connection", b"trailer"]
)


class NoBody:
    """A message that ends with its head."""

    __slots__ = ()
    done = True
    left = 0

    def take(self, received: bytes, into: list[bytes] | None = None) -> int:  # noqa: ARG002 - as the others
        """None of the bytes belong to it."""
        return 0


NO_BODY = NoBody()


class LengthBody:
    """A body whose length was told."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def take(self, received: bytes, into: list[bytes] | None = None) -> int:
        """Count bytes off; see the module's text."""
        size = len(received)
        if size < self.left:
            self.left -= size
        else:
            size = self.left
            self.left = 0
            self.done = True
        if into is not None:
            into.append(received[:size])
        return size


class EndlessBody:
    """A body that ends with its connection."""

    __slots__ = ()
    done = False
    left = 0

    def take(self, received: bytes, into: list[bytes] | None = None) -> int:
        """Every byte belongs to it."""
        if into is not None:
            into.append(received)
        return len(received)


_SIZE, _DATA, _DATA_CR, _DATA_LF, _TRAILER = range(5)


# What the plain size lines met so far say: looking one up is cheaper than reading it.
_sizes: dict[bytes, int] = {}
_SIZES_MAX = 4096
_PLAIN_LINE = re.compile(rb"[0-9A-Fa-f]{1,8}\r\n")


def _whole_chunks(received: bytes) -> int:
    """Find where the chunks end that are there from size to CRLF, one after the other, as events are sent.

    Stops before the last chunk, at one that is not whole, and at whatever is not plain.
    """
    at = 0
    while end := received.find(b"\n", at, at + 10) + 1:
        line = received[at:end]
        size = _sizes.get(line) or _learn_size(line)
        if not size or not received.startswith(b"\r\n", end + size):
            break
        at = end + size + 2
    return at


def _learn_size(line: bytes) -> int:
    if _PLAIN_LINE.fullmatch(line) is None:
        return 0
    if len(_sizes) >= _SIZES_MAX:
        _sizes.clear()
    size = _sizes[line] = int(line, 16)
    return size


class ChunkedBody:
    """A body in chunks, trailers included."""

    __slots__ = ("_chunk_left", "_line", "_overhead", "_state", "_trailer_bytes", "done", "left")

    def __init__(self) -> None:
        self.done = False
        self.left = 1 << 62
        self._state = _SIZE
        self._chunk_left = 0
        self._line = b""
        self._overhead = 0
        self._trailer_bytes = 0

    @property
    def between_chunks(self) -> bool:
        """The next byte begins a size line, so that another chunk may stand here."""
        return self._state == _SIZE and not self._line and not self.done

    def take(self, received: bytes, into: list[bytes] | None = None) -> int:
        """Follow the chunks; see the module's text.

        Args:
            received: The next bytes of the stream.
            into: Gets the bytes inside the chunks, when given.

        Raises:
            BadFraming: Not a chunked body.
        """
        plain = self._state == _SIZE and into is None and not (self._line or self._overhead)
        at, size = _whole_chunks(received) if plain else 0, len(received)
        while at < size and not self.done:
            state = self._state
            if state == _DATA:
                step = min(self._chunk_left, size - at)
                if into is not None:
                    into.append(received[at : at + step])
                at += step
                self._chunk_left -= step
                if not self._chunk_left:
                    self._state = _DATA_CR
            elif state == _DATA_CR:
                if received.startswith(b"\r\n", at):
                    self._state = _SIZE
                    at += 2
                elif received[at] == 13 and at + 1 == size:
                    self._state = _DATA_LF
                    at += 1
                else:
                    raise BadFraming("A chunk is longer than its size says.")
            elif state == _DATA_LF:
                if received[at] != 10:
                    raise BadFraming("A chunk is longer than its size says.")
                self._state = _SIZE
                at += 1
            else:
                at = self._take_line(received, at)
        return at

    def _take_line(self, received: bytes, at: int) -> int:
        end = received.find(b"\n", at) + 1
        limit = CHUNK_LINE_BYTES_MAX if self._state == _SIZE else TRAILER_BYTES_MAX
        if (end or len(received)) - at + len(self._line) > limit:
            raise BadFraming("A chunk's size line or a trailer is too long.")
        if not end:
            self._line += received[at:]
            self._check_partial_line()
            return len(received)
        line = self._line + received[at:end] if self._line else received[at:end]
        self._line = b""
        if self._state == _SIZE:
            self._take_size(line)
        else:
            self._take_trailer(line)
        return end

    def _check_partial_line(self) -> None:
        """Refuse what no further bytes can make right, so that nobody waits for them."""
        cr = self._line.find(b"\r")
        if cr >= 0 and cr != len(self._line) - 1:
            raise BadFraming("A chunk's size line holds a bare CR.")
        if self._state == _SIZE and _CHUNK_LINE.match(self._line.rstrip(b"\r") + b"\r\n") is None:
            raise BadFraming("A chunk's size is not a hexadecimal number of at most 15 digits.")

    def _take_size(self, line: bytes) -> None:
        found = _CHUNK_LINE.fullmatch(line)
        if found is None:
            raise BadFraming("A chunk's size is not a hexadecimal number of at most 15 digits.")
        self._chunk_left = int(found.group(1), 16)
        overhead = self._overhead + len(line) - 16 - 2 * self._chunk_left
        self._overhead = max(0, overhead)
        if overhead > CHUNK_OVERHEAD_BYTES_MAX:
            raise BadFraming("The chunks' extensions outweigh the chunks.")
        self._state = _DATA if self._chunk_left else _TRAILER

    def _take_trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done = True
            return
        self._trailer_bytes += len(line)
        found = _TRAILER_LINE.fullmatch(line)
        if found is None or self._trailer_bytes > TRAILER_BYTES_MAX:
            raise BadFraming("A trailer is malformed, or the trailers are too long.")
        if found.group(1).lower() in _NOT_IN_TRAILERS:
            raise BadFraming("A trailer names a field that may only be in the head.")


Body = NoBody | LengthBody | ChunkedBody | EndlessBody

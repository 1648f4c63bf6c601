"""Where a container's output is read from: the engine's own log file, or the engine's API.

The file is preferred where it may be read: it costs the engine nothing, and what was rotated away while
it was being read is still read to its end. An engine that follows its own log for us skips what it had not
sent when the file was rotated: at 70,000 lines/s an engine of release 20.10 lost a quarter without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gpud.core.log_lines import full_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_BYTES = 1 << 20
"""Most that one turn takes from a source."""
_API = "/v1.41"
_FRAME = struct.Struct(">BxxxI")
_FRAME_BYTES_MAX = 1 << 20
_STREAMS = {0: b"stdout", 1: b"stdout", 2: b"stderr"}
_HEAD_BYTES_MAX = 65_536
_ANSWER_BYTES_MAX = 8 << 20
_TAIL = b'","stream":"'
_ROTATED_MAX = 100
_RECENT = 4096

Piece = tuple[bytes, bytes, bytes]
"""Moment, stream, and text with its line end, if it has one."""


class EngineAway(Exception):
    """The engine took no connection, or broke it off, or answered with an error of its own."""


class NoContainer(Exception):
    """The engine has no such container."""


class ContainerLog(NamedTuple):
    """What the engine says of a container's log."""

    id: str
    path: str
    running: bool


class Source(Protocol):
    """A container's output, as far as it is there."""

    def read(self) -> bytes | None:
        """Some more of it, raw; empty when there is no more now, None when there will be no more."""
        ...

    def whole(self, raw: bytes) -> int:
        """How many bytes from the start of `raw` are whole entries."""
        ...

    def pieces(self, raw: bytes) -> Iterator[Piece]:
        """Take whole entries apart."""
        ...

    def count(self, raw: bytes) -> int:
        """How many lines whole entries hold, about."""
        ...

    def take_gaps(self) -> int:
        """How often since the last call something was rotated away before it was read."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class FileSource:
    """The file of Docker's json-file driver, through its rotations.

    Args:
        path: Of the newest file; older ones are beside it with `.1`, `.2` behind their names.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._gaps = 0
        self._file = self._rotations()[0].open("rb", buffering=0)

    def _rotations(self) -> list[Path]:
        """The files there are, oldest first."""
        older = []
        for index in range(1, _ROTATED_MAX):
            path = self._path.with_name(f"{self._path.name}.{index}")
            if not path.exists():
                break
            older.append(path)
        return [*reversed(older), self._path]

    def read(self) -> bytes | None:
        """Some more; a file that was rotated away is read to its end first."""
        while True:
            data = self._file.read(READ_BYTES)
            if data:
                return data
            mine = os.fstat(self._file.fileno()).st_ino
            if self._inode(self._path) in (mine, 0):
                return b""
            data = self._file.read(READ_BYTES)  # written between the last read and the rotation
            if data:
                return data
            if not self._go_on(mine):
                return b""

    def _go_on(self, mine: int) -> bool:
        """Open the file that came after mine; while mine is open, no other has its inode."""
        files = self._rotations()
        inodes = [self._inode(path) for path in files]
        following = inodes.index(mine) + 1 if mine in inodes else 0
        if following >= len(files):
            return False
        try:
            file = files[following].open("rb", buffering=0)
        except FileNotFoundError:
            return False
        if os.fstat(file.fileno()).st_ino != inodes[following]:
            file.close()  # Rotated again just now: look again.
            return self._go_on(mine)
        if mine not in inodes:
            self._gaps += 1
        self._file.close()
        self._file = file
        return True

    @staticmethod
    def _inode(path: Path) -> int:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return 0

    def whole(self, raw: bytes) -> int:
        """How many bytes are whole entries."""
        return raw.rfind(b"\n") + 1

    def pieces(self, raw: bytes) -> Iterator[Piece]:
        """Take entries apart."""
        for line in raw.split(b"\n")[:-1]:
            # {"log":"text\n","stream":"stdout","time":"..."}, and text without escapes needs no parser.
            end = line.rfind(_TAIL)
            if line.startswith(b'{"log":"') and end > 0:
                text, rest = line[8:end], line[end + len(_TAIL) :]
                plain = text[:-2] if text[-2:] == b"\\n" else text
                if b"\\" not in plain and rest[6:16] == b'","time":"' and rest[-2:] == b'"}':
                    ended = plain + b"\n" if plain is not text else plain
                    yield full_stamp(rest[16:-2]), rest[:6], ended
                    continue
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = json.loads(line)
                stamp, stream = entry["time"].encode(), entry["stream"].encode()
                yield full_stamp(stamp), stream, entry["log"].encode("utf-8", "replace")

    def count(self, raw: bytes) -> int:
        """How many lines, about."""
        return raw.count(b"\n")

    def take_gaps(self) -> int:
        """How often a file was rotated away before it was read."""
        gaps, self._gaps = self._gaps, 0
        return gaps

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class ApiSource:
    """The engine's answer to a request to follow a container's log.

    Args:
        connection: Its answer's head is read; what follows are frames.
        rest: What came of them with the head.
    """

    def __init__(self, connection: socket.socket, rest: bytes) -> None:
        self._connection = connection
        self._rest = rest
        connection.setblocking(False)  # noqa: FBT003 - the library's own
        self._last: dict[bytes, bytes] = {}
        self._recent: deque[bytes] = deque(maxlen=_RECENT)
        self._repeating: set[bytes] = set()

    def fileno(self) -> int:
        """For a selector."""
        return self._connection.fileno()

    def read(self) -> bytes | None:
        """Some more; None when the engine ended the answer."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return self._connection.recv(READ_BYTES) or None
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            return None

    def whole(self, raw: bytes) -> int:
        """How many bytes are whole frames."""
        at = 0
        while at + 8 <= len(raw):
            length = int.from_bytes(raw[at + 4 : at + 8], "big")
            if length > _FRAME_BYTES_MAX or raw[at] not in _STREAMS:
                raise EngineAway("The engine sent what is no log.")
            if at + 8 + length > len(raw):
                break
            at += 8 + length
        return at

    def pieces(self, raw: bytes) -> Iterator[Piece]:
        """Take frames apart."""
        at = 0
        while at < len(raw):
            kind, length = _FRAME.unpack_from(raw, at)
            frame = raw[at + 8 : at + 8 + length]
            at += 8 + length
            spelled, _, text = frame.partition(b" ")
            with contextlib.suppress(ValueError):
                stamp, stream = full_stamp(spelled), _STREAMS[kind]
                if not self._repeated(stamp, stream):
                    yield stamp, stream, text

    def _repeated(self, stamp: bytes, stream: bytes) -> bool:
        """Engines before release 23 hand some lines out twice when they rotate the file they follow."""
        last = self._last.get(stream, b"")
        if stamp > last:
            self._repeating.discard(stream)
            self._last[stream] = stamp
            self._recent.append(stamp)
            return False
        if stamp < last and stream not in self._repeating and stamp in self._recent:
            self._repeating.add(stream)
        if stamp < last and stream not in self._repeating:
            self._last[stream] = stamp  # the clock was set back
        return stream in self._repeating

    def count(self, raw: bytes) -> int:
        """How many lines, about."""
        return raw.count(b"\n")

    def take_gaps(self) -> int:
        """The engine does not tell."""
        return 0

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class EngineLogs:
    """Asks an engine about containers' logs; HTTP/1.0, so that answers come without chunks.

    Args:
        host: `unix://` and a path, or `tcp://` and host and port.
        timeout_s: Of each answer's beginning.
    """

    def __init__(self, host: str, *, timeout_s: float) -> None:
        self._host = host
        self._timeout_s = timeout_s

    def look(self, name: str) -> ContainerLog:
        """Find a container and its log.

        Raises:
            NoContainer, EngineAway: As they say.
        """
        connection, rest = self._ask(f"{_API}/containers/{name}/json")
        with connection:
            parts = [rest]
            held = len(rest)
            try:
                while piece := connection.recv(65_536):
                    parts.append(piece)
                    held += len(piece)
                    if held > _ANSWER_BYTES_MAX:
                        raise EngineAway("The engine's answer does not end.")
                document = json.loads(b"".join(parts))
                running = bool(document["State"]["Running"])
                driver = document["HostConfig"]["LogConfig"]["Type"]
                path = document.get("LogPath") if driver == "json-file" else ""
                return ContainerLog(document["Id"], str(path or ""), running)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EngineAway(f"The engine's answer cannot be read: {error}") from error

    def follow(self, container_id: str, since: str) -> ApiSource:
        """Follow a container's log.

        Args:
            container_id: As the engine has it.
            since: Unix seconds with nine decimals; empty for the beginning.

        Raises:
            NoContainer, EngineAway: As they say.
        """
        query = "follow=1&stdout=1&stderr=1&timestamps=1" + (f"&since={since}" if since else "")
        connection, rest = self._ask(f"{_API}/containers/{container_id}/logs?{query}")
        return ApiSource(connection, rest)

    def _ask(self, target: str) -> tuple[socket.socket, bytes]:
        connection = self._connect()
        try:
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65_536)
                if not piece or len(head) > _HEAD_BYTES_MAX:
                    break
                head += piece
        except OSError as error:
            connection.close()
            raise EngineAway(f"The engine does not answer: {error}") from error
        head, _, rest = head.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            connection.close()
            if status == [b"404"]:
                raise NoContainer
            raise EngineAway(f"The engine answered {head[:80].decode(errors='replace')!r}.")
        return connection, rest

    def _connect(self) -> socket.socket:
        scheme, _, address = self._host.partition("://")
        try:
            if scheme == "unix":
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(self._timeout_s)
                try:
                    connection.connect(address)
                except OSError:
                    connection.close()
                    raise
                return connection
            host, _, port = address.rpartition(":")
            return socket.create_connection((host.strip("[]"), int(port)), self._timeout_s)
        except (OSError, ValueError) as error:
            raise EngineAway(f"The engine takes no connection: {error}") from error

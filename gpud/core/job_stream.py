"""Cuts a streamed answer into chunks: lines, or server-sent events."""

from __future__ import annotations

import json

CHUNK_BYTES_MAX = 1 << 20


class ChunkCutter:
    """Takes bytes as they come and gives each chunk as JSON text.

    Args:
        events: The answer is `text/event-stream`; else every line is a chunk.
    """

    def __init__(self, *, events: bool) -> None:
        self._events = events
        self._pending = b""
        self._data: list[bytes] = []

    def take(self, part: bytes) -> list[bytes]:
        """Chunks that are whole with these bytes.

        Raises:
            ValueError: One is longer than any may be.
        """
        *lines, self._pending = (self._pending + part).split(b"\n")
        if len(self._pending) > CHUNK_BYTES_MAX:
            raise ValueError(f"a part of the stream has more than {CHUNK_BYTES_MAX} bytes")
        found: list[bytes] = []
        for line in lines:
            self._take_line(line.rstrip(b"\r"), found)
        return found

    def end(self) -> list[bytes]:
        """The chunk that the end of the answer completes, if any."""
        found: list[bytes] = []
        if self._pending:
            self._take_line(self._pending.rstrip(b"\r"), found)
            self._pending = b""
        if self._data:
            self._take_line(b"", found)
        return found

    def _take_line(self, line: bytes, found: list[bytes]) -> None:
        if not self._events:
            if line.strip():
                found.append(_as_json(line))
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            if sum(map(len, self._data)) > CHUNK_BYTES_MAX:
                raise ValueError(f"an event of the stream has more than {CHUNK_BYTES_MAX} bytes")
        elif not line and self._data:
            found.append(_as_json(b"\n".join(self._data)))
            self._data = []


def sse_of(yielded: object) -> bytes:
    """What a job's chunk is on a stream of server-sent events.

    Text is taken for such events already, cut anywhere; anything else becomes the data of one event, and a
    list that of several.
    """
    if isinstance(yielded, str):
        return yielded.encode(errors="replace")
    if isinstance(yielded, list):
        return b"".join(map(sse_of, yielded))
    text = json.dumps(yielded, separators=(",", ":"), ensure_ascii=False)
    return f"data: {text}\n\n".encode(errors="backslashreplace")


def _as_json(text: bytes) -> bytes:
    """The text if it is JSON, else a JSON string of it."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text.decode(errors="replace"), ensure_ascii=False).encode()
    return text.strip()

"""What a kept log line looks like, and how one is put together from what a container wrote.

A record is one line of text: a moment of fixed width, a stream, and what was written, such as
`2026-11-22T05:22:16.504138921Z stdout listening on port 8000`. So the files can be read with any tool,
and moments compare as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

STAMP_CHARS = 30
_STAMP_LESS_FRACTION = 19
_NS = 1_000_000_000
_CONTAINER_STREAMS = (b"stdout", b"stderr")


class LogStream(StrEnum):
    """Where a line comes from; `gpud` for what gpud itself says of the worker."""

    STDOUT = "stdout"
    STDERR = "stderr"
    GPUD = "gpud"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One kept line.

    Args:
        stamp: When it was written, as in the record.
        stream: Where it comes from.
        text: Without its line end; what is no UTF-8 is replaced.
    """

    stamp: str
    stream: LogStream
    text: str


def stamp_of(ns: int) -> bytes:
    """Spell Unix nanoseconds as the moment of a record."""
    seconds, fraction = divmod(max(ns, 0), _NS)
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z".encode()


def full_stamp(spelled: bytes) -> bytes:
    """Pad an RFC 3339 moment in UTC to nine digits, as engines leave zeros at its end out.

    Raises:
        ValueError: It is no such moment.
    """
    if len(spelled) == STAMP_CHARS:
        return spelled
    if spelled[-1:] != b"Z" or len(spelled) <= _STAMP_LESS_FRACTION or len(spelled) > STAMP_CHARS:
        raise ValueError(f"not a moment in UTC: {spelled!r}")
    return (
        spelled[:_STAMP_LESS_FRACTION] + b"." + spelled[_STAMP_LESS_FRACTION + 1 : -1].ljust(9, b"0") + b"Z"
    )


def ns_of(stamp: str) -> int:
    """Read the moment of a record, in Unix nanoseconds.

    Raises:
        ValueError: It is none.
    """
    whole = datetime.fromisoformat(stamp[:_STAMP_LESS_FRACTION] + "+00:00")
    since = whole - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * _NS + int(stamp[_STAMP_LESS_FRACTION + 1 : -1] or "0")


def record(stamp: bytes, stream: bytes, text: bytes) -> bytes:
    """Spell a record; `text` holds no line end."""
    return b"%b %b %b\n" % (stamp, stream, text)


def parse_record(raw: bytes) -> LogLine | None:
    """Read a record without its line end; None when it is none."""
    stream, _, text = raw[STAMP_CHARS + 1 :].partition(b" ")
    try:
        known = LogStream(stream.decode("ascii"))
        stamp = raw[:STAMP_CHARS].decode("ascii")
    except ValueError:
        return None
    return LogLine(stamp=stamp, stream=known, text=text.decode("utf-8", "replace"))


class LineAssembler:
    """Joins the pieces in which an engine hands out long lines, and bounds what is kept of each.

    Args:
        line_bytes_max: Kept of a line; what is beyond is counted and left out.
        spare_bytes: Held beyond that, so that a secret across the cut is seen whole before the cut is made.
    """

    def __init__(self, *, line_bytes_max: int, spare_bytes: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._room = line_bytes_max + spare_bytes
        self._begun: dict[bytes, tuple[bytes, bytearray, int]] = {}

    def add(self, stamp: bytes, stream: bytes, piece: bytes) -> tuple[bytes, bytes, int] | None:
        """Take a piece, with its line end if it is a line's last.

        Returns:
            A whole line's moment, its text and how many bytes of it were not held; None before its end.
        """
        if not self._begun and piece[-1:] == b"\n" and len(piece) <= self._line_bytes_max:
            return stamp, piece[:-1], 0
        began, held, lost = self._begun.pop(stream, (stamp, bytearray(), 0))
        ended = piece[-1:] == b"\n"
        text = piece[:-1] if ended else piece
        fits = text[: max(self._room - len(held), 0)]
        held += fits
        lost += len(text) - len(fits)
        if ended:
            return began, bytes(held), lost
        self._begun[stream] = (began, held, lost)
        return None

    def flush(self) -> list[tuple[bytes, bytes, bytes, int]]:
        """Give up waiting for the ends of lines: moment, stream, text and bytes not held of each."""
        begun, self._begun = self._begun, {}
        return [(stamp, stream, bytes(held), lost) for stream, (stamp, held, lost) in begun.items()]

    def cut(self, text: bytes, lost: int) -> bytes:
        """Cut a line, secrets already gone from it, to what is kept, and say how much is missing."""
        lost += max(len(text) - self._line_bytes_max, 0)
        return text if not lost else b"%b [%d more bytes left out]" % (text[: self._line_bytes_max], lost)


@dataclass(slots=True)
class StreamMark:
    """How far a stream was kept: the moment of its last record, and how many records have it."""

    stamp: bytes
    records: int = 1


class Resumption:
    """Tells lines that were kept before a restart from those that were not.

    An engine hands its lines out again from the beginning, in order. Those of a stream up to its mark are
    known, and of several with the mark's own moment as many as are kept.

    Args:
        marks: By stream; a stream without one had nothing kept.
    """

    def __init__(self, marks: dict[bytes, StreamMark]) -> None:
        self._marks = {stream: StreamMark(mark.stamp, mark.records) for stream, mark in marks.items()}
        self.passed = not marks
        """Whether any stream is past what is known: what comes now is new, or nearly."""

    @property
    def over(self) -> bool:
        """Whether every stream is past what is known, so that nothing need be compared any more."""
        return not self._marks

    def known(self, stamp: bytes, stream: bytes) -> bool:
        """Whether the next line of a stream was kept already."""
        mark = self._marks.get(stream)
        if mark is None:
            return False
        if stamp < mark.stamp:
            return True
        if stamp == mark.stamp and mark.records > 0:
            mark.records -= 1
            return True
        del self._marks[stream]
        self.passed = True
        return False


def marks_of(records: list[bytes]) -> dict[bytes, StreamMark]:
    """Find how far each stream was kept, from the last records of a log in their order."""
    marks: dict[bytes, StreamMark] = {}
    for raw in records:
        stream = raw[STAMP_CHARS + 1 :].partition(b" ")[0]
        stamp, mark = raw[:STAMP_CHARS], marks.get(stream)
        if stream not in _CONTAINER_STREAMS:
            continue
        if mark is not None and mark.stamp == stamp:
            mark.records += 1
        else:
            marks[stream] = StreamMark(stamp)
    return marks

"""Brings one container's output into its log: whole lines, secrets out, no faster than allowed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.log_caps import LogCaps, RateLimit
from gpud.core.log_lines import LineAssembler, LogStream, Resumption, record, stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.adapters.log_files import LogFile
    from gpud.adapters.log_sources import Piece, Source
    from gpud.core.redaction import Redactor

_GPUD = LogStream.GPUD.value.encode()
_SAY_DROPS_EVERY_S = 1.0


@dataclass(slots=True)
class Counts:
    """What went through since the process started."""

    lines: int = 0
    bytes: int = 0
    dropped_lines: int = 0
    dropped_bytes: int = 0
    gaps: int = 0


class Pipe:
    """From one source to one log.

    Args:
        file: The log.
        caps: For the length of lines and the rate.
        redactor: Knows the worker's secrets.
    """

    def __init__(self, file: LogFile, caps: LogCaps, redactor: Redactor) -> None:
        self.file = file
        self.counts = Counts()
        self._caps = caps
        self._redactor = redactor
        self._limit = RateLimit(caps.rate_bytes_per_s, caps.burst_bytes)
        self._source: Source | None = None
        self._rest = b""
        self._resumption = Resumption({})
        self._assembler = self._new_assembler()
        self._unsaid_lines, self._unsaid_bytes, self._said_s = 0, 0, 0.0

    def _new_assembler(self) -> LineAssembler:
        spare_bytes = self._redactor.longest_bytes
        return LineAssembler(line_bytes_max=self._caps.line_bytes, spare_bytes=spare_bytes)

    @property
    def source(self) -> Source | None:
        """What is read from now."""
        return self._source

    def keep_secret(self, redactor: Redactor) -> None:
        """Take other secrets from the next line on."""
        self._redactor = redactor

    def take_source(self, source: Source) -> None:
        """Read from here; what is in the log already is not written again."""
        self.drop_source()
        self._source, self._rest = source, b""
        self._resumption = Resumption(self.file.marks())
        self._assembler = self._new_assembler()

    def drop_source(self) -> None:
        """Read no more from where it was read; a line that was begun will be read again."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def turn(self) -> bool | None:
        """Bring a bounded amount over.

        Returns:
            True when there may be more at once, False when not, None when the source has ended.

        Raises:
            OSError: The disk took nothing, and what was read comes again with the next source.
        """
        source = self._source
        if source is None:
            return False
        data = source.read()
        if data is None:
            self._flush()
            self.drop_source()
            return None
        if gaps := source.take_gaps():
            self.counts.gaps += gaps
            self._say(f"worker.log_dropped gaps={gaps} reason=rotated_before_read")
        if data:
            raw = self._rest + data if self._rest else data
            cut = source.whole(raw)
            self._rest = raw[cut:]
            self._bring(source, raw[:cut])
        elif self._unsaid_lines:
            self._say_drops(time.monotonic())
        return bool(data)

    def _bring(self, source: Source, raw: bytes) -> None:
        now_s = time.monotonic()
        if self._resumption.passed and not self._limit.take(len(raw), now_s):
            self._break_off()
            self._unsaid_lines += source.count(raw)
            self._unsaid_bytes += len(raw)
            if now_s - self._said_s >= _SAY_DROPS_EVERY_S:
                self._say_drops(now_s)
            return
        if self._unsaid_lines:
            self._say_drops(now_s)
        self._write(self._records(source.pieces(raw)))

    def _records(self, pieces: Iterator[Piece]) -> list[tuple[bytes, bytes, bytes, int]]:
        found: list[tuple[bytes, bytes, bytes, int]] = []
        add, known, over = self._assembler.add, self._resumption.known, self._resumption.over
        for stamp, stream, text in pieces:
            line = add(stamp, stream, text)
            if line is None:
                continue
            if over or not known(line[0], stream):
                found.append((line[0], stream, line[1], line[2]))
        return found

    def _break_off(self) -> None:
        """End lines whose rest is being dropped: what comes after the drop may be another line.

        What may be the beginning of a secret goes too, since its end is not seen any more.
        """
        spare = self._redactor.longest_bytes
        begun = self._assembler.flush()
        self._write(
            [
                (stamp, stream, held[: max(len(held) - spare, 0)] + b" [the rest was dropped]", lost)
                for stamp, stream, held, lost in begun
                if not self._resumption.known(stamp, stream)
            ]
        )

    def _flush(self) -> None:
        known = self._resumption.known
        self._write([line for line in self._assembler.flush() if not known(line[0], line[1])])

    def _write(self, lines: list[tuple[bytes, bytes, bytes, int]]) -> None:
        if not lines:
            return
        block = b"".join([b"%b %b %b\n" % (stamp, stream, text) for stamp, stream, text, _ in lines])
        longest = self._caps.line_bytes
        if self._redactor.touches(block) or any(lost or len(text) > longest for _, _, text, lost in lines):
            clean, cut = self._redactor.clean, self._assembler.cut
            block = b"".join(
                [record(stamp, stream, cut(clean(text), lost)) for stamp, stream, text, lost in lines]
            )
        self.file.append(block)
        self.counts.lines += len(lines)
        self.counts.bytes += len(block)

    def _say_drops(self, now_s: float) -> None:
        lines, self._unsaid_lines = self._unsaid_lines, 0
        held, self._unsaid_bytes = self._unsaid_bytes, 0
        self._said_s = now_s
        self.counts.dropped_lines += lines
        self.counts.dropped_bytes += held
        limit = self._caps.rate_bytes_per_s
        self._say(f"worker.log_dropped lines={lines} bytes={held} reason=more_than_{limit}_bytes_per_s")

    def _say(self, text: str) -> None:
        self.note(stamp_of(time.time_ns()), text)

    def note(self, stamp: bytes, text: str) -> None:
        """Write what gpud says itself; line ends in it become spaces.

        Raises:
            OSError: The disk took nothing.
        """
        clean = self._redactor.clean(" ".join(text.splitlines()).encode(errors="replace"))
        self.file.append(record(stamp, _GPUD, self._assembler.cut(clean, 0)))

    def close(self, *, over: bool) -> None:
        """Write what is left, and close the log; one that is over gets nothing more."""
        if self._unsaid_lines:
            self._say_drops(time.monotonic())
        if over and self._source is not None:
            self._flush()
        self.drop_source()
        self.file.close(over=over)

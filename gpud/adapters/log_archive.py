"""Finds lines in the kept logs, on threads of its own and within a budget for each question."""

from __future__ import annotations

import gzip
import heapq
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from gpud.adapters.log_files import LogFolder, SegmentFile, folders, segment_files
from gpud.adapters.log_match import LineFilter
from gpud.adapters.threads import Threads
from gpud.core.log_cursor import LogCursor, LogExtent
from gpud.core.log_lines import STAMP_CHARS, LogLine, parse_record, stamp_of
from gpud.ports.logs import FoundLine, LogPage, LogQuery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_THREADS = 2
_BLOCK_BYTES = 1 << 18
_BUDGET_BYTES = 64 << 20
_BUDGET_S = 2.0
_SLACK_NS = 5_000_000_000
"""Lines of a worker are in order but for this much."""
_GZIP_SIZE_BYTES = 4
_FRESH_S = 30.0


class _Step(NamedTuple):
    """One step through a log: a line, or a stretch without any that was asked for."""

    key: str
    number: int
    before: int
    after: int
    line: LogLine | None


@dataclass(slots=True)
class _Budget:
    """What one question may cost."""

    bytes: int
    until_s: float

    @property
    def spent(self) -> bool:
        return self.bytes <= 0 or time.monotonic() > self.until_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    folder: LogFolder
    files: tuple[SegmentFile, ...]
    extent: LogExtent
    written_s: float


class LogFileArchive:
    """The `LogArchive` over the files of a root.

    Args:
        root: Of the logs.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = Threads(_THREADS, name="gpud-logs")

    async def read(self, query: LogQuery) -> LogPage:
        """Find lines.

        Raises:
            InvalidRequest: The regular expression cannot be used.
        """
        return await self._threads.run(self._read, query)

    async def close(self) -> None:
        """Let the threads end."""
        await self._threads.close(timeout_s=1.0)

    def _read(self, query: LogQuery) -> LogPage:
        wanted = LineFilter(query)
        logs = [log for folder in folders(self._root) if (log := self._log(folder, query)) is not None]
        budget = _Budget(_BUDGET_BYTES, time.monotonic() + _BUDGET_S)
        if query.cursor is None:
            return _newest(logs, query, wanted, budget)
        return _onwards(logs, query, wanted, budget)

    @staticmethod
    def _log(folder: LogFolder, query: LogQuery) -> _Log | None:
        """What there is of a log, if it is asked for."""
        live = folder.worker_id in query.live
        if query.endpoint not in ("", folder.endpoint):
            return None
        if query.cursor is not None and folder.number < query.cursor.floor:
            return None
        if query.windows and folder.worker_id not in {window.worker_id for window in query.windows}:
            return None
        if (query.previous and live) or (query.current and not live):
            return None
        try:
            files = segment_files(folder.path)
            if not files:
                return None
            end = files[-1].start + _plain_bytes(files[-1])
            written_s = files[-1].path.stat().st_mtime
        except FileNotFoundError:
            # It was compressed, or deleted, between two looks.
            return LogFileArchive._log(folder, query)
        # What was written to just now may get gpud's last words about a worker that is gone.
        fresh = time.time() - written_s < _FRESH_S
        extent = LogExtent(number=folder.number, start=files[0].start, end=end, live=live or fresh)
        return _Log(folder=folder, files=tuple(files), extent=extent, written_s=written_s)


def _plain_bytes(one: SegmentFile) -> int:
    if not one.compressed:
        return one.path.stat().st_size
    with one.path.open("rb") as file:
        file.seek(-_GZIP_SIZE_BYTES, os.SEEK_END)
        return int.from_bytes(file.read(_GZIP_SIZE_BYTES), "little")


def _onwards(logs: list[_Log], query: LogQuery, wanted: LineFilter, budget: _Budget) -> LogPage:
    """Lines after the cursor, oldest first."""
    cursor = query.cursor or LogCursor()
    lost = sum(cursor.lost(log.extent) for log in logs)
    found: list[FoundLine] = []
    by_number = {log.extent.number: log for log in logs}
    walks = [
        _walk(log, position, query, wanted, budget)
        for log in logs
        if (position := cursor.position(log.extent)) < log.extent.end
    ]
    complete = True
    for step in heapq.merge(*walks, key=lambda step: (step.key, step.number)):
        if len(found) >= query.limit or (budget.spent and found):
            complete = False
            break
        cursor = cursor.advanced(step.number, step.after)
        if step.line is not None:
            found.append(_found(by_number[step.number], step.line, cursor))
        elif budget.spent:
            complete = False
            break
    if budget.spent and any(cursor.position(log.extent) < log.extent.end for log in logs):
        complete = False
    settled = cursor.settled(log.extent for log in logs)
    return LogPage(lines=tuple(found), cursor=settled, complete=complete, lost_bytes=lost)


def _newest(logs: list[_Log], query: LogQuery, wanted: LineFilter, budget: _Budget) -> LogPage:
    """The last lines, oldest first."""
    held: list[_Step] = []
    complete = True
    for log in sorted(logs, key=lambda log: log.written_s, reverse=True) if query.limit else ():
        if len(held) >= query.limit and stamp_of(int(log.written_s * 1e9) + _SLACK_NS).decode() < held[0].key:
            break
        for one, begin, end in _backwards(log):
            if budget.spent:
                complete = False
                break
            walk = _walk_file(log, one, begin, wanted, budget, stop=end)
            steps = held + [step for step in walk if step.line is not None]
            held = sorted(steps, key=lambda step: (step.key, step.number, step.before))[-query.limit :]
            first = _stamp_at(one, begin)
            if first < wanted.since_stamp or (len(held) >= query.limit and first < held[0].key):
                break
    return _page_of(held, logs, complete=complete)


def _backwards(log: _Log) -> Iterator[tuple[SegmentFile, int, int]]:
    """Stretches of a log from its end to its start, the first ones short: most questions end there."""
    end = log.extent.end
    for one in reversed(log.files):
        stretch = _BLOCK_BYTES
        while end > one.start:
            begin = one.start if one.compressed else _line_start(one, max(end - stretch, one.start))
            if begin >= end:  # one line longer than the stretch
                stretch *= 2
                continue
            yield one, begin, end
            end, stretch = begin, stretch * 2


def _line_start(one: SegmentFile, position: int) -> int:
    """The start of the first line that begins at a position or after it."""
    if position <= one.start:
        return one.start
    try:
        with _open_at(one, position - 1 - one.start) as file:
            return position - 1 + len(file.readline())
    except FileNotFoundError:
        return one.start


def _page_of(held: list[_Step], logs: list[_Log], *, complete: bool) -> LogPage:
    """The lines with a cursor each: every log stands where its first line is, or at its end."""
    by_number = {log.extent.number: log for log in logs}
    positions = {log.extent.number: log.extent.end for log in logs}
    for step in reversed(held):
        positions[step.number] = step.before
    extents = [log.extent for log in logs]
    cursor = LogCursor(positions=positions)
    lines: list[FoundLine] = []
    for step in held:
        cursor = cursor.advanced(step.number, step.after)
        if step.line is not None:
            lines.append(_found(by_number[step.number], step.line, cursor.settled(extents)))
    for extent in extents:
        cursor = cursor.advanced(extent.number, extent.end)
    return LogPage(lines=tuple(lines), cursor=cursor.settled(extents), complete=complete)


def _found(log: _Log, line: LogLine, cursor: LogCursor) -> FoundLine:
    return FoundLine(endpoint=log.folder.endpoint, worker_id=log.folder.worker_id, line=line, cursor=cursor)


def _walk(log: _Log, position: int, query: LogQuery, wanted: LineFilter, budget: _Budget) -> Iterator[_Step]:
    """Go through a log from a position, in order of time as its writer saw it."""
    key = ""
    files = [
        one for i, one in enumerate(log.files) if i + 1 == len(log.files) or log.files[i + 1].start > position
    ]
    if query.since_ns:
        early = stamp_of(query.since_ns - _SLACK_NS).decode()
        later = [i for i, one in enumerate(files) if _stamp_at(one, one.start) <= early]
        files = files[later[-1] :] if later else files
    for one in files:
        for step in _walk_file(log, one, max(position, one.start), wanted, budget, key=key):
            key = step.key
            yield step
        if budget.spent:
            return
        if wanted.until_stamp and key > wanted.until_stamp:
            return


def _walk_file(
    log: _Log,
    one: SegmentFile,
    position: int,
    wanted: LineFilter,
    budget: _Budget,
    *,
    key: str = "",
    stop: int | None = None,
) -> Iterator[_Step]:
    """Go through a file of a log from the start of a line, to its end or to the start of another."""
    number, endpoint_worker = log.extent.number, log.folder.worker_id
    try:
        file = _open_at(one, position - one.start)
    except FileNotFoundError:
        return
    with file:
        rest = b""
        while not budget.spent:
            ahead = position + len(rest)
            block = file.read(_BLOCK_BYTES if stop is None else min(_BLOCK_BYTES, stop - ahead))
            if not block:
                return
            budget.bytes -= len(block)
            cut = block.rfind(b"\n") + 1
            whole, rest = (rest + block[:cut], block[cut:]) if cut else (b"", rest + block)
            began = position
            for raw, after in wanted.candidates(whole, position):
                line = parse_record(raw)
                if line is None or not wanted.takes(line, endpoint_worker):
                    continue
                key = max(key, line.stamp)
                yield _Step(key, number, after - len(raw) - 1, after, line)
            position += len(whole)
            if whole:
                last = whole[whole.rfind(b"\n", 0, -1) + 1 :][:STAMP_CHARS].decode("ascii", "replace")
                key = max(key, last)
                yield _Step(key, number, began, position, None)


def _open_at(one: SegmentFile, offset: int) -> BinaryIO:
    try:
        file = _open(one.path)
    except FileNotFoundError:
        file = _open(one.path.with_name(one.path.name + ".gz"))  # compressed since the folder was listed
    file.seek(offset)
    return file


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(path)) if path.suffix == ".gz" else path.open("rb")


def _stamp_at(one: SegmentFile, position: int) -> str:
    try:
        with _open_at(one, position - one.start) as file:
            return file.read(STAMP_CHARS).decode("ascii", "replace")
    except FileNotFoundError:
        return ""

"""The files of the workers' logs: written by one process, in segments named after their first byte."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from gpud.core.ids import ENDPOINT_NAME, WORKER_ID
from gpud.core.log_caps import Segment
from gpud.core.log_lines import StreamMark, marks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FOLDER = re.compile(r"(\d{8,18})-(wk_[a-z2-7]{16})\Z")
_SEGMENT = re.compile(r"(\d{15})\.log(\.gz)?\Z")
_MARK_BYTES = 1 << 20
"""Of a log's end read for marks: what was kept longer ago than that of a quiet stream may be kept again."""
_COPY_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFolder:
    """One worker's log on disk.

    Args:
        number: Orders logs by when they began.
    """

    number: int
    endpoint: str
    worker_id: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFile:
    """One file of a log; its end is where the next one begins."""

    start: int
    path: Path
    compressed: bool


def folders(root: Path) -> list[LogFolder]:
    """Every log below a root, in order of their numbers."""
    found: list[LogFolder] = []
    for endpoint in _entries(root):
        if not ENDPOINT_NAME.match(endpoint.name):
            continue
        for folder in _entries(endpoint):
            match = _FOLDER.match(folder.name)
            if match:
                found.append(
                    LogFolder(number=int(match[1]), endpoint=endpoint.name, worker_id=match[2], path=folder)
                )
    return sorted(found, key=lambda one: one.number)


def segment_files(folder: Path) -> list[SegmentFile]:
    """The files of a log in order; while one is being compressed, its plain form counts."""
    found: dict[int, SegmentFile] = {}
    for entry in _entries(folder):
        match = _SEGMENT.match(entry.name)
        if match and not (match[2] and int(match[1]) in found):
            start = int(match[1])
            found[start] = SegmentFile(start=start, path=entry, compressed=bool(match[2]))
    return [found[start] for start in sorted(found)]


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, plain segments before their compressed forms; nothing when it is gone."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


class LogFile:
    """The log of one worker, to write to; one process has it open.

    Args:
        folder: Its place; made when missing.
        segment_bytes: At this size a new segment is begun.
        rotated: Told of each finished segment.
    """

    def __init__(self, folder: LogFolder, *, segment_bytes: int, rotated: Callable[[Path], None]) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._rotated = rotated
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = segment_files(folder.path)
        for one in files[:-1]:
            if not one.compressed:
                rotated(one.path)
        self._start = files[-1].start if files else 0
        if files and files[-1].compressed:
            self._start += _plain_bytes(files[-1].path)
        self._file: BinaryIO = self._open()

    def _open(self) -> BinaryIO:
        path = self.folder.path / f"{self._start:015d}.log"
        file = path.open("ab", buffering=0)
        path.chmod(0o600)
        self._cut_torn_line(path)
        self._size = file.seek(0, os.SEEK_END)
        return file

    @staticmethod
    def _cut_torn_line(path: Path) -> None:
        """A process that was killed while it wrote leaves half a record, which is asked for again."""
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            at, whole = end, end
            while at > 0:
                at = max(at - _COPY_BYTES, 0)
                file.seek(at)
                block = file.read(min(_COPY_BYTES, end - at))
                if (last := block.rfind(b"\n")) >= 0:
                    whole = at + last + 1
                    break
                whole = at
            if whole != end:
                file.truncate(whole)

    @property
    def path(self) -> Path:
        """Of the segment that is written to."""
        return self.folder.path / f"{self._start:015d}.log"

    def append(self, records: bytes) -> None:
        """Write whole records; begin a new segment when this one is full.

        Raises:
            OSError: The disk is full, or broken; whole records may be written.
        """
        while len(records) > (room := self._segment_bytes - self._size):
            cut = records.rfind(b"\n", 0, max(room, 1)) + 1 or records.find(b"\n") + 1
            self._append(records[:cut])
            records = records[cut:]
        if records:
            self._append(records)

    def _append(self, records: bytes) -> None:
        done = 0
        try:
            while done < len(records):
                done += self._file.write(records[done:]) or 0
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(records)
        if self._size >= self._segment_bytes:
            self._rotate()

    def _rotate(self) -> None:
        self._file.close()
        full = self.path
        self._start += self._size
        self._file = self._open()
        self._rotated(full)

    def marks(self) -> dict[bytes, StreamMark]:
        """How far each stream of the container was kept."""
        held = b""
        for one in reversed(segment_files(self.folder.path)):
            held = _tail_of(one, _MARK_BYTES - len(held)) + held
            if len(held) >= _MARK_BYTES:
                break
        return marks_of(held.splitlines())

    def close(self, *, over: bool) -> None:
        """Close the file; one that is over is compressed too."""
        self._file.close()
        if not self._size:
            self.path.unlink(missing_ok=True)
        elif over:
            self._rotated(self.path)


def _tail_of(one: SegmentFile, count: int) -> bytes:
    if one.compressed:
        whole = b"".join(_plain(one.path))
        return whole if len(whole) <= count else whole[-count:].partition(b"\n")[2]
    with one.path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - count, 0))
        tail = file.read(count)
    return tail if end <= count else tail.partition(b"\n")[2]


def _plain(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        while block := file.read(_COPY_BYTES):
            yield block


def _plain_bytes(path: Path) -> int:
    return sum(map(len, _plain(path)))


def compress(path: Path) -> None:
    """Replace a segment by its compressed form; one that is gone needs none."""
    part = path.with_name(path.name + ".part")
    try:
        with path.open("rb") as plain, gzip.open(part, "wb", compresslevel=1) as packed:
            shutil.copyfileobj(plain, packed, _COPY_BYTES)
        stat = path.stat()
        part.chmod(0o600)
        os.utime(part, (stat.st_atime, stat.st_mtime))
        part.replace(path.with_name(path.name + ".gz"))
        path.unlink()
    except FileNotFoundError:
        part.unlink(missing_ok=True)


def all_segments(root: Path, open_paths: frozenset[Path]) -> dict[Path, Segment]:
    """Every segment below a root with its size and age, for the caps."""
    found: dict[Path, Segment] = {}
    for folder in folders(root):
        for one in segment_files(folder.path):
            try:
                stat = one.path.stat()
            except FileNotFoundError:
                continue
            found[one.path] = Segment(
                log=folder.number,
                start=one.start,
                disk_bytes=stat.st_size,
                written_s=stat.st_mtime,
                open=one.path in open_paths,
            )
    return found


def folder_for(root: Path, endpoint: str, worker_id: str, number: int) -> LogFolder:
    """Where a worker's new log goes.

    Raises:
        ValueError: A name that could lead out of the root.
    """
    if not ENDPOINT_NAME.match(endpoint) or not WORKER_ID.match(worker_id):
        raise ValueError(f"no names of an endpoint and a worker: {endpoint!r}, {worker_id!r}")
    return LogFolder(
        number=number,
        endpoint=endpoint,
        worker_id=worker_id,
        path=root / endpoint / f"{number:08d}-{worker_id}",
    )


def remove_empty(root: Path) -> None:
    """Remove the folders of logs of which nothing is left."""
    for folder in folders(root):
        if not segment_files(folder.path):
            shutil.rmtree(folder.path, ignore_errors=True)

"""Asks the engine for containers' logs, on threads of its own: an engine that hangs delays no other log."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gpud.adapters.log_sources import ApiSource, EngineAway, EngineLogs, FileSource, NoContainer
from gpud.core.log_lines import StreamMark, ns_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_THREADS = 4
_OVERLAP_NS = 2_000_000_000
"""Lines of the two streams are dated before they are put in order, so some are asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What came of asking.

    Args:
        worker_id: For whom.
        source: None when there is none now.
        folder: Of a file source's files.
        absent: The engine says that there is no such container.
    """

    worker_id: str
    source: FileSource | ApiSource | None = None
    folder: Path = Path()
    absent: bool = False


class Openings:
    """Opens sources.

    Args:
        engine: To ask.
        files: Read the engine's files where that is allowed.
    """

    def __init__(self, engine: EngineLogs, *, files: bool) -> None:
        self._engine = engine
        self._files = files
        self._asked: SimpleQueue[tuple[str, str, Mapping[bytes, StreamMark]]] = SimpleQueue()
        self._opened: SimpleQueue[Opened] = SimpleQueue()
        self.done_fd, self._bell = os.pipe()
        os.set_blocking(self.done_fd, False)
        self._threads = 0

    def ask(self, worker_id: str, name: str, marks: Mapping[bytes, StreamMark]) -> None:
        """Open a container's log; the answer is for `take`."""
        if self._threads < _THREADS:
            self._threads += 1
            threading.Thread(target=self._work, name="gpud-log-open", daemon=True).start()
        self._asked.put((worker_id, name, marks))

    def take(self) -> list[Opened]:
        """What was opened since the last call."""
        try:
            os.read(self.done_fd, 4096)
        except BlockingIOError:
            return []
        found = []
        while not self._opened.empty():
            found.append(self._opened.get())
        return found

    def _work(self) -> None:
        while True:
            worker_id, name, marks = self._asked.get()
            self._opened.put(self._open(worker_id, name, marks))
            os.write(self._bell, b"!")

    def _open(self, worker_id: str, name: str, marks: Mapping[bytes, StreamMark]) -> Opened:
        try:
            seen = self._engine.look(name)
            if self._files and seen.path and os.access(seen.path, os.R_OK):
                path = Path(seen.path)
                return Opened(worker_id=worker_id, source=FileSource(path), folder=path.parent)
            if not seen.running and not seen.path:
                return Opened(worker_id=worker_id)
            return Opened(worker_id=worker_id, source=self._engine.follow(seen.id, _since(marks)))
        except NoContainer:
            return Opened(worker_id=worker_id, absent=True)
        except (EngineAway, OSError, ValueError):
            return Opened(worker_id=worker_id)


def _since(marks: Mapping[bytes, StreamMark]) -> str:
    """From where the engine is asked: a little before the stream that is furthest behind."""
    if len(marks) < 2:
        return ""  # a stream of which nothing is known is asked for from its beginning
    oldest_ns = min(ns_of(mark.stamp.decode()) for mark in marks.values()) - _OVERLAP_NS
    seconds, fraction = divmod(max(oldest_ns, 0), 1_000_000_000)
    return f"{seconds}.{fraction:09d}"

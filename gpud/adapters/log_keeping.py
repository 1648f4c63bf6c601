"""Compresses finished segments and deletes what is over the caps, beside the reading."""

from __future__ import annotations

import contextlib
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gpud.adapters.log_files import all_segments, compress, remove_empty
from gpud.core.log_caps import LogCaps, surplus

if TYPE_CHECKING:
    from pathlib import Path

_ENFORCE_EVERY_S = 2.0
_SELDOM_S = 60.0
_LEFTOVERS_AFTER_S = 60.0
"""By then every worker that goes on is followed again; what no worker writes to is compressed."""


class Keeping:
    """What happens to segments that are full.

    Args:
        root: Of the logs.
        caps: What is kept.
    """

    def __init__(self, root: Path, caps: LogCaps) -> None:
        self._root = root
        self._caps = caps
        self._full: SimpleQueue[Path | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._enforced_s = float("-inf")
        self._rotated = True
        self._queued: set[Path] = set()
        self._began_s = time.monotonic()
        self.failed_notes = 0

    def compress_later(self, path: Path) -> None:
        """Compress a segment on the thread for that; zlib lets the reading go on meanwhile."""
        self._rotated = True
        self._queued.add(path)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="gpud-log-gzip", daemon=True)
            self._thread.start()
        self._full.put(path)

    def enforce(self, open_paths: frozenset[Path]) -> None:
        """Delete what is over the caps; looks at the folders only now and then."""
        now_s = time.monotonic()
        if now_s - self._enforced_s < (_ENFORCE_EVERY_S if self._rotated else _SELDOM_S):
            return
        self._enforced_s, self._rotated = now_s, False
        segments = all_segments(self._root, open_paths)
        if now_s - self._began_s > _LEFTOVERS_AFTER_S:
            for path, segment in segments.items():
                if not segment.open and path.suffix == ".log" and path not in self._queued:
                    self.compress_later(path)
        doomed = surplus(segments.values(), self._caps, now_s=time.time())
        paths = {id(segment): path for path, segment in segments.items()}
        for segment in doomed:
            paths[id(segment)].unlink(missing_ok=True)
        if doomed:
            remove_empty(self._root)

    def close(self) -> None:
        """Let the thread end; what it had left is compressed at the next start."""
        self._full.put(None)

    def _work(self) -> None:
        while (path := self._full.get()) is not None:
            with contextlib.suppress(OSError):  # The disk is full: it stays as it is.
                compress(path)
            self._queued.discard(path)

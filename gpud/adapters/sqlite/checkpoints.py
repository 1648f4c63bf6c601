"""Keeps the write-ahead log short: when to copy it into the database, and whether that worked.

SQLite's own checkpoints tell nobody when an fsync fails, so gpud runs them itself, on the
writing connection, and looks at the result.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

PASSIVE_AT_BYTES = 4 << 20
TRUNCATE_AT_BYTES = 64 << 20
PERIOD_S = 60.0
RETRY_S = 1.0
"""Readers can hold a checkpoint up; then the next one waits this long."""

TRUNCATE_WAIT_MS = 500
BUSY_WAIT_MS = 5000

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24

_log = structlog.get_logger()


class WalFill:
    """How many bytes of a write-ahead log are in use.

    The file never shrinks on its own: after a checkpoint SQLite writes over it from its
    beginning, under a new salt. So the size says little, and the frames that carry the present
    salt say all.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.salt = b""
        self._frames = 0

    def bytes_used(self) -> int:
        """Count on from where the last call stopped."""
        header = os.pread(self._fd, _HEADER_BYTES, 0)
        if len(header) < _HEADER_BYTES:
            self.salt, self._frames = b"", 0
            return 0
        salt = header[16:24]
        if salt != self.salt:
            self.salt, self._frames = salt, 0
        frame_bytes = _FRAME_HEADER_BYTES + int.from_bytes(header[8:12], "big")
        while os.pread(self._fd, 8, _HEADER_BYTES + self._frames * frame_bytes + 8) == salt:
            self._frames += 1
        return self._frames * frame_bytes

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)


class Checkpointer:
    """Decides on and runs checkpoints; lives on the writing connection's thread.

    Args:
        wal_path: The write-ahead log; it must exist.
    """

    def __init__(self, wal_path: Path) -> None:
        self._fill = WalFill(wal_path)
        self._wal_path = wal_path
        self._last_s: float | None = None
        self._held_up = False
        self._copied_salt = b""
        self._copied_bytes = 0
        self.runs = 0

    def is_due(self, now_s: float) -> bool:
        """Whether the log is long enough, or the last checkpoint long enough ago.

        Args:
            now_s: Monotonic seconds.
        """
        if self._last_s is None:
            self._last_s = now_s
        since_s = now_s - self._last_s
        if since_s >= PERIOD_S:
            return True
        if (self._held_up and since_s < RETRY_S) or self._wal_path.stat().st_size < PASSIVE_AT_BYTES:
            return False
        return self._uncopied_bytes() >= PASSIVE_AT_BYTES

    def run(self, connection: sqlite3.Connection, now_s: float) -> None:
        """Copy the log into the database; cut it off when it has grown too long.

        Raises:
            sqlite3.Error: The database or the disk is in trouble.
        """
        self._last_s = now_s
        self._held_up = True
        self.runs += 1
        if self._wal_path.stat().st_size >= TRUNCATE_AT_BYTES:
            connection.execute(f"PRAGMA busy_timeout = {TRUNCATE_WAIT_MS}")
            try:
                row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_WAIT_MS}")
        else:
            row = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        busy, log_frames, copied_frames = row
        self._held_up = bool(busy) or copied_frames < log_frames
        if self._held_up:
            _log.info(
                "store.checkpoint_held_up",
                log_frames=log_frames,
                copied_frames=copied_frames,
                busy=bool(busy),
            )
            return
        self._copied_bytes = self._fill.bytes_used()
        self._copied_salt = self._fill.salt

    def _uncopied_bytes(self) -> int:
        used_bytes = self._fill.bytes_used()
        # What a checkpoint copied stays in use until the next write starts over it.
        return used_bytes - (self._copied_bytes if self._fill.salt == self._copied_salt else 0)

    def finish(self, connection: sqlite3.Connection) -> None:
        """Copy everything and empty the log, before the connection closes.

        Raises:
            sqlite3.Error: The database or the disk is in trouble.
        """
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """Give the log's file back."""
        self._fill.close()

"""Keeps large payloads as files named by their content; a file is on disk before any row names it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from gpud.adapters.sqlite.failures import translate_os
from gpud.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

INLINE_BYTES_MAX = 256 * 1024
"""A payload up to this is kept in its row."""
ORPHAN_AGE_S = 3600.0
"""A file no row names may belong to a row that is being written; older than this it does not."""


class Blobs(Protocol):
    """Where large payloads are."""

    async def put(self, content: bytes) -> str:
        """Keep bytes durably; returns the name to read them by."""
        ...

    async def get(self, ref: str) -> bytes:
        """Read bytes back."""
        ...

    async def sweep(self, is_used: Callable[[str], Awaitable[bool]]) -> int:
        """Remove old files that nothing names; returns how many."""
        ...


class MemoryBlobs:
    """Blobs in memory, for a database in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def put(self, content: bytes) -> str:
        """Keep bytes."""
        ref = hashlib.sha256(content).hexdigest()
        self.kept[ref] = content
        return ref

    async def get(self, ref: str) -> bytes:
        """Read bytes back."""
        return self.kept[ref]

    async def sweep(self, is_used: Callable[[str], Awaitable[bool]]) -> int:
        """Forget what nothing names."""
        orphans = [ref for ref in list(self.kept) if not await is_used(ref)]
        for ref in orphans:
            del self.kept[ref]
        return len(orphans)


class BlobFiles:
    """Blobs as files below the data directory.

    Args:
        folder: Made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, content: bytes) -> str:
        """Write and sync a file, and the directory that names it.

        Raises:
            StorageFull: There is no room.
            StoreUnusable: The file system refuses it.
        """
        return await asyncio.to_thread(self._put, content)

    async def get(self, ref: str) -> bytes:
        """Read a file.

        Raises:
            StoreUnusable: It is missing or cannot be read.
        """
        try:
            return await asyncio.to_thread(self._path(ref).read_bytes)
        except OSError as error:
            raise StoreUnusable(
                f"The payload {self._path(ref)} cannot be read: {error.strerror}. "
                "It was removed by something else, or the disk fails; restore it from a backup."
            ) from error

    async def sweep(self, is_used: Callable[[str], Awaitable[bool]]) -> int:
        """Remove files older than an hour that nothing names."""
        removed = 0
        for path in await asyncio.to_thread(self._old):
            if not await is_used(path.name):
                with suppress(OSError):
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, ref: str) -> Path:
        return self._folder / ref[:2] / ref

    def _put(self, content: bytes) -> str:
        ref = hashlib.sha256(content).hexdigest()
        path = self._path(ref)
        try:
            if path.exists():
                os.utime(path)  # young again: the sweep must not take it from the row to come
                return ref
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = path.with_name(f"{ref}.{os.getpid()}.{time.monotonic_ns()}.part")
            try:
                _write_synced(partial, content)
                partial.rename(path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise
            for folder in (path.parent, self._folder, self._folder.parent):
                _sync_folder(folder)
        except OSError as error:
            raise translate_os(error, f"The payload {path} cannot be written") from error
        return ref

    def _old(self) -> list[Path]:
        before_s = time.time() - ORPHAN_AGE_S
        found = []
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                if path.stat().st_mtime < before_s:
                    found.append(path)
        return found


def _write_synced(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Says which folders had a file written, made or renamed, through the kernel's inotify."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MODIFY, _MOVED_TO, _CREATE, _OVERFLOW = 0x2, 0x80, 0x100, 0x4000
_EVENT = struct.Struct("iIII")
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class FolderWatch:
    """Watches folders; to be read when its descriptor is readable.

    Raises:
        OSError: The kernel gives out no more of these.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(_NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def fileno(self) -> int:
        """For a selector."""
        return int(self._fd)

    def add(self, folder: Path) -> int:
        """Watch a folder; returns its number.

        Raises:
            OSError: There is none, or no watch is left.
        """
        mask = _MODIFY | _MOVED_TO | _CREATE
        number = int(self._libc.inotify_add_watch(self._fd, os.fsencode(folder), mask))
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
        return number

    def remove(self, number: int) -> None:
        """Watch a folder no more; one that is gone is watched by nobody anyway."""
        self._libc.inotify_rm_watch(self._fd, number)

    def changed(self) -> frozenset[int] | None:
        """Which folders changed since the last call; None when the kernel lost count."""
        found: set[int] = set()
        while True:
            try:
                events = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return frozenset(found)
            at = 0
            while at < len(events):
                number, mask, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                if mask & _OVERFLOW:
                    return None
                found.add(number)

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._fd)

"""Tells which files are opened through a mount, as the kernel reports it: fanotify, for CAP_SYS_ADMIN."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_CLASS_NOTIF, _CLOEXEC, _NONBLOCK, _UNLIMITED_QUEUE = 0x0, 0x1, 0x2, 0x10
_MARK_ADD, _MARK_MOUNT = 0x1, 0x10
_OPEN, _OVERFLOW = 0x20, 0x4000
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")
_READ_BYTES = 64 * 1024


class OpenWatch:
    """Every opening of a file through one mount, from its making until it is closed.

    What a container opens goes through its own root mount, so a mark there hears of nobody else. The files
    below an overlay are not reported to marks on the disk that they lie on.

    Args:
        root: A directory in the mount.

    Raises:
        OSError: The kernel does not allow it, or cannot.
    """

    def __init__(self, root: str) -> None:
        self.overflowed = False
        self._fd = _group()
        libc = _libc()
        if libc.fanotify_mark(self._fd, _MARK_ADD | _MARK_MOUNT, _OPEN, _AT_FDCWD, os.fsencode(root)):
            number = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(number, os.strerror(number), root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """For `select`."""
        return self._fd

    def opened(self) -> list[str]:
        """Paths of what was opened since the last call, as from the mount's root, in order."""
        paths: list[str] = []
        while True:
            try:
                events = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return paths
            for place in _places(events):
                _length, _version, _, _, mask, fd, _pid = _EVENT.unpack_from(events, place)
                self.overflowed = self.overflowed or bool(mask & _OVERFLOW)
                if fd >= 0:
                    with suppress(OSError):
                        paths.append(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115 - thousands of them
                    os.close(fd)


def _places(events: bytes) -> list[int]:
    """Where each event begins."""
    places, place = [], 0
    while place + _EVENT.size <= len(events):
        places.append(place)
        place += _EVENT.unpack_from(events, place)[0]
    return places


def obstacle() -> str:
    """Say why this process cannot watch openings; empty when it can."""
    try:
        os.close(_group())
    except (OSError, AttributeError) as error:
        return f"fanotify: {error}"
    return ""


def _group() -> int:
    made: int = _libc().fanotify_init(
        _CLASS_NOTIF | _CLOEXEC | _NONBLOCK | _UNLIMITED_QUEUE,
        os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME | os.O_LARGEFILE,
    )
    if made < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return made


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fanotify_mark.argtypes = (
        *(ctypes.c_int, ctypes.c_uint, ctypes.c_uint64),
        *(ctypes.c_int, ctypes.c_char_p),
    )
    return libc

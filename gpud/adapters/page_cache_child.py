"""Looks at files in the page cache, or asks the disk for them: in a process of its own, for it takes seconds.

Reads one question as JSON from its input: `{"roots": [...]}` lists the ranges that are resident below these
folders, `{"ranges": [[path, offset, length], ...]}` asks the kernel to read these. Answers with JSON.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import stat
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from gpud.core.page_cache import ranges_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_PAGE = mmap.PAGESIZE
_NICE = 5
_GAP_PAGES = 32
"""Pages between two ranges that are read along: 128 KiB, what the kernel would read ahead by itself."""
_FILES_MAX = 200_000
_MAP_FAILED = ctypes.c_void_p(-1).value
_PROT_NONE, _MAP_SHARED = 0, 1


def main() -> None:
    """Answer one question."""
    os.nice(_NICE)
    question = json.load(sys.stdin)
    if "roots" in question:
        answer: object = _resident_below(question["roots"])
    else:
        answer = _read_ahead(question["ranges"])
    json.dump(answer, sys.stdout)


def _resident_below(roots: list[str]) -> list[tuple[str, int, int]]:
    """Path, offset and length of what is in memory."""
    below = (f"{folder}/{name}" for root in roots for folder, _, names in os.walk(root) for name in names)
    return resident_ranges(islice(below, _FILES_MAX))


def resident_ranges(paths: Iterable[str]) -> list[tuple[str, int, int]]:
    """Path, offset and length of what is in memory of these files, in their order."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    found: list[tuple[str, int, int]] = []
    for path in paths:
        pages = _resident(libc, path)
        if b"\x01" in pages:
            ranges = ranges_of(pages, page_bytes=_PAGE, gap_pages=_GAP_PAGES)
            found.extend((path, offset, length) for offset, length in ranges)
    return found


def _resident(libc: Any, path: str) -> bytes:  # noqa: ANN401 - ctypes has no types
    """One byte a page, 1 for those in memory; empty for what is no file, or cannot be looked at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return b""
        length = found.st_size
        address = libc.mmap(None, length, _PROT_NONE, _MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            return b""
        vector = ctypes.create_string_buffer(-(-length // _PAGE))
        failed = libc.mincore(address, length, vector)
        libc.munmap(address, length)
        return b"" if failed else bytes(page & 1 for page in vector.raw)
    finally:
        os.close(fd)


def _read_ahead(ranges: list[tuple[str, int, int]]) -> dict[str, int]:
    files: set[str] = set()
    asked = 0
    for path, offset, length in ranges:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # Gone, or another volume by now: the start reads it itself.
        try:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
        except OSError:
            continue
        finally:
            os.close(fd)
        files.add(path)
        asked += length
    return {"files": len(files), "bytes": asked}


if __name__ == "__main__":
    main()

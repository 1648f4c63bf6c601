"""Sees which files of its image a container opens, in a process of its own: the kernel hands it each opening.

Lines of JSON, both ways. In: the pid of the container's first process; later its image's layers, the upper
ones first, upon which it answers and ends. Out: why it cannot watch, or an empty text; at last the ranges
of these files that are in memory, in the order in which they were opened.
"""

from __future__ import annotations

import json
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from gpud.adapters.fanotify import OpenWatch
from gpud.adapters.page_cache_child import resident_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable

_NICE = 5
_FILES_MAX = 100_000


def main() -> None:
    """Watch one start."""
    asked = sys.stdin.buffer.readline()
    if not asked:
        return
    pid = int(json.loads(asked))
    try:
        watch = OpenWatch(_root_of(pid))
    except OSError as error:
        _say(f"fanotify: {error}")
        return
    _say("")
    with watch:
        opened = dict.fromkeys(_open_now(pid))
        os.nice(_NICE)
        layers = _collect(watch, opened)
    if layers is None:
        return
    if watch.overflowed or len(opened) >= _FILES_MAX:
        _say("it opened more files than can be told apart")
        return
    _say(resident_ranges(_in_layers(opened, layers)))


def _root_of(pid: int) -> str:
    """The container's root, through its own mount."""
    root = f"/proc/{pid}/root"
    if os.stat(root).st_dev == os.stat("/").st_dev:  # noqa: PTH116 - one call each
        raise OSError(f"process {pid} has the root of this machine")
    return root


def _open_now(pid: int) -> Iterable[str]:
    """What it had opened before anybody watched, and still has."""
    with suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:  # noqa: PTH123 - as above
        for line in maps:
            parts = line.rstrip("\n").split(maxsplit=5)
            if len(parts) == 6 and parts[5].startswith("/"):
                yield parts[5]


def _collect(watch: OpenWatch, opened: dict[str, None]) -> list[str] | None:
    """Note what is opened until layers are named; None when nobody asks any more."""
    while True:
        ready, _, _ = select.select([watch, sys.stdin], [], [])
        if len(opened) < _FILES_MAX:
            opened.update(dict.fromkeys(watch.opened()))
        else:
            watch.opened()
        if sys.stdin in ready:
            asked = sys.stdin.buffer.readline()
            layers: list[str] | None = json.loads(asked) if asked else None
            return layers


def _in_layers(opened: Iterable[str], layers: list[str]) -> Iterable[str]:
    """Where these files of an overlay lie; what the container wrote itself is in no layer."""
    for path in opened:
        for layer in layers:
            if os.path.lexists(layer + path):
                yield layer + path
                break


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

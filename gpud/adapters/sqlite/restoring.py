"""Exchanges what is in a data directory for a restored copy: decided in one rename, and then finished.

A copy is unpacked and checked in a folder of its own. Then `DECISION_NAME` is written, and from that moment
the directory is the new one: whoever takes its lock next, the daemon too, finishes what is left before it
looks at anything else. Before that moment it is the old one.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from gpud.adapters.sqlite.failures import translate_os
from gpud.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STAGED_NAME = "restore-new"
DECISION_NAME = "restore-decided.json"
ASIDE_PREFIX = "before-restore-"


def stage(data_dir: Path) -> Path:
    """Make the empty folder for the copy, removing what an earlier attempt left."""
    folder = data_dir / STAGED_NAME
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    return folder


def decide(data_dir: Path, *, replaced: Iterable[str], aside: str) -> None:
    """Write down that the staged copy is the data from now on.

    Args:
        data_dir: Whose lock is held.
        replaced: Names of what is in it now and goes aside.
        aside: Name of the folder for that, in the same directory.
    """
    new = sorted(path.name for path in (data_dir / STAGED_NAME).iterdir())
    decision = {"new": new, "old": sorted(set(replaced)), "aside": aside}
    (data_dir / aside).mkdir(mode=0o700)
    partial = data_dir / f"{DECISION_NAME}.partial"
    with suppress(FileNotFoundError):
        partial.unlink()
    fd = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(decision).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    _sync(data_dir)
    partial.rename(data_dir / DECISION_NAME)


def unstage(data_dir: Path) -> None:
    """Remove the copy of a restore that ends early; once it was decided, the copy is the data itself."""
    if not (data_dir / DECISION_NAME).exists():
        shutil.rmtree(data_dir / STAGED_NAME, ignore_errors=True)


def finish(data_dir: Path) -> str:
    """Carry out a restore that was decided; returns the folder of what was before, empty when none was.

    Every step can be repeated: what is aside already stays there, and what is staged no more is in place.

    Args:
        data_dir: Whose lock is held; nothing in it is open.

    Raises:
        StoreUnusable: The decision cannot be read or carried out.
    """
    path = data_dir / DECISION_NAME
    try:
        if not path.exists():
            return ""
        decision = json.loads(path.read_bytes())
        _sync(data_dir)  # The decision lasts before anything is moved.
        aside, staged = data_dir / decision["aside"], data_dir / STAGED_NAME
        for name in decision["old"]:
            if (data_dir / name).exists() and not (aside / name).exists():
                _move(data_dir / name, aside / name)
        _sync(aside)
        _sync(data_dir)
        for name in decision["new"]:
            if (staged / name).exists():
                _move(staged / name, data_dir / name)
        _sync(data_dir)
        path.unlink()
        _sync(data_dir)
        with suppress(OSError):
            staged.rmdir()
    except OSError as error:
        raise translate_os(error, f"The restore into {data_dir} cannot be finished") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnusable(
            f"{path} says that a restore was decided, but cannot be read: {error}. Restore again, or "
            f"remove it and bring back what is in {ASIDE_PREFIX}*."
        ) from error
    return str(aside)


def _move(path: Path, to: Path) -> None:
    path.rename(to)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Writes the tar of a support bundle: every text in it scrubbed, closed to others until it is sent."""

from __future__ import annotations

import io
import os
import tarfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from gpud.core.support import Scrubber

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def sizes_in(folder: Path) -> dict[str, int]:
    """Bytes below each name in a folder."""
    found: dict[str, int] = {}
    for path, _folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size = os.lstat(f"{path}/{name}").st_size
                top = os.path.relpath(f"{path}/{name}", folder).split("/")[0]
                found[top] = found.get(top, 0) + size
    return found


def write_bundle(to: Path, folder: str, files: Mapping[str, bytes], secrets: Iterable[str]) -> int:
    """Write texts into a gzipped tar; returns its size.

    Args:
        to: The tar; must not exist.
        folder: That its files are in.
        files: By name.
        secrets: Values that are known to be secret.

    Raises:
        OSError: It cannot be written.
    """
    scrubber = Scrubber(secrets)
    partial = to.with_name(f"{to.name}.partial")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, content in files.items():
                clean = scrubber.clean(content)
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mode, entry.mtime = len(clean), 0o600, int(time.time())
                tar.addfile(entry, io.BytesIO(clean))
        partial.rename(to)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return to.stat().st_size

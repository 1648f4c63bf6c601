"""Writes and reads the tar of a backup: every file with its hash, nothing outside its place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gpud.core.backup import (
    MANIFEST_BYTES_MAX,
    MANIFEST_NAME,
    SUMS_NAME,
    Manifest,
    NoBackup,
    is_member,
    read_manifest,
    read_sums,
    sums_text,
    unlike,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE_BYTES = 1 << 20


class ArchiveWriter:
    """A tar that appears under its name only when it is whole; its mode is 0600, for it holds secrets.

    Args:
        path: Of the tar.
        made_s: Unix time, as the time of every file in it.
    """

    def __init__(self, path: Path, *, made_s: float) -> None:
        self._path = path
        self._made_s = made_s
        self.partial = path.with_name(f"{path.name}.partial")
        self.partial.unlink(missing_ok=True)
        fd = os.open(self.partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._sums: dict[str, str] = {}

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a file by its content."""
        self._add(name, io.BytesIO(content), len(content))

    def add_file(self, name: str, path: Path) -> str:
        """Add a file as long as it is now; returns the SHA-256 of what was added.

        Raises:
            OSError: It cannot be read.
        """
        with path.open("rb") as file:
            return self._add(name, file, os.fstat(file.fileno()).st_size)

    def finish(self) -> int:
        """Write the hashes, sync, and give the tar its name; returns its size."""
        self.add_bytes(SUMS_NAME, sums_text(self._sums).encode())
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        count_bytes = self._file.tell()
        self._file.close()
        self.partial.rename(self._path)
        sync_folder(self._path.parent)
        return count_bytes

    def abandon(self) -> None:
        """Remove what was written; nothing after `finish`."""
        with suppress(OSError):
            self._file.close()
            self.partial.unlink(missing_ok=True)

    def _add(self, name: str, content: IO[bytes], count_bytes: int) -> str:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = count_bytes, 0o600, int(self._made_s)
        hashed = _Hashed(content)
        self._tar.addfile(entry, hashed)
        self._sums[name] = hashed.digest
        return hashed.digest


class _Hashed(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, content: IO[bytes]) -> None:
        super().__init__()
        self._content = content
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def read(self, size: int = -1) -> bytes:
        piece = self._content.read(size)
        self._hash.update(piece)
        return piece


def unpack(path: Path, folder: Path, may_go_on: Callable[[Manifest], None]) -> Manifest:
    """Unpack a backup into an empty folder, and compare every file with its hash.

    Args:
        path: Of the tar.
        folder: For its files, which are synced one by one.
        may_go_on: Is shown the manifest first, and raises when there is no use in going on.

    Raises:
        NoBackup: It is something else, or not as it was written.
        OSError: It cannot be read, or the files cannot be written.
    """
    unpacking = _Unpacking(folder, may_go_on)
    try:
        with tarfile.open(path, mode="r:") as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is None:
                    raise NoBackup(f"{entry.name} does not belong into a backup")
                unpacking.take(entry, content)
    except (tarfile.TarError, EOFError) as error:
        raise NoBackup(f"it is no whole tar ({error})") from error
    manifest = unpacking.checked()
    sync_tree(folder)
    return manifest


class _Unpacking:
    """Takes the files of a backup in their order: the manifest, the rest, the list of hashes."""

    def __init__(self, folder: Path, may_go_on: Callable[[Manifest], None]) -> None:
        self._folder = folder
        self._may_go_on = may_go_on
        self._manifest: Manifest | None = None
        self._seen: dict[str, str] = {}
        self._expected: dict[str, str] | None = None

    def take(self, entry: tarfile.TarInfo, content: IO[bytes]) -> None:
        if entry.name in self._seen or self._expected is not None:
            raise NoBackup(f"{entry.name} does not belong into a backup")
        if self._manifest is None:
            text = _short(entry, content)
            self._manifest = _manifest(entry.name, text)
            self._may_go_on(self._manifest)
            self._seen[entry.name] = hashlib.sha256(text).hexdigest()
        elif entry.name == SUMS_NAME:
            self._expected = read_sums(_short(entry, content).decode("utf-8", "replace"))
        elif is_member(entry.name):
            self._seen[entry.name] = _unpack_one(content, self._folder / entry.name)
        else:
            raise NoBackup(f"{entry.name} does not belong into a backup")

    def checked(self) -> Manifest:
        if self._manifest is None or self._expected is None:
            raise NoBackup("it ends before its list of hashes")
        if difference := unlike(self._expected, self._seen):
            raise NoBackup(difference)
        return self._manifest


def _short(entry: tarfile.TarInfo, content: IO[bytes]) -> bytes:
    if entry.size > MANIFEST_BYTES_MAX:
        raise NoBackup(f"{entry.name} is too long")
    return content.read()


def _manifest(name: str, text: bytes) -> Manifest:
    if name != MANIFEST_NAME:
        raise NoBackup(f"it begins with {name}, not with a manifest of gpud's")
    try:
        return read_manifest(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, NoBackup):
            raise
        raise NoBackup("its manifest is damaged") from error


def _unpack_one(content: IO[bytes], path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hashed = hashlib.sha256()
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        while piece := content.read(_PIECE_BYTES):
            hashed.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return hashed.hexdigest()


def sync_tree(folder: Path) -> None:
    """Sync a folder and every folder in it, so that the names in them last."""
    for path, _folders, _files in os.walk(folder):
        sync_folder(Path(path))


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

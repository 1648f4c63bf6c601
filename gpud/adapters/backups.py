"""Makes a backup of a data directory, also under a running daemon, and puts one back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING

from gpud import __version__
from gpud.adapters.backup_archive import ArchiveWriter, unpack
from gpud.adapters.sqlite import restoring
from gpud.adapters.sqlite.datadir import DATABASE_NAME, claim
from gpud.adapters.sqlite.failures import translate_os
from gpud.adapters.sqlite.migrate import migrations
from gpud.adapters.sqlite.sealing import load_master_key
from gpud.adapters.sqlite.snapshot import copy_database, inspect
from gpud.adapters.sqlite.store import BLOBS_NAME, MASTER_KEY_NAME
from gpud.adapters.worker_door import ADDRESS_FILE
from gpud.core.backup import FILES, LOGS, MANIFEST_NAME, PARTS, Manifest, NoBackup, is_member, refusal
from gpud.errors import BadSettings, StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpud.adapters.sqlite.snapshot import Copied

_PINNED = ".backup-"
_LEFTOVER_AGE_S = 86_400.0
_LIVE_FILES = (f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", f"{DATABASE_NAME}-journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """What a backup holds.

    Args:
        manifest: As written into it.
        size_bytes: Of the tar.
        payloads: Files of jobs in it.
        live: It was made under a running daemon.
    """

    manifest: Manifest
    size_bytes: int
    payloads: int
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did.

    Args:
        manifest: Of the backup.
        data_dir: That is the backup's now.
        aside: Where what was there before is; empty when there was nothing.
        files: Folder of files that belong elsewhere; empty when there are none.
    """

    manifest: Manifest
    data_dir: Path
    aside: str
    files: str


def back_up(
    data_dir: Path, to: Path, *, files: Mapping[str, Path], with_logs: bool, replace_it: bool
) -> BackedUp:
    """Write a backup of a data directory.

    Args:
        data_dir: Of a daemon that runs, or of none.
        to: The tar.
        files: Files from elsewhere, by their name in the backup.
        with_logs: Also what the workers wrote.
        replace_it: A file of that name may be there.

    Raises:
        BadSettings: There is nothing to back up, or the tar is there.
        StoreUnusable: Something cannot be read or written.
        StorageFull: There is no room.
    """
    if not (data_dir / DATABASE_NAME).exists():
        raise BadSettings(
            f"{data_dir} holds no database of gpud's. Name the daemon's settings with --config."
        )
    if to.exists() and not replace_it:
        raise BadSettings(f"{to} exists. Choose another name, or say --force to replace it.")
    made_s = datetime.now(UTC).timestamp()
    try:
        with ExitStack() as undo:
            live = not _claimed(data_dir, undo)
            archive = ArchiveWriter(to, made_s=made_s)
            undo.callback(archive.abandon)
            # Files of jobs that end meanwhile are removed: a second name keeps those the copy refers to.
            _remove_leftovers(data_dir)
            pins = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix=_PINNED, dir=data_dir)))
            _pin(data_dir / BLOBS_NAME, pins)
            scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix=_PINNED, dir=to.parent)))
            copied = copy_database(data_dir / DATABASE_NAME, scratch / DATABASE_NAME)
            _pin(data_dir / BLOBS_NAME, pins)
            manifest = _manifest(data_dir, copied, pins, files, made_s)
            archive.add_bytes(MANIFEST_NAME, json.dumps(manifest.document(), indent=1).encode())
            archive.add_file(DATABASE_NAME, scratch / DATABASE_NAME)
            flawed = _add_payloads(archive, pins, copied.payloads)
            _add_others(archive, data_dir, files)
            if with_logs:
                _add_logs(archive, data_dir / LOGS)
            size_bytes = archive.finish()
    except OSError as error:
        raise translate_os(error, f"The backup {to} cannot be made") from error
    return BackedUp(
        manifest=replace(manifest, flawed_payloads=flawed),
        size_bytes=size_bytes,
        payloads=len(copied.payloads) - len(flawed),
        live=live,
    )


def _claimed(data_dir: Path, undo: ExitStack) -> bool:
    """Hold the lock for the time of the backup, unless a daemon does."""
    try:
        _hold(data_dir, undo)
    except StoreUnusable:
        return False
    return True


def _hold(data_dir: Path, held: ExitStack) -> None:
    """Take the lock of a data directory; what root makes there belongs to the directory's owner."""
    lock = claim(data_dir)
    held.callback(lock.release)
    owner = data_dir.stat()
    if os.geteuid() == 0:
        os.fchown(lock.fd, owner.st_uid, owner.st_gid)
    restoring.finish(data_dir)


def _remove_leftovers(data_dir: Path) -> None:
    """Remove the second names that a backup left behind which was killed."""
    before_s = datetime.now(UTC).timestamp() - _LEFTOVER_AGE_S
    for folder in data_dir.glob(f"{_PINNED}*"):
        if folder.stat().st_mtime < before_s:
            shutil.rmtree(folder, ignore_errors=True)


def _pin(blobs: Path, pins: Path) -> None:
    """Give every file of a job that has none yet a second name."""
    for path in blobs.glob("??/*"):
        if "." not in path.name and not (pins / path.name).exists():
            with suppress(FileNotFoundError):
                os.link(path, pins / path.name)


def _manifest(
    data_dir: Path, copied: Copied, pins: Path, files: Mapping[str, Path], made_s: float
) -> Manifest:
    missing = tuple(ref for ref in copied.payloads if not (pins / ref).exists())
    return Manifest(
        gpud=__version__,
        schema=copied.schema,
        install_id=copied.install_id,
        made_at=datetime.fromtimestamp(made_s, UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        data_dir=str(data_dir),
        has_master_key=(data_dir / MASTER_KEY_NAME).exists() or MASTER_KEY_NAME in files,
        files={name: str(path) for name, path in files.items()},
        flawed_payloads=missing,
    )


def _add_payloads(archive: ArchiveWriter, pins: Path, refs: tuple[str, ...]) -> tuple[str, ...]:
    """Add the files of jobs; returns those that are missing or not what their name says."""
    flawed = []
    for ref in refs:
        try:
            digest = archive.add_file(f"{BLOBS_NAME}/{ref[:2]}/{ref}", pins / ref)
        except FileNotFoundError:
            flawed.append(ref)
            continue
        if digest != ref:
            flawed.append(ref)
    return tuple(flawed)


def _add_others(archive: ArchiveWriter, data_dir: Path, files: Mapping[str, Path]) -> None:
    for name in (MASTER_KEY_NAME, ADDRESS_FILE):
        with suppress(FileNotFoundError):
            archive.add_file(name, data_dir / name)
    for name, path in files.items():
        archive.add_file(f"{FILES}/{name}", path)


def _add_logs(archive: ArchiveWriter, logs: Path) -> None:
    for path in _files_in(logs):
        name = f"{LOGS}/{path.relative_to(logs)}"
        if path.name != "lock" and is_member(name):  # What else a person put there could not be restored.
            with suppress(FileNotFoundError):  # full files are compressed meanwhile, old ones removed
                archive.add_file(name, path)


def _files_in(folder: Path) -> Iterator[Path]:
    for path, _folders, names in os.walk(folder):
        for name in sorted(names):
            if (Path(path) / name).is_file():
                yield Path(path) / name


def restore(path: Path, data_dir: Path) -> Restored:
    """Put a backup in the place of what a data directory holds.

    Args:
        path: Of the tar.
        data_dir: Of no running daemon; made if missing.

    Raises:
        BadSettings: The file is no backup, or not as it was written. Nothing was changed.
        StoreUnusable: A daemon runs, or something cannot be read or written.
        StorageFull: There is no room for both the old and the new.
    """
    with ExitStack() as held:
        _hold(data_dir, held)
        with ExitStack() as undo:
            try:
                manifest = _staged(path, data_dir, undo)
                old = _replaced(data_dir)
                aside = _aside_name(data_dir)
                restoring.decide(data_dir, replaced=old, aside=aside)
            except NoBackup as error:
                raise BadSettings(f"{path} cannot be restored: {error}. Nothing was changed.") from error
            except OSError as error:
                raise translate_os(error, f"{path} cannot be restored, and nothing was changed") from error
            undo.pop_all()  # from here on it is the data directory's own
        restoring.finish(data_dir)
        if not old:
            (data_dir / aside).rmdir()
    has_files = (data_dir / FILES).exists() and bool(manifest.files)
    return Restored(
        manifest=manifest,
        data_dir=data_dir,
        aside=str(data_dir / aside) if old else "",
        files=str(data_dir / FILES) if has_files else "",
    )


def _staged(path: Path, data_dir: Path, undo: ExitStack) -> Manifest:
    """Unpack and check a backup beside what is there."""
    if path.stat().st_size > shutil.disk_usage(data_dir).free:
        raise OSError(ENOSPC, "no space left for it beside what is there")
    staged = restoring.stage(data_dir)
    undo.callback(restoring.unstage, data_dir)
    manifest = unpack(path, staged, _refuse_newer)
    _check(manifest, staged)
    _give_to_owner(data_dir, staged)
    return manifest


def _refuse_newer(manifest: Manifest) -> None:
    if why := refusal(manifest, schema_known=len(migrations())):
        raise NoBackup(why)


def _check(manifest: Manifest, staged: Path) -> None:
    """Look whether what was unpacked fits together."""
    keys = [path for path in (staged / MASTER_KEY_NAME, staged / FILES / MASTER_KEY_NAME) if path.exists()]
    try:
        key = load_master_key(keys[0], may_create=False) if keys else None
        seen = inspect(staged / DATABASE_NAME, master_key=key)
    except StoreUnusable as error:
        raise NoBackup(error.detail.rstrip(".")) from error
    if (seen.schema, seen.install_id) != (manifest.schema, manifest.install_id):
        raise NoBackup("its database is not the one that its manifest tells of")


def _give_to_owner(data_dir: Path, staged: Path) -> None:
    """What root unpacks belongs to the daemon's user, as the directory does."""
    owner = data_dir.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for folder, _folders, names in os.walk(staged):
        os.chown(folder, owner.st_uid, owner.st_gid)
        for name in names:
            os.chown(Path(folder) / name, owner.st_uid, owner.st_gid)


def _replaced(data_dir: Path) -> list[str]:
    """What goes aside: database and payloads, and of the rest what the backup brings another one of."""
    staged = data_dir / restoring.STAGED_NAME
    names = [DATABASE_NAME, *_LIVE_FILES, BLOBS_NAME, *(name for name in PARTS if (staged / name).exists())]
    return [name for name in names if (data_dir / name).exists()]


def _aside_name(data_dir: Path) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = f"{restoring.ASIDE_PREFIX}{stamp}", 1
    while (data_dir / name).exists():
        number += 1
        name = f"{restoring.ASIDE_PREFIX}{stamp}-{number}"
    return name

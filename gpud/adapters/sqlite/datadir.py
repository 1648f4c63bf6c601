"""Makes the data directory gpud's alone: one daemon, one owner, a local disk."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpud.adapters.sqlite.failures import translate_os
from gpud.errors import StoreUnusable

LOCK_NAME = "lock"
DATABASE_NAME = "gpud.db"

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "acfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb3",
        "smbfs",
        "fuse.ceph-fuse",
        "fuse.glusterfs",
        "fuse.goofys",
        "fuse.juicefs",
        "fuse.moosefs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirLock:
    """The hold on a data directory; the kernel ends it with the process."""

    fd: int

    def release(self) -> None:
        """Let the next daemon in."""
        with suppress(OSError):
            os.close(self.fd)


def claim(data_dir: Path) -> DataDirLock:
    """Make the directory if needed and take it, or say who has it.

    Raises:
        StoreUnusable: Another daemon holds it, it cannot be made, or it is on a network file
            system.
        StorageFull: There is no room for even an empty directory.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
    except OSError as error:
        raise translate_os(error, f"The data directory {data_dir} cannot be made ready") from error
    refuse_network_file_system(data_dir)
    return _lock(data_dir)


def _lock(data_dir: Path) -> DataDirLock:
    path = data_dir / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise translate_os(error, f"{path} cannot be opened") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise StoreUnusable(
            f"Another gpud ({f'process {holder}' if holder else 'just starting'}) uses {data_dir}. "
            "Stop it first, or give this one a data directory of its own with paths.data_dir."
        ) from error
    except OSError as error:
        os.close(fd)
        raise translate_os(error, f"{path} cannot be locked") from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(fd)
        raise translate_os(error, f"{path} cannot be written") from error
    return DataDirLock(fd=fd)


def refuse_network_file_system(data_dir: Path) -> None:
    """Refuse a place where the write-ahead log's shared memory does not work.

    Raises:
        StoreUnusable: The directory is on a network file system.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # no such table here: not Linux, or a bare chroot
    kind = file_system_of(data_dir.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreUnusable(
            f"{data_dir} is on a network file system ({kind}), where SQLite can lose writes. "
            "Set paths.data_dir to a directory on a local disk."
        )


def file_system_of(path: Path, mountinfo: str) -> str:
    """Tell the type of the file system that holds `path`.

    Args:
        path: Absolute, without symlinks.
        mountinfo: Text of `/proc/self/mountinfo`.

    Returns:
        The kernel's name of it; empty when the table does not say.
    """
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        mount_point = Path(_unescaped(fields[4]))
        # The last of several mounts on one point is the one seen.
        if (path == mount_point or mount_point in path.parents) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), right.split(" ")[0]
    return kind


def _unescaped(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field

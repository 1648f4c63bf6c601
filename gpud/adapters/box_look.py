"""Looks at disk, clock, limits, kernel and port of this box, for the doctor."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from gpud.adapters.checkpoint_tools import criu_obstacle, cuda_checkpoint_obstacle
from gpud.adapters.fanotify import obstacle as fanotify_obstacle
from gpud.adapters.sqlite.datadir import NETWORK_FILE_SYSTEMS, file_system_of
from gpud.adapters.sqlite.probing import write_ahead_log_fault
from gpud.core.doctor.box import ClockLook, DiskLook, KernelLook, LimitsLook
from gpud.core.doctor.install import PortLook

_PROC = Path("/proc")
_CAP_SYS_ADMIN = 1 << 21
_SYNCS = 5
_TIME_ERROR = 5
_LISTENING = "0A"


def look_at_disk(path: Path, *, try_writing: bool) -> DiskLook:
    """Look at the file system under a path.

    Args:
        path: A directory, which may be missing.
        try_writing: Also write there, when it exists and this user may.
    """
    there = path
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        seen, space = os.statvfs(there), shutil.disk_usage(there)
        mounts = (_PROC / "self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        return DiskLook(path=str(path), error=f"{path} cannot be looked at: {error.strerror}")
    kind = file_system_of(there.resolve(), mounts)
    writes = try_writing and there == path and os.access(path, os.W_OK | os.X_OK)
    fault, sync_s = _tried(path) if writes else (None, None)
    return DiskLook(
        path=str(there),
        missing=there != path,
        file_system=kind,
        is_network=kind in NETWORK_FILE_SYSTEMS,
        free_bytes=seen.f_bavail * seen.f_frsize,
        total_bytes=space.total,
        inodes_free_share=seen.f_favail / seen.f_files if seen.f_files else None,
        writable_error=fault,
        sync_s=sync_s,
    )


def _tried(path: Path) -> tuple[str, float | None]:
    """Whether a write-ahead log works there, and how long a synced write takes."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=path) as folder:
            fault = write_ahead_log_fault(Path(folder) / "probe.db")
            return fault, None if fault else _sync_s(Path(folder) / "probe")
    except OSError as error:
        return f"nothing can be written there: {error.strerror or error}", None


def _sync_s(path: Path) -> float:
    took = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_SYNCS):
            os.write(fd, b"\0" * 4096)
            begun_s = time.monotonic()
            os.fdatasync(fd)
            took.append(time.monotonic() - begun_s)
    finally:
        os.close(fd)
    return statistics.median(took)


class _Timex(ctypes.Structure):
    """The kernel's `struct timex`, of which only the size counts here."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_ubyte * 252))


def look_at_clock(written: Path | None) -> ClockLook:
    """Ask the kernel about the clock.

    Args:
        written: A file that the daemon writes to often; its time tells whether the clock was set back.
    """
    synchronised = None
    with suppress(OSError, AttributeError):
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(_Timex()))
        synchronised = None if state < 0 else state != _TIME_ERROR
    ahead_s = 0.0
    if written is not None:
        with suppress(OSError):
            ahead_s = max(0.0, written.stat().st_mtime - time.time())
    return ClockLook(synchronised=synchronised, newest_ahead_s=ahead_s)


def look_at_limits(daemon_pid: int) -> LimitsLook:
    """Read how many files may be open: in the daemon where it runs, else here."""
    with suppress(OSError, ValueError, IndexError, StopIteration):
        lines = (_PROC / str(daemon_pid) / "limits").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("Max open files"))
        if daemon_pid:
            return LimitsLook(
                whose=f"the daemon (process {daemon_pid})", is_daemon=True, soft=int(line.split()[3])
            )
    return LimitsLook(whose="this shell", is_daemon=False, soft=resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def look_at_kernel(daemon_pid: int, *, engine_is_local: bool) -> KernelLook:
    """Look at kernel and control groups as the daemon sees them, or this process where none runs."""
    groups = Path("/sys/fs/cgroup")
    version = 2 if (groups / "cgroup.controllers").exists() else int((groups / "memory").is_dir())
    return KernelLook(
        release=os.uname().release,
        cgroups=version,
        freezer_error=_freezer_obstacle(daemon_pid or os.getpid(), groups, version),
        engine_is_local=engine_is_local,
        watch_error=_watch_obstacle(daemon_pid or os.getpid()),
        checkpoint_obstacles=(("criu", criu_obstacle()), ("cuda-checkpoint", cuda_checkpoint_obstacle())),
    )


def _watch_obstacle(pid: int) -> str:
    """Why a process may not watch openings of files."""
    try:
        status = (_PROC / str(pid) / "status").read_text(encoding="ascii")
    except OSError:
        return "the daemon cannot be looked at"
    held = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    if not int(held, 16) & _CAP_SYS_ADMIN:
        return "the daemon has no CAP_SYS_ADMIN, which fanotify takes"
    return "" if pid != os.getpid() else fanotify_obstacle()


def _freezer_obstacle(pid: int, groups: Path, version: int) -> str:
    if version == 1 and not (groups / "freezer").is_dir() and not (groups / "unified").is_dir():
        return "no freezer is mounted"
    try:
        status = (_PROC / str(pid) / "status").read_text(encoding="ascii")
        mounts = (_PROC / str(pid) / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return "the daemon cannot be looked at"
    uid = next((line.split()[2] for line in status.splitlines() if line.startswith("Uid:")), "0")
    if uid != "0":
        return "the daemon does not run as root"
    places = [line.split(" ") for line in mounts.splitlines()]
    options = [fields[5] for fields in places if len(fields) > 5 and fields[4].startswith(str(groups))]
    if options and all("ro" in option.split(",") for option in options):
        return "control groups are read-only for the daemon (ProtectControlGroups in its unit)"
    return ""


def look_at_port(listen: str, *, ours: frozenset[int], address: str) -> PortLook:
    """Look who listens where gpud would.

    Args:
        listen: The setting.
        ours: Processes that are gpud's.
        address: Where the daemon that answers says it listens; empty when none does.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    number = int(port)
    if number == 0:
        return PortLook(listen=address or f"{host}, any free port", taken=bool(address), ours=True)
    error = _bind_error(host, number)
    if error is None:
        return PortLook(listen=listen)
    pid, name = _listener(number)
    if pid or address:
        by_manager = name == "systemd"
        told = f"{name} (process {pid})" if name else ""
        mine = pid in ours or by_manager or bool(address and address.rpartition(":")[2] == port)
        return PortLook(listen=listen, taken=True, ours=mine, holder=told)
    return PortLook(listen=listen, taken=error == "", error=error)


def _bind_error(host: str, port: int) -> str | None:
    """Try the address without listening there; None: it can be had, empty: somebody has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except PermissionError:
            return None  # a port below 1024, which the daemon's own user may have
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None)
            return "" if number == 98 else str(getattr(error, "strerror", None) or error)
    return None


def _listener(port: int) -> tuple[int, str]:
    """The process that listens on a TCP port, and its name; 0 and empty where that cannot be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for folder in _PROC.iterdir() if inodes else ():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            for fd in (folder / "fd").iterdir():
                if str(fd.readlink()) in inodes:
                    return int(folder.name), (folder / "comm").read_text(encoding="utf-8").strip()
    return 0, ""

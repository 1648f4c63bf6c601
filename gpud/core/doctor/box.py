"""Do disk, clock, limits and kernel of this box bear what gpud does on it?"""

from __future__ import annotations

from dataclasses import dataclass

from gpud.core.doctor.findings import GIB, Finding, failed, ok, size, skipped, warning

_NETWORK_WHY = "SQLite can lose writes on a network file system, so gpud refuses to start there."
_SLOW_SYNC_S = 0.05
_ROOT_LEAST_BYTES = 20 * GIB
_FILES_LEAST = 8192
_CLOCK_BACK_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLook:
    """A place on a disk.

    Args:
        path: What was looked at: the place, or the nearest directory above it that exists.
        missing: The place is not there yet.
        error: Why it cannot be looked at; empty when it can.
        file_system: The kernel's name of it.
        is_network: It is one.
        inodes_free_share: Of all; None where the file system has no fixed number.
        writable_error: Why SQLite cannot keep a write-ahead log there; empty when it can; None: not tried.
        sync_s: What a synced write takes, as the median of a few.
    """

    path: str
    missing: bool = False
    error: str = ""
    file_system: str = ""
    is_network: bool = False
    free_bytes: int = 0
    total_bytes: int = 0
    inodes_free_share: float | None = None
    writable_error: str | None = None
    sync_s: float | None = None

    @property
    def room(self) -> str:
        """How much is free, for people."""
        return f"{size(self.free_bytes)} of {size(self.total_bytes)} free on {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLook:
    """The wall clock.

    Args:
        synchronised: As the kernel was told; None when it cannot be asked.
        newest_ahead_s: How far the newest thing that gpud wrote down lies in the future.
    """

    synchronised: bool | None
    newest_ahead_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsLook:
    """Open files that a process may have.

    Args:
        whose: Such as `the daemon (process 812)`.
        is_daemon: They are the daemon's own.
        soft: What counts.
    """

    whose: str
    is_daemon: bool
    soft: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLook:
    """The kernel and its control groups.

    Args:
        release: Such as `6.8.0-45-generic`.
        cgroups: 1 or 2; 0 when none are mounted.
        freezer_error: Why processes cannot be frozen by file; empty when they can.
        engine_is_local: The engine's processes are this box's.
        watch_error: Why openings of files cannot be watched; empty when they can.
        checkpoint_obstacles: By tool, why it cannot be used; empty where it can.
    """

    release: str
    cgroups: int
    freezer_error: str = ""
    engine_is_local: bool = True
    watch_error: str = ""
    checkpoint_obstacles: tuple[tuple[str, str], ...] = ()


def check_data_disk(look: DiskLook, *, free_share_least: float) -> tuple[Finding, ...]:
    """Judge the disk under the data directory.

    Args:
        look: The disk.
        free_share_least: The setting `jobs.free_disk_share`.
    """
    check = "data-disk"
    if look.error:
        return (skipped(check, look.error, "Run `gpud doctor` as root or as the daemon's user."),)
    return (_data_room(check, look, free_share_least), _file_system(look))


def _data_room(check: str, look: DiskLook, free_share_least: float) -> Finding:
    share = look.free_bytes / look.total_bytes if look.total_bytes else 0.0
    todo = (
        "Free space, or move paths.data_dir to another disk. logs.total_mib and jobs.*_retention_s bound "
        "what is kept."
    )
    if share < free_share_least or look.free_bytes < GIB // 4:
        return failed(
            check,
            look.room,
            why=f"New jobs are refused below {free_share_least:.0%}; a full disk stops deploys and starts.",
            todo=todo,
        )
    if look.inodes_free_share is not None and look.inodes_free_share < 0.02:
        return failed(
            check,
            f"{look.inodes_free_share:.1%} of the inodes free on {look.path}",
            why="Without inodes no file can be made, however much space there is.",
            todo="Remove small files from that disk.",
        )
    if share < 2 * free_share_least:
        return warning(check, look.room, why=f"New jobs are refused below {free_share_least:.0%}.", todo=todo)
    return ok(check, look.room)


def _file_system(look: DiskLook) -> Finding:
    check, kind = "file-system", look.file_system or "unknown"
    local = "Set paths.data_dir to a directory on a local disk (ext4 or xfs)."
    if look.is_network:
        return failed(check, f"{kind} under {look.path}", why=_NETWORK_WHY, todo=local)
    if look.writable_error is None:
        why = "the data directory is not there yet" if look.missing else "it is not writable for this user"
        return skipped(check, f"{kind}; {why}, so no write was tried")
    if look.writable_error:
        return failed(
            check,
            f"{kind}: {look.writable_error}",
            why="gpud's database needs a write-ahead log, synced to the disk.",
            todo=local,
        )
    took = "" if look.sync_s is None else f"; a synced write takes {look.sync_s * 1000:.1f} ms"
    if look.sync_s is not None and look.sync_s > _SLOW_SYNC_S:
        return warning(
            check,
            f"{kind}{took}",
            why="Every job and every start of a worker waits for at least one synced write.",
            todo="Put paths.data_dir on an SSD, away from what loads this disk.",
        )
    return ok(check, f"{kind}{took}")


def check_engine_disk(look: DiskLook, *, free_least_bytes: int) -> Finding:
    """Judge the disk under the engine's images.

    Args:
        look: The disk.
        free_least_bytes: The setting `images.free_gib_min`; 0 for none.
    """
    check = "engine-disk"
    if look.error or look.missing:
        return skipped(check, look.error or f"{look.path} is not on this box")
    if free_least_bytes and look.free_bytes < free_least_bytes:
        return failed(
            check,
            look.room,
            why=f"Pulls are refused below images.free_gib_min ({size(free_least_bytes)}).",
            todo="`gpud image gc`, `docker system df`, or a larger disk.",
        )
    if look.free_bytes < _ROOT_LEAST_BYTES:
        return warning(
            check,
            look.room,
            why="Images for GPUs take 5 to 20 GiB; a pull that finds no room fails.",
            todo="`gpud image gc` and `docker system df` show what can go; images.disk_budget_gib bounds it.",
        )
    return ok(check, look.room)


def check_clock(look: ClockLook) -> Finding:
    """Judge the wall clock, by which prices, logs and keys go; GPU time does not."""
    check = "clock"
    sync = "`timedatectl set-ntp true`, or install chrony."
    if look.newest_ahead_s > _CLOCK_BACK_S:
        return warning(
            check,
            f"gpud wrote something {look.newest_ahead_s:.0f} s in the future: the clock was set back",
            why="Times of events and logs overlap, and keys may expire at another time than meant. Durations "
            "and GPU time are measured on another clock and are right.",
            todo=f"Let the clock be slewed, not set: {sync}",
        )
    if look.synchronised is None:
        return skipped(check, "the kernel does not tell whether the clock is synchronised")
    if not look.synchronised:
        return warning(
            check,
            "nothing keeps the clock right",
            why="Certificates and keys expire by it, and usage is reported by its days.",
            todo=sync,
        )
    return ok(check, "synchronised")


def check_files(look: LimitsLook) -> Finding:
    """Judge how many open files there may be: each request takes two, each worker a few."""
    check, found = "open-files", f"{look.soft:,} for {look.whose}"
    if look.soft >= _FILES_LEAST:
        return ok(check, found)
    if not look.is_daemon:
        return skipped(check, f"{found}; gpud does not run, and its unit sets its own limit (LimitNOFILE)")
    return warning(
        check,
        found,
        why=f"Each request takes two: about {look.soft // 2:,} at once, and then connections are refused.",
        todo="LimitNOFILE=65536 in the service's unit, or `ulimit -n 65536` before `gpud serve`.",
    )


def check_kernel(look: KernelLook) -> Finding:
    """Judge kernel and control groups."""
    check = "kernel"
    if not look.cgroups:
        return failed(
            check,
            f"Linux {look.release} without control groups",
            why="Containers cannot be bounded, measured or frozen.",
            todo="Mount them: a current systemd does.",
        )
    found = f"Linux {look.release}, control groups version {look.cgroups}"
    if look.cgroups == 1:
        return warning(
            check,
            found,
            why="gpud works with version 1. Docker and systemd are giving it up.",
            todo="Boot with systemd.unified_cgroup_hierarchy=1, when it suits.",
        )
    return ok(check, found)


def check_freezer(look: KernelLook) -> Finding:
    """Judge how idle workers are paused."""
    check = "freezer"
    if not look.engine_is_local:
        return ok(check, "the engine is on another machine: it pauses workers, which takes some 15 ms")
    if look.freezer_error:
        return ok(check, f"the engine pauses workers, which takes some 15 ms: {look.freezer_error}")
    return ok(check, "gpud pauses workers itself, within a millisecond")


def check_read_ahead(look: KernelLook) -> Finding:
    """Judge how it is found out which files a start reads."""
    check = "read-ahead"
    if not look.engine_is_local:
        return ok(check, "nothing can be recorded: the engine is on another machine")
    if look.watch_error:
        return ok(check, f"page_cache.record takes what is in memory after a start: {look.watch_error}")
    return ok(check, "page_cache.record sees what a start opens (fanotify)")


def check_checkpoints(look: KernelLook) -> Finding:
    """Say why workers cannot be checkpointed, where they cannot."""
    check = "checkpoints"
    missing = [why.rstrip(".") for _tool, why in look.checkpoint_obstacles if why]
    if missing:
        return skipped(
            check,
            f"workers cannot be checkpointed: {'; '.join(missing)}",
            "Nothing: no endpoint needs it. Workers pause, sleep and stand by without it.",
        )
    return ok(check, "criu and cuda-checkpoint run here; gpud does not use them yet")

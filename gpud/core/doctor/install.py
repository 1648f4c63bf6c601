"""Is gpud itself set up well: settings, data, keys, certificate, port, daemon?"""

from __future__ import annotations

from dataclasses import dataclass

from gpud.core.doctor.findings import Finding, failed, ok, skipped, warning

_EXPIRY_WARNING_S = 21 * 86_400.0
_DAY_S = 86_400.0
_OTHERS = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsLook:
    """What gpud runs on.

    Args:
        sqlite_warning: What is known to be wrong with that SQLite; empty when nothing is.
    """

    gpud: str
    python: str
    sqlite: str
    sqlite_warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsLook:
    """The settings' file.

    Args:
        path: Of the file; empty for the defaults.
        error: Why it cannot be used.
        changed: Sections in which the running daemon has other settings.
    """

    path: str = ""
    error: str = ""
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonLook:
    """Whether the daemon answers, and what it says of itself.

    Args:
        socket: Where it was asked.
        answers: It does.
        error: Why it cannot be asked.
        denied: This user may not ask.
        version: Its own.
        faults: By part, what is wrong with it.
    """

    socket: str
    answers: bool = False
    error: str = ""
    denied: bool = False
    version: str = ""
    faults: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLook:
    """The data directory.

    Args:
        path: Of the directory.
        exists: It is there.
        readable: This user may look into it.
        mode: Its permissions.
        holder: Process that holds its lock; 0 when nobody does; None when that cannot be told.
        has_database: gpud has been started with it.
        schema: Of the database; None when it was not read.
        schema_known: The newest this gpud knows.
        restore_pending: A restore was decided and not carried out yet.
        key_path: Of the master key, in the directory or where the service's unit has it from; empty for none.
        key_mode: Its permissions; None when there is none.
        key_bytes: Its length.
        owner_differs: Files in it belong to somebody else than the directory.
    """

    path: str
    exists: bool = False
    readable: bool = False
    mode: int = 0
    holder: int | None = None
    has_database: bool = False
    schema: int | None = None
    schema_known: int = 0
    restore_pending: bool = False
    key_path: str = ""
    key_mode: int | None = None
    key_bytes: int = 0
    owner_differs: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsLook:
    """The certificate's files; empty paths for plain HTTP.

    Args:
        error: Why they cannot be used.
        expires_in_s: Until the certificate does.
        key_mode: Permissions of the private key.
    """

    certificate: str = ""
    key: str = ""
    error: str = ""
    subject: str = ""
    expires_in_s: float = 0.0
    key_mode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLook:
    """The address gpud listens on.

    Args:
        listen: The setting `server.listen`.
        taken: Somebody listens there.
        ours: It is gpud, or the service manager on its behalf.
        holder: Who, as far as can be told.
        error: Why it cannot be had at all, such as an address that is not this box's.
    """

    listen: str
    taken: bool = False
    ours: bool = False
    holder: str = ""
    error: str = ""


def check_versions(look: VersionsLook) -> Finding:
    """Judge what gpud runs on."""
    found = f"gpud {look.gpud}, Python {look.python}, SQLite {look.sqlite}"
    if look.sqlite_warning:
        return warning(
            "versions",
            found,
            why=look.sqlite_warning,
            todo="Let nothing else write to gpud.db, or run gpud on a Python with a newer SQLite.",
        )
    return ok("versions", found)


def check_settings(look: SettingsLook) -> Finding:
    """Judge the settings' file."""
    named = look.path or "no file, so the defaults"
    if look.error:
        return failed(
            "settings",
            look.error,
            why="The daemon does not start with it."
            + (" The other checks go by the defaults." if not look.changed else ""),
            todo="Correct it; docs/reference/settings.md names every setting.",
        )
    if look.changed:
        return warning(
            "settings",
            f"{named}: valid, but the running daemon has other settings in {', '.join(look.changed)}",
            why="What the file says is not in force.",
            todo="Restart the daemon (`systemctl restart gpud`; workers go on), or give the file it was "
            "started with: `gpud doctor --config FILE`.",
        )
    return ok("settings", f"{named}: valid" if look.path else named)


def check_daemon(look: DaemonLook, *, own_version: str) -> tuple[Finding, ...]:
    """Judge what the daemon says of itself."""
    check = "daemon"
    if look.denied:
        return (skipped(check, look.error, "Run `gpud doctor` as root, or as the daemon's user."),)
    if not look.answers:
        return (skipped(check, look.error, "Start it with `systemctl start gpud`."),)
    found = [_daemon(check, look, own_version)]
    found += [
        failed(
            f"daemon-{part}",
            fault,
            why="Nothing new can be started until that is mended; ready workers serve on.",
            todo="`gpud status` follows it; the daemon goes on by itself once it is mended.",
        )
        for part, fault in look.faults
    ]
    return tuple(found)


def _daemon(check: str, look: DaemonLook, own_version: str) -> Finding:
    if look.version != own_version:
        return warning(
            check,
            f"version {look.version} runs, this command is {own_version}",
            why="The daemon was not restarted after an upgrade, or two gpuds are installed.",
            todo="`systemctl restart gpud`; workers go on.",
        )
    return ok(check, f"version {look.version} answers at {look.socket}")


def check_data(look: DataLook, daemon: DaemonLook) -> Finding:
    """Judge the data directory: whose it is, who uses it, and whether this gpud can."""
    check = "data-directory"
    if not look.exists:
        return ok(check, f"{look.path} is not there yet; the first start makes it")
    if not look.readable:
        return skipped(check, f"{look.path} is closed to this user", "Run `gpud doctor` as root.")
    if look.schema is not None and look.schema > look.schema_known:
        return failed(
            check,
            f"its database has schema {look.schema}, this gpud knows {look.schema_known}",
            why="It was written by a newer gpud, and this one refuses to touch it.",
            todo="Install that version again, or restore a backup made before the upgrade.",
        )
    if look.holder and not daemon.answers and not daemon.denied:
        return failed(
            check,
            f"process {look.holder} holds it, but no daemon answers at {daemon.socket}",
            why="That daemon starts, hangs, or has another run_dir; a second one is refused.",
            todo=f"See `ps -fp {look.holder}` and `journalctl -u gpud`, or name its socket with --socket.",
        )
    if daemon.answers and look.holder == 0:
        return warning(
            check,
            f"nobody holds {look.path}, though a daemon answers at {daemon.socket}",
            why="The daemon that runs has another data directory than these settings say.",
            todo="Give the file it was started with: `gpud doctor --config FILE`.",
        )
    return _doubts_of_data(check, look)


def _doubts_of_data(check: str, look: DataLook) -> Finding:
    if look.owner_differs:
        return failed(
            check,
            look.owner_differs,
            why="The daemon may not read or write what belongs to another user.",
            todo=f"`chown -R --reference={look.path} {look.path}`, while the daemon is stopped.",
        )
    if look.mode & _OTHERS:
        return warning(
            check,
            f"{look.path} has mode {look.mode:04o}",
            why="Others on this box may read jobs, logs and the hashes of keys.",
            todo=f"`chmod 700 {look.path}`; the daemon does so too when it starts.",
        )
    if look.restore_pending:
        return warning(
            check,
            f"a restore into {look.path} was decided and not finished",
            why="The next start finishes it before it does anything else.",
            todo="Start the daemon.",
        )
    schema = "" if look.schema is None else f", schema {look.schema}"
    return ok(check, f"{look.path}{schema}" + (f", held by process {look.holder}" if look.holder else ""))


def check_key_file(look: DataLook) -> Finding:
    """Judge the master key, under which stored secrets are encrypted."""
    check = "master-key"
    if not look.exists or not look.readable:
        return skipped(check, "the data directory cannot be looked into")
    if look.key_mode is None:
        if look.has_database:
            return ok(check, "not in the data directory: the service manager hands it over (LoadCredential)")
        return ok(check, "not there yet; the first start makes it")
    if look.key_bytes not in (32, 64, 65):
        return failed(
            check,
            f"{look.key_path} is {look.key_bytes} bytes, which is no key",
            why="The daemon does not start with it, and stored secrets cannot be read.",
            todo="Bring the old key back from a backup.",
        )
    if look.key_mode & _OTHERS:
        return failed(
            check,
            f"{look.key_path} has mode {look.key_mode:04o}",
            why="Others on this box can decrypt registry passwords and webhook secrets.",
            todo=f"`chmod 600 {look.key_path}`, and change those secrets if anyone else was here.",
        )
    return ok(check, f"{look.key_path}, closed to others")


def check_tls(look: TlsLook) -> Finding:
    """Judge the certificate."""
    check = "certificate"
    if not look.certificate:
        return skipped(check, "none: the port speaks plain HTTP (server.tls_cert is empty)")
    if look.error:
        return failed(
            check,
            look.error,
            why="The daemon does not start with it; one that runs keeps the certificate it has.",
            todo="server.tls_cert takes the certificate and its chain, server.tls_key its private key.",
        )
    days = look.expires_in_s / _DAY_S
    if look.expires_in_s <= 0:
        return failed(
            check,
            f"{look.subject} in {look.certificate} expired {-days:.0f} days ago",
            why="Clients refuse the connection.",
            todo="Renew it; the daemon takes the new files within seconds.",
        )
    if look.key_mode & 0o007:
        return warning(
            check,
            f"{look.key} has mode {look.key_mode:04o}",
            why="Everybody on this box can read the private key.",
            todo=f"`chmod 640 {look.key}`",
        )
    if look.expires_in_s < _EXPIRY_WARNING_S:
        return warning(
            check,
            f"{look.subject} in {look.certificate} expires in {days:.0f} days",
            why="Clients will refuse the connection then.",
            todo="Renew it; the daemon takes the new files within seconds.",
        )
    return ok(check, f"{look.subject}, {days:.0f} more days")


def check_port(look: PortLook) -> Finding:
    """Judge whether gpud can listen where it is told to."""
    check = "port"
    if look.error:
        return failed(
            check,
            f"{look.listen}: {look.error}",
            why="The daemon cannot start.",
            todo="Set server.listen to an address of this box.",
        )
    if not look.taken:
        return ok(check, f"{look.listen} is free")
    if look.ours:
        return ok(check, f"{look.listen}, held by {look.holder or 'gpud'}")
    return failed(
        check,
        f"{look.listen} is taken by {look.holder or 'another program'}",
        why="The daemon cannot start.",
        todo="Stop that program (`ss -ltnp` shows it), or set server.listen to another address.",
    )

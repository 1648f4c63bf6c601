"""Looks at gpud's own installation for the doctor: data directory, keys, certificate, versions."""

from __future__ import annotations

import os
import platform
import ssl
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from gpud import __version__
from gpud.adapters.sqlite.datadir import DATABASE_NAME, LOCK_NAME
from gpud.adapters.sqlite.migrate import migrations
from gpud.adapters.sqlite.probing import schema_of, sqlite_told
from gpud.adapters.sqlite.restoring import DECISION_NAME
from gpud.adapters.sqlite.store import MASTER_KEY_NAME
from gpud.core.doctor.install import DataLook, TlsLook, VersionsLook

if TYPE_CHECKING:
    from gpud.settings import Settings

_LOCKS = Path("/proc/locks")
SERVICE_KEY = Path("/etc/gpud/master.key")
"""Where the service's unit has the master key from."""


def look_at_versions() -> VersionsLook:
    """What gpud runs on."""
    version, known = sqlite_told()
    return VersionsLook(
        gpud=__version__, python=platform.python_version(), sqlite=version, sqlite_warning=known
    )


def look_at_data(path: Path, *, service_key: Path = SERVICE_KEY) -> DataLook:
    """Look at the data directory, without taking part in its locking."""
    known = len(migrations())
    try:
        folder = path.stat()
    except FileNotFoundError:
        return DataLook(path=str(path), schema_known=known)
    except OSError:
        return DataLook(path=str(path), exists=True, schema_known=known)
    if not os.access(path, os.R_OK | os.X_OK):
        return DataLook(path=str(path), exists=True, schema_known=known)
    key_path = path / MASTER_KEY_NAME if (path / MASTER_KEY_NAME).exists() else service_key
    key = _stat_or_none(key_path)
    return DataLook(
        path=str(path),
        exists=True,
        readable=True,
        mode=stat.S_IMODE(folder.st_mode),
        holder=lock_holder(path / LOCK_NAME),
        has_database=(path / DATABASE_NAME).exists(),
        schema=schema_of(path / DATABASE_NAME),
        schema_known=known,
        restore_pending=(path / DECISION_NAME).exists(),
        key_path=str(key_path) if key else "",
        key_mode=stat.S_IMODE(key.st_mode) if key else None,
        key_bytes=key.st_size if key else 0,
        owner_differs=_strangers(path, folder.st_uid),
    )


def lock_holder(lock: Path, *, locks: Path = _LOCKS) -> int | None:
    """The process that holds the lock of a data directory; 0 when none does, None when that is not told.

    Read from the kernel's table: trying the lock would get in the way of a daemon that starts.
    """
    seen = _stat_or_none(lock)
    if seen is None:
        return 0
    try:
        table = locks.read_text(encoding="ascii")
    except OSError:
        return None
    device = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}"
    for line in table.splitlines():
        words = line.split()
        if "FLOCK" in words and "->" not in words and f"{device}:{seen.st_ino}" in words:
            return int(words[words.index(f"{device}:{seen.st_ino}") - 1])
    return 0


def _strangers(path: Path, owner: int) -> str:
    """A file of the directory that belongs to another user; empty when there is none."""
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", MASTER_KEY_NAME, LOCK_NAME):
        seen = _stat_or_none(path / name)
        if seen is not None and seen.st_uid != owner:
            return f"{path / name} belongs to user {seen.st_uid}, the directory to {owner}"
    return ""


def _stat_or_none(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def look_at_certificate(settings: Settings) -> TlsLook:
    """Look at the certificate's files."""
    server = settings.server
    if not server.tls_cert:
        return TlsLook()
    certificate, key = Path(server.tls_cert), Path(server.tls_key)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=lambda: "")
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        mode = stat.S_IMODE(key.stat().st_mode)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        told = f"{certificate} with {key}: {getattr(error, 'strerror', None) or error}"
        return TlsLook(certificate=str(certificate), key=str(key), error=told)
    return TlsLook(
        certificate=str(certificate),
        key=str(key),
        subject=shown.subject.rfc4514_string(),
        expires_in_s=shown.not_valid_after_utc.timestamp() - time.time(),
        key_mode=mode,
    )


def processes_of(holder: int | None) -> frozenset[int]:
    """The daemon and who started it: a supervisor, which holds its sockets."""
    if not holder:
        return frozenset()
    with suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{holder}/stat").read_text(encoding="ascii", errors="replace")
        return frozenset({holder, int(status.rpartition(")")[2].split()[1])})
    return frozenset({holder})

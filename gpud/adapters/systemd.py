"""Speaks with the service manager: tells it how the daemon is, and takes the sockets it holds.

Both protocols are a few lines of text and need no library: `sd_notify(3)` is a datagram, and
`sd_listen_fds(3)` two variables. The supervisor of the command line hands sockets over alike.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from gpud.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIRST_FD: Final = 3
_MICROS: Final = 1_000_000

_log = structlog.get_logger()


class ServiceNotifier:
    """Tells the service manager what the daemon is doing; does nothing where there is none.

    A manager that cannot be reached is logged once and never in the way of the daemon.

    Args:
        environ: The process environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; from the command
            line's supervisor GPUD_SOCKET_STORE, the descriptor it takes sockets from.
        pid: Of this process.
    """

    def __init__(self, environ: Mapping[str, str], *, pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A name that starts with @ is in the abstract namespace; other kinds of address
        # (vsock, for a guest's own manager) reach no manager that started this process.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)  # noqa: FBT003 - the library asks by position
        self._store = _store_of(environ)
        self._complained = False
        self.watchdog_s = _watchdog_s(environ, pid)

    watchdog_s: float | None
    """The manager kills the daemon when it hears no `watchdog()` for this long; None: it does not."""

    def ready(self, status: str) -> None:
        """Say that start-up is done, or that a reload is."""
        self._send("READY=1", _status(status))

    def stopping(self, status: str) -> None:
        """Say that the daemon has begun to stop."""
        self._send("STOPPING=1", _status(status))

    def reloading(self, status: str) -> None:
        """Say that settings are read again; `ready` says that it is over."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status(status))

    def status(self, status: str) -> None:
        """Give the sentence that `systemctl status` shows."""
        self._send(_status(status))

    def watchdog(self) -> None:
        """Say that the daemon makes progress; due well within `watchdog_s`."""
        self._send("WATCHDOG=1")

    def keep_socket(self, kept: socket.socket, name: str) -> None:
        """Have the manager hold a socket open over a restart; it comes back under its name."""
        message = f"FDSTORE=1\nFDNAME={name}".encode()
        try:
            if self._store is not None:
                socket.send_fds(self._store, [message], [kept.fileno()])
            elif self._socket is not None:
                # Of one name only the newest is of use; one that is there already is not kept twice.
                self._socket.sendto(f"FDSTOREREMOVE=1\nFDNAME={name}".encode(), self._address)
                # Not `socket.send_fds`, which leaves the address out in Python 3.11 and 3.12.
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, kept.fileno().to_bytes(4, sys.byteorder))
                self._socket.sendmsg([message], [rights], 0, self._address)
        except OSError as error:
            _log.warning("service_manager.keeps_no_socket", name=name, error=str(error))

    def extend_timeout(self, by_s: float) -> None:
        """Ask for more time to start or stop, counted from now, as for a long migration."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(by_s * _MICROS)}")

    def close(self) -> None:
        """Close the socket; anything said later is said to nobody."""
        for one in (self._socket, self._store):
            if one is not None:
                one.close()
        self._socket = self._store = None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                _log.warning("service_manager.unreachable", error=str(error))


def inherited_sockets(environ: Mapping[str, str], *, pid: int) -> tuple[socket.socket, ...]:
    """Take the listening sockets that were opened before this process and outlive it.

    Args:
        environ: The process environment: LISTEN_PID and LISTEN_FDS.
        pid: Of this process; sockets meant for another are left alone.

    Returns:
        Non-blocking stream sockets in the order they were passed; empty when there are none.

    Raises:
        BadSettings: Something else than a listening stream socket was passed.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return ()
    spelled = environ.get("LISTEN_FDS", "")
    if not spelled.isascii() or not spelled.isdigit():
        raise BadSettings(f"LISTEN_FDS is {spelled!r}, which is no count. Check whatever starts gpud.")
    return tuple(_listening(fd) for fd in range(_FIRST_FD, _FIRST_FD + int(spelled)))


def inherited_names(environ: Mapping[str, str], *, pid: int) -> tuple[str, ...]:
    """What the inherited sockets are called, in their order; empty where nobody says."""
    if environ.get("LISTEN_PID") != str(pid) or not environ.get("LISTEN_FDNAMES"):
        return ()
    return tuple(environ["LISTEN_FDNAMES"].split(":"))


def credential_path(environ: Mapping[str, str], name: str) -> Path | None:
    """Find a credential that LoadCredential= passed; None when the manager passed none of that name.

    Args:
        environ: The process environment: CREDENTIALS_DIRECTORY.
        name: As in the unit, such as `master.key`.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / name
    return path if folder and path.is_file() else None


def _store_of(environ: Mapping[str, str]) -> socket.socket | None:
    spelled = environ.get("GPUD_SOCKET_STORE", "")
    if not (spelled.isascii() and spelled.isdigit()):
        return None
    try:
        store = socket.socket(fileno=int(spelled))
        os.set_inheritable(store.fileno(), False)  # noqa: FBT003 - the library asks by position
    except OSError:
        return None
    return store


def _listening(fd: int) -> socket.socket:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise BadSettings(_not_listening(fd))
        os.set_inheritable(fd, False)  # noqa: FBT003 - the library asks by position
    except OSError as error:
        raise BadSettings(_not_listening(fd)) from error
    listening = socket.socket(fileno=fd)
    accepts = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listening.type != socket.SOCK_STREAM or not accepts:
        listening.detach()
        raise BadSettings(_not_listening(fd))
    listening.setblocking(False)  # noqa: FBT003 - the library asks by position
    return listening


def _not_listening(fd: int) -> str:
    return (
        f"File descriptor {fd}, passed by LISTEN_FDS, is no listening stream socket. The socket unit needs "
        "ListenStream= and must not set Accept=yes."
    )


def _status(status: str) -> str:
    return f"STATUS={' '.join(status.split())}"


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    spelled = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid) or not (spelled.isascii() and spelled.isdigit()):
        return None
    return int(spelled) / _MICROS or None

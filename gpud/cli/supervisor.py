"""Holds the listening sockets and restarts the daemon, where no service manager does.

The parent stays small: it never imports the daemon, and even the settings are read by a child that
ends at once. The sockets reach the daemon the way systemd hands them over: from file descriptor 3
on, counted by LISTEN_FDS. A restart thus refuses no connection; callers wait in the backlog.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from gpud.cli import exits
from gpud.cli.exits import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

_FIRST_FD = 3
_BACKLOG = 1024
_QUICK_S = 10.0
_PAUSE_S_MAX = 30.0
_HOPELESS = (exits.OK, exits.BAD_USAGE)


class Listens(NamedTuple):
    """Where the daemon listens."""

    host: str
    port: int
    api_socket: str


def supervise(config: Path | None) -> int:
    """Run the daemon until it ends for good, and return its exit code.

    Raises:
        CommandFailed: The settings cannot be used, or an address is taken.
    """
    listens = _settings_in_child(config)
    held = [listen_tcp(listens)]
    store = SocketStore()
    try:
        held.append(listen_unix(listens.api_socket))
        arguments = [sys.executable, "-m", "gpud", "serve", *(["--config", str(config)] if config else [])]
        return Keeper(lambda: spawn(arguments, held, store)).run()
    finally:
        for one in held:
            one.close()
        store.close()
        if len(held) > 1:
            _remove_dead(listens.api_socket)


def _settings_in_child(config: Path | None) -> Listens:
    """Read the settings in a child, whose imports end with it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer = _read_settings(config)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent tells it
            answer = {"fault": f"{error}"}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read() or b'{"fault": "The settings could not be read."}')
    os.waitpid(pid, 0)
    if "fault" in answer:
        raise CommandFailed(str(answer["fault"]), code=exits.BAD_USAGE)
    host, _, port = str(answer["listen"]).rpartition(":")
    return Listens(host.strip("[]"), int(port), str(answer["api_socket"]))


def _read_settings(config: Path | None) -> dict[str, str]:
    from gpud.settings import load_settings  # noqa: PLC0415 - 150 ms and 20 MB, which end with the child

    settings = load_settings(config)
    return {"listen": settings.server.listen, "api_socket": str(settings.paths.run_dir / "api.sock")}


def listen_tcp(listens: Listens) -> socket.socket:
    """Open the TCP port.

    Raises:
        CommandFailed: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in listens.host else socket.AF_INET
    try:
        return socket.create_server((listens.host, listens.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CommandFailed(
            f"Cannot listen on {listens.host}:{listens.port}: {_why(error)}.",
            todo="Another gpud may run; else change server.listen in gpud.toml.",
        ) from error


def listen_unix(path: str) -> socket.socket:
    """Open the API's Unix socket, for this user alone; one that a dead daemon left is replaced.

    Raises:
        CommandFailed: It cannot be had, or a living daemon has it.
    """
    listening = socket.socket(socket.AF_UNIX)
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)  # noqa: PTH103, PTH120
        _remove_dead(path)
        before = os.umask(0o177)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise CommandFailed(
            f"Cannot listen on {path}: {_why(error)}.",
            todo="Another gpud may run; else check paths.run_dir in gpud.toml and who may write there.",
        ) from error
    return listening


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _remove_dead(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) != 0:
            os.unlink(path)  # noqa: PTH108


class SocketStore:
    """Keeps sockets that the daemon opened itself, for the next one: they come through a pair of sockets."""

    def __init__(self) -> None:
        self._mine, self.given = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._mine.setblocking(False)  # noqa: FBT003 - the library asks by position
        self._kept: dict[str, socket.socket] = {}

    def kept(self) -> dict[str, socket.socket]:
        """What the last daemon handed over, by name; the newest of each."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._mine, 4096, 4)
            except BlockingIOError:
                return self._kept
            lines = dict(line.partition("=")[::2] for line in message.decode("ascii", "replace").splitlines())
            for descriptor in descriptors:
                before = self._kept.pop(lines.get("FDNAME", ""), None)
                if before is not None:
                    before.close()
                self._kept[lines.get("FDNAME", "")] = socket.socket(fileno=descriptor)

    def close(self) -> None:
        """Let go of everything."""
        for one in (self._mine, self.given, *self._kept.values()):
            one.close()


def spawn(arguments: list[str], held: list[socket.socket], store: SocketStore | None = None) -> int:
    """Start the daemon with the sockets from descriptor 3 on, and return its process id."""
    kept = store.kept() if store is not None else {}
    pid = os.fork()
    if pid:
        return pid
    try:
        passed = [*held, *kept.values()]
        names = ":".join([*[""] * len(held), *kept])
        # Copies above every target first: a socket may itself be one of the targets.
        handed = [*passed, *([store.given] if store is not None else [])]
        copies = [_copy_above(one.fileno(), _FIRST_FD + len(handed)) for one in handed]
        for number, copy in enumerate(copies):
            os.dup2(copy, _FIRST_FD + number, inheritable=True)
        environment = {
            **os.environ,
            "LISTEN_FDS": str(len(passed)),
            "LISTEN_FDNAMES": names,
            "LISTEN_PID": str(os.getpid()),
            "GPUD_SOCKET_STORE": str(_FIRST_FD + len(passed)) if store is not None else "",
        }
        for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(caught, signal.SIG_DFL)
        os.execve(arguments[0], arguments, environment)  # noqa: S606 - gpud itself, and no shell wanted
    finally:
        os._exit(exits.FAILED)


def _copy_above(descriptor: int, least: int) -> int:
    import fcntl  # noqa: PLC0415 - the child alone needs it

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


class Keeper:
    """Keeps one child running, and passes signals on to it."""

    def __init__(self, spawn: Callable[[], int]) -> None:
        self._spawn = spawn
        self._child = 0
        self._stopping = False

    def run(self) -> int:
        """Start the child, and again whenever it ends unasked; returns its last exit code."""
        for caught in (signal.SIGTERM, signal.SIGINT):
            signal.signal(caught, self._stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        pause_s = 0.0
        while True:
            started_s = time.monotonic()
            self._child = self._spawn()
            if self._stopping:
                os.kill(self._child, signal.SIGTERM)
            _, status = os.waitpid(self._child, 0)
            code = os.waitstatus_to_exitcode(status)
            self._child = 0
            if self._stopping or code in _HOPELESS:
                return code if code >= 0 else 128 - code
            pause_s = (
                min(_PAUSE_S_MAX, pause_s * 2 or 0.5) if time.monotonic() - started_s < _QUICK_S else 0.0
            )
            sys.stderr.write(
                f"gpud: the daemon ended with {_ending(code)}; starting it again in {pause_s:g} s\n"
            )
            self._sleep(pause_s)
            if self._stopping:
                return exits.OK

    def _sleep(self, pause_s: float) -> None:
        until_s = time.monotonic() + pause_s
        while not self._stopping and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.1))

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._pass_on(number, None)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._child:
            os.kill(self._child, number)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

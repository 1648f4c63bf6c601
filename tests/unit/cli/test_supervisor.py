"""`gpud serve --supervise`: the sockets outlive the daemon, and the daemon comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from gpud.cli import exits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.cli.conftest import Gpud

_PARENT = """
import sys
from gpud.cli.supervisor import Keeper, Listens, SocketStore, listen_tcp, listen_unix, spawn
store = SocketStore()
held = [listen_tcp(Listens("127.0.0.1", 0, "")), listen_unix(sys.argv[1])]
print(held[0].getsockname()[1], flush=True)
sys.exit(Keeper(lambda: spawn([sys.executable, "-c", sys.argv[2]], held, store)).run())
"""

_CHILD = """
import os, select, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
assert (os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"]) == ("2", str(os.getpid()))
sockets = [socket.socket(fileno=3), socket.socket(fileno=4)]
assert [s.family for s in sockets] == [socket.AF_INET, socket.AF_UNIX]
while True:
    for ready in select.select(sockets, [], [])[0]:
        connection, _ = ready.accept()
        with connection:
            word = connection.recv(100).decode()
            connection.sendall(str(os.getpid()).encode())
        if word.isdigit():
            os._exit(int(word))
"""


_OPENS_ITS_OWN = """
import os, signal, socket, sys
from gpud.adapters.systemd import ServiceNotifier, inherited_names, inherited_sockets
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pid = os.getpid()
sockets, names = inherited_sockets(os.environ, pid=pid), inherited_names(os.environ, pid=pid)
own = dict(zip(names, sockets)).get("workers")
if own is None:
    own = socket.create_server(("127.0.0.1", 0))
    ServiceNotifier(os.environ, pid=pid).keep_socket(own, "workers")
sockets[0].setblocking(True)
while True:
    connection, _ = sockets[0].accept()
    with connection:
        word = connection.recv(100).decode()
        connection.sendall(str(own.getsockname()[1]).encode())
    if word == "die":
        os.kill(pid, signal.SIGKILL)
"""


class _Supervised:
    def __init__(self, folder: Path, child: str = _CHILD) -> None:
        self.unix = str(folder / "api.sock")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PARENT, self.unix, child],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)

    def say(self, word: str = "hello", *, over_unix: bool = False) -> int:
        """Say a word to the daemon and return its process id."""
        connected = (
            socket.socket(socket.AF_UNIX) if over_unix else socket.create_connection(("127.0.0.1", self.port))
        )
        with connected:
            connected.settimeout(20)
            if over_unix:
                connected.connect(self.unix)
            connected.sendall(word.encode())
            return int(connected.recv(100))

    def ended(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[_Supervised]:
    running = _Supervised(tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.ended()


def test_the_daemon_gets_both_sockets_and_answers_on_them(supervised: _Supervised) -> None:
    assert supervised.say() == supervised.say(over_unix=True)


def test_a_daemon_that_dies_is_started_again_and_no_caller_is_refused(supervised: _Supervised) -> None:
    first = supervised.say()
    os.kill(first, signal.SIGKILL)
    second = supervised.say()
    assert second != first
    assert supervised.say("7", over_unix=True) == second
    assert supervised.say() not in (first, second)


def test_sigterm_stops_the_daemon_and_then_the_supervisor(supervised: _Supervised) -> None:
    supervised.say()
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ended() == (0, "")


@pytest.mark.parametrize("code", [exits.OK, exits.BAD_USAGE])
def test_an_ending_that_a_restart_cannot_mend_is_final(code: int, supervised: _Supervised) -> None:
    supervised.say(str(code))
    assert supervised.ended() == (code, "")


def test_a_daemon_that_keeps_dying_is_started_ever_more_slowly_and_can_still_be_stopped(
    tmp_path: Path,
) -> None:
    running = _Supervised(tmp_path, "import sys; sys.exit(1)")
    assert running.process.stderr is not None
    lines = [running.process.stderr.readline().strip() for _ in range(2)]
    assert [line.rpartition("again in ")[2] for line in lines] == ["0.5 s", "1 s"]
    began_s = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    code, _ = running.ended()
    assert code == 0
    assert time.monotonic() - began_s < 5


def test_a_broken_file_of_settings_is_told_once_and_nothing_starts(gpud: Gpud, tmp_path: Path) -> None:
    path = tmp_path / "gpud.toml"
    path.write_text('[server]\nlisten = "0.0.0.0:8700"\n')
    for words in (("--supervise",), ()):
        ran = gpud("serve", "--config", str(path), *words)
        assert ran.code == exits.BAD_USAGE
        assert "0.0.0.0 is reachable from other machines" in ran.err
        assert ran.err.startswith(f"gpud: {path} cannot be used")


def test_a_taken_address_is_told(gpud: Gpud, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "gpud.toml"
        path.write_text(f'[server]\nlisten = "127.0.0.1:{port}"\n[paths]\nrun_dir = "{tmp_path}"\n')
        ran = gpud("serve", "--config", str(path), "--supervise")
    assert ran.code == exits.FAILED
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use." in ran.err


def test_a_socket_of_a_living_daemon_is_not_taken_over(gpud: Gpud, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "api.sock"))
        living.listen()
        path = tmp_path / "gpud.toml"
        path.write_text(f'[server]\nlisten = "127.0.0.1:0"\n[paths]\nrun_dir = "{tmp_path}"\n')
        ran = gpud("serve", "--config", str(path), "--supervise")
    assert ran.code == exits.FAILED
    assert "Another gpud may run" in ran.err


def test_a_socket_that_the_daemon_opened_itself_refuses_nobody_over_a_restart(tmp_path: Path) -> None:
    supervised = _Supervised(tmp_path, _OPENS_ITS_OWN)
    try:
        port = supervised.say("die")
        with socket.create_connection(("127.0.0.1", port)):  # nobody accepts just now, and nobody refuses
            assert supervised.say("hello") == port
            assert supervised.say("die") == port
            assert supervised.say("hello") == port
    finally:
        supervised.process.terminate()
        supervised.ended()

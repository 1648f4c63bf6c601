from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.systemd import ServiceNotifier, credential_path, inherited_sockets
from gpud.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
PID = os.getpid()


class Manager:
    """The service manager's end: a datagram socket, on a path or an abstract name."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self.socket.settimeout(5)
        self.environ = {"NOTIFY_SOCKET": address}

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@gpud-test-{secrets.token_hex(8)}"
    manager = Manager(address)
    yield manager
    manager.socket.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[ServiceNotifier]:
    notifier = ServiceNotifier(manager.environ, pid=PID)
    yield notifier
    notifier.close()


def test_ready_carries_a_status(manager: Manager, notifier: ServiceNotifier) -> None:
    notifier.ready("Serving 3 endpoints.")
    assert manager.heard() == ["READY=1", "STATUS=Serving 3 endpoints."]


def test_each_message_is_one_datagram_in_order(manager: Manager, notifier: ServiceNotifier) -> None:
    notifier.extend_timeout(90)
    notifier.status("Migrating.")
    notifier.watchdog()
    notifier.stopping("Draining.")
    assert [manager.heard() for _ in range(4)] == [
        ["EXTEND_TIMEOUT_USEC=90000000"],
        ["STATUS=Migrating."],
        ["WATCHDOG=1"],
        ["STOPPING=1", "STATUS=Draining."],
    ]


def test_a_reload_says_when_it_began(manager: Manager, notifier: ServiceNotifier) -> None:
    notifier.reloading("Reading gpud.toml.")
    state, since, status = manager.heard()
    assert (state, status) == ("RELOADING=1", "STATUS=Reading gpud.toml.")
    assert int(since.removeprefix("MONOTONIC_USEC=")) > 0


def test_a_status_of_several_lines_cannot_say_anything_else(
    manager: Manager, notifier: ServiceNotifier
) -> None:
    notifier.status("Image x\nSTOPPING=1")
    assert manager.heard() == ["STATUS=Image x STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9"}])
def test_without_a_manager_it_is_silent(environ: dict[str, str]) -> None:
    notifier = ServiceNotifier(environ, pid=PID)
    notifier.ready("Serving.")
    notifier.watchdog()
    notifier.close()


def test_a_manager_that_went_away_is_logged_once_and_in_nobodys_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, pid=PID)
    notifier.watchdog()
    notifier.watchdog()
    notifier.close()
    said = capsys.readouterr()
    assert (said.out + said.err).count("service_manager.unreachable") == 1


def test_a_manager_that_does_not_listen_does_not_block(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = ServiceNotifier(manager.environ, pid=PID)
    for _ in range(10_000):  # far more than a socket buffer holds
        notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    notifier.close()
    manager.socket.close()


def test_after_close_nothing_is_said(manager: Manager, notifier: ServiceNotifier) -> None:
    notifier.close()
    notifier.watchdog()
    manager.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.heard()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_due_when_the_manager_says_so_to_this_process(
    environ: dict[str, str], watchdog_s: float | None
) -> None:
    assert ServiceNotifier(environ, pid=PID).watchdog_s == watchdog_s


def test_a_credential_is_found_only_where_the_manager_put_it(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_bytes(b"k" * 32)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credential_path(environ, "master.key") == tmp_path / "master.key"
    assert credential_path(environ, "other.key") is None
    assert credential_path({}, "master.key") is None


# Descriptors from 3 on are taken by whatever runs the tests, so a child gets the sockets.
CHILD = """
import os, socket, sys
from gpud.adapters.systemd import inherited_sockets
from gpud.errors import BadSettings
environ = dict(os.environ)
if environ.get("LISTEN_PID") == "mine":
    environ["LISTEN_PID"] = str(os.getpid())
try:
    taken = inherited_sockets(environ, pid=os.getpid())
except BadSettings as error:
    sys.exit("refused: " + error.detail)
for one in taken:
    print(one.getsockname(), one.getblocking(), os.get_inheritable(one.fileno()))
if taken:
    taken[0].setblocking(True)
    connection, _ = taken[0].accept()
    connection.sendall(b"hello from the child")
"""


def child(*passed: int, listen_pid: str = "mine", listen_fds: str | None = None) -> subprocess.Popen[str]:
    """Start the child with these descriptors from 3 on."""
    moves = "import os, sys\n"
    moves += "".join(f"os.dup2({fd}, {100 + index})\n" for index, fd in enumerate(passed))
    moves += "".join(f"os.dup2({100 + index}, {3 + index})\n" for index in range(len(passed)))
    moves += f"os.closerange({3 + len(passed)}, 200)\n"
    moves += "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\n"
    count = str(len(passed)) if listen_fds is None else listen_fds
    return subprocess.Popen(
        [sys.executable, "-c", moves, CHILD],
        cwd=ROOT,
        env={**os.environ, "LISTEN_PID": listen_pid, "LISTEN_FDS": count, "PYTHONPATH": str(ROOT)},
        pass_fds=passed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def tcp_and_unix(folder: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "api.sock"))
        unix.listen()
        yield tcp, unix


def test_sockets_passed_to_a_process_are_taken_in_order_and_serve(tmp_path: Path) -> None:
    with tcp_and_unix(tmp_path) as (tcp, unix):
        address = tcp.getsockname()
        # This connection is made before the process starts: it waits in the backlog, unrefused.
        with (
            socket.create_connection(address, timeout=20) as waiting,
            child(tcp.fileno(), unix.fileno()) as process,
        ):
            assert waiting.recv(100) == b"hello from the child"
            said, _ = process.communicate(timeout=20)
        assert said.splitlines() == [f"{address} False False", f"{tmp_path / 'api.sock'} False False"]


def test_sockets_meant_for_another_process_are_left_alone(tmp_path: Path) -> None:
    with tcp_and_unix(tmp_path) as (tcp, _), child(tcp.fileno(), listen_pid="1") as process:
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "2"}, {"LISTEN_PID": str(PID + 1), "LISTEN_FDS": "2"}]
)
def test_without_a_word_for_this_process_there_are_none(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ, pid=PID) == ()


@pytest.mark.parametrize("count", ["", "-1", "many"])
def test_a_count_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(BadSettings, match="LISTEN_FDS"):
        inherited_sockets({"LISTEN_PID": str(PID), "LISTEN_FDS": count}, pid=PID)


@pytest.mark.parametrize("kind", ["file", "connection", "datagram", "closed"])
def test_anything_but_a_listening_stream_socket_is_refused(kind: str, tmp_path: Path) -> None:
    one, other = socket.socketpair()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with (tmp_path / "file").open("w") as file, one, other, datagram:
        passed = {"file": [file.fileno()], "connection": [one.fileno()], "datagram": [datagram.fileno()]}
        with child(*passed.get(kind, []), listen_fds="1") as process:
            _, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert complaint.startswith("refused: File descriptor 3, passed by LISTEN_FDS")


def test_a_socket_is_given_to_the_manager_under_its_name_in_place_of_an_earlier_one(
    manager: Manager, notifier: ServiceNotifier
) -> None:
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        notifier.keep_socket(kept, "workers")
        assert manager.heard() == ["FDSTOREREMOVE=1", "FDNAME=workers"]
        said, descriptors, _flags, _address = socket.recv_fds(manager.socket, 4096, 2)
        assert said == b"FDSTORE=1\nFDNAME=workers"
        with socket.socket(fileno=descriptors[0]) as held:
            assert held.getsockname() == kept.getsockname()

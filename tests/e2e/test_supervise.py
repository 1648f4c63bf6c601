"""`gpud serve --supervise`: a parent that holds the sockets while the daemon ends and starts again."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import as_toml, free_port
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
REQUEST = b"GET /livez HTTP/1.1\r\nHost: gpud\r\nConnection: close\r\n\r\n"


class Supervised:
    """A supervisor and its daemon, without an engine: the daemon runs while Docker is down."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gpud-sup-"))
        self.port = free_port()
        self.socket_path = self.folder / "run/api.sock"
        self.log_path = self.folder / "log"
        self.config = self.folder / "gpud.toml"
        settings: dict[str, dict[str, object]] = {
            "server": {"listen": f"127.0.0.1:{self.port}", "shutdown_timeout_s": 1},
            "paths": {"data_dir": str(self.folder / "data"), "run_dir": str(self.folder / "run")},
            "docker": {"host": f"unix://{self.folder}/no-engine.sock"},
            "gpus": {"source": "none"},
        }
        self.config.write_text(as_toml(settings))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gpud", "serve", "--supervise", "--config", str(self.config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def daemon_pid(self) -> int:
        """Of the daemon that runs now; 0 when none does."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def live(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    supervised = Supervised()
    yield supervised
    supervised.clean_up()


def answered(connection: socket.socket) -> bytes:
    connection.sendall(REQUEST)
    said = b""
    while part := connection.recv(4096):
        said += part
    return said.partition(b"\r\n")[0]


def test_a_daemon_that_is_killed_is_started_again_and_no_connection_is_refused(
    supervised: Supervised,
) -> None:
    supervised.start()
    until(supervised.live, what="the daemon is live")
    killed = supervised.daemon_pid()
    stop, refused, made = threading.Event(), [], []

    def knock() -> None:
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", supervised.port), timeout=20):
                    made.append(True)
            except OSError as error:
                refused.append(error)
            stop.wait(0.005)

    knocking = threading.Thread(target=knock)
    knocking.start()
    os.kill(killed, signal.SIGKILL)
    with socket.create_connection(("127.0.0.1", supervised.port), timeout=20) as waiting:
        assert answered(waiting) == b"HTTP/1.1 200 OK"
    stop.set()
    knocking.join()
    assert refused == []
    assert made
    assert supervised.daemon_pid() not in (0, killed)


def test_the_api_socket_outlives_the_daemon_too(supervised: Supervised) -> None:
    supervised.start()
    until(supervised.live, what="the daemon is live")
    os.kill(supervised.daemon_pid(), signal.SIGKILL)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.settimeout(20)
        waiting.connect(str(supervised.socket_path))
        assert answered(waiting) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_daemons_clean_exit_and_leaves_no_socket(
    supervised: Supervised, number: signal.Signals
) -> None:
    process = supervised.start()
    until(supervised.live, what="the daemon is live")
    daemon = supervised.daemon_pid()
    process.send_signal(number)
    assert process.wait(20) == 0
    assert not Path(f"/proc/{daemon}").exists()
    assert not supervised.socket_path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", supervised.port), timeout=5)


def test_settings_that_cannot_be_used_end_it_at_once(supervised: Supervised) -> None:
    supervised.config.write_text("[server]\nlisen = '127.0.0.1:1'\n")
    assert supervised.start().wait(20) == 2
    assert "server.lisen: unknown setting" in supervised.log_path.read_text()


def test_an_address_that_is_taken_ends_it_at_once(supervised: Supervised) -> None:
    with socket.create_server(("127.0.0.1", supervised.port)):
        assert supervised.start().wait(20) != 0
    assert f"Cannot listen on 127.0.0.1:{supervised.port}" in supervised.log_path.read_text()

"""The daemon as a service: what it tells the service manager, and what signals do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.e2e.daemon import as_toml
from tests.e2e.waiting import until
from tests.fakes.certificates import write_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = [pytest.mark.e2e, pytest.mark.engine]


class Manager:
    """Hears what a daemon tells its service manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0)
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._heard += self._socket.recv(4096).decode().splitlines()
        return self._heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify.sock")
    yield manager
    manager.close()


def test_the_service_manager_hears_ready_progress_and_the_end(
    start_daemon: DaemonStarter, manager: Manager
) -> None:
    daemon = start_daemon(env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "800000"})
    until(lambda: "READY=1" in manager.heard(), what="READY=1")
    until(lambda: manager.heard().count("WATCHDOG=1") >= 3, what="three signs of progress")
    assert daemon.terminate() == 0
    assert "STOPPING=1" in manager.heard()


def test_a_stopped_loop_feeds_no_watchdog(start_daemon: DaemonStarter, manager: Manager) -> None:
    daemon = start_daemon(env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "800000"})
    until(lambda: "WATCHDOG=1" in manager.heard(), what="a sign of progress")
    os.kill(daemon.pid, signal.SIGSTOP)
    before = len(manager.heard())
    # A watchdog's time without a word: what a manager would kill the daemon for.
    with pytest.raises(AssertionError):
        until(lambda: len(manager.heard()) > before, what="a word of a stopped daemon", within_s=0.8)
    os.kill(daemon.pid, signal.SIGCONT)
    until(lambda: len(manager.heard()) > before, what="progress again")


def test_sighup_checks_the_file_and_ends_nothing(start_daemon: DaemonStarter) -> None:
    daemon = start_daemon()
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: daemon.log_lines("settings.unchanged"), what="the file was checked")
    daemon.config.write_text(as_toml(daemon.settings | {"prices": {"gpu_hour_micros": 1}}))
    os.kill(daemon.pid, signal.SIGHUP)
    told = until(lambda: daemon.log_lines("settings.need_restart"), what="a restart is asked for")
    assert told[0]["sections"] == ["prices"]
    daemon.config.write_text("[nonsense")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: daemon.log_lines("settings.refused"), what="the broken file was refused")
    assert daemon.api("GET", "/livez").status == 200


def test_a_new_certificate_is_taken_without_a_restart(start_daemon: DaemonStarter, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "old.test")
    daemon = start_daemon(settings={"server": {"tls_cert": str(certificate), "tls_key": str(key)}})
    assert _shown(daemon) == "CN=old.test"

    certificate.write_text("no certificate")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: daemon.log_lines("certificate.refused"), what="the broken file was refused")
    assert _shown(daemon) == "CN=old.test"

    write_certificate(tmp_path, "new.test")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: _shown(daemon) == "CN=new.test", what="the new certificate was taken on SIGHUP")

    write_certificate(tmp_path, "newest.test")
    until(lambda: _shown(daemon) == "CN=newest.test", what="the newest one was noticed", within_s=30)


def _shown(daemon: DaemonProcess) -> str:
    shown = ssl.get_server_certificate(("127.0.0.1", daemon.port))
    return x509.load_pem_x509_certificate(shown.encode()).subject.rfc4514_string()

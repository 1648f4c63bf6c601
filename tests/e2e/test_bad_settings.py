"""A daemon that cannot start says in one sentence why, and touches nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.daemon import as_toml, static_gpus, worker_spec

if TYPE_CHECKING:
    from tests.e2e.conftest import DaemonStarter
    from tests.e2e.daemon import DaemonProcess

pytestmark = pytest.mark.e2e

_TWINS = [{"uuid": "GPU-twin"}, {"uuid": "GPU-twin"}]
_BROKEN = {
    "no TOML": ("[server\nlisten = 1", ["is not valid TOML", "line 1"]),
    "an unknown section": ("[sever]\nlisten = '127.0.0.1:1'", ["sever: unknown setting"]),
    "an unknown setting": ("[server]\nlitsen = '127.0.0.1:1'", ["server.litsen: unknown setting"]),
    "a wrong type": ("[docker]\nparallel_starts = 'many'", ["docker.parallel_starts", "integer"]),
    "out of bounds": (
        "[docker]\ncall_timeout_s = 0",
        ["docker.call_timeout_s", "greater than or equal to 1"],
    ),
    "no such choice": ("[gpus]\nsource = 'amd'", ["gpus.source", "'nvml'"]),
    "no address": ("[server]\nlisten = 'everywhere'", ["server.listen"]),
    "a certificate without its key": ("[server]\ntls_cert = '/tmp/c.pem'", ["set both"]),
    "an open address": ("[server]\nlisten = '0.0.0.0:8700'", ["reachable from other machines", "insecure"]),
    "static without GPUs": ("[gpus]\nsource = 'static'", ["gpus.source is 'static' but no [[gpus.static]]"]),
    "twin GPUs": (as_toml({"gpus": {"static": _TWINS}}), ["two GPUs have the same uuid"]),
    "two faults": ("[server]\nx = 1\n[log]\ny = 2", ["server.x", "log.y"]),
}


def _assert_ends(daemon: DaemonProcess, *, code: int, says: list[str]) -> None:
    daemon.start(wait="")
    assert daemon.exit_code() == code, daemon.log_text()
    told = " ".join(daemon.log_text().split())
    for words in says:
        assert words in told, told
    assert "Traceback" not in told


@pytest.mark.parametrize("kind", _BROKEN)
def test_a_broken_settings_file_is_refused_with_file_and_field(
    start_daemon: DaemonStarter, kind: str
) -> None:
    text, says = _BROKEN[kind]
    daemon = start_daemon(wait="")
    daemon.config.write_text(text)
    _assert_ends(daemon, code=2, says=[str(daemon.config), *says])
    assert not daemon.data_dir.exists()


def test_a_settings_file_that_is_missing_or_no_text_is_named(start_daemon: DaemonStarter) -> None:
    missing, binary = start_daemon(wait=""), start_daemon(wait="")
    missing.config.unlink()
    _assert_ends(missing, code=2, says=[f"{missing.config} does not exist", "--config"])
    binary.config.write_bytes(b"\xff\xfe\x00")
    _assert_ends(binary, code=2, says=[f"{binary.config} cannot be read"])


def test_a_second_daemon_on_the_same_data_is_refused_and_the_first_serves_on(
    start_daemon: DaemonStarter, worker_image: str
) -> None:
    first = start_daemon(settings=static_gpus(1))
    first.deploy(worker_spec("hello", worker_image))
    assert first.call("hello").status == 200
    second = start_daemon(wait="", settings=static_gpus(1), data_dir=first.data_dir)
    _assert_ends(second, code=1, says=[str(first.data_dir), "Another gpud", "paths.data_dir"])
    again = first.call("hello")
    assert (again.status, again.headers["x-gpud-cold-start"]) == (200, "false")


def test_a_port_in_use_is_refused_by_name(start_daemon: DaemonStarter) -> None:
    daemon = start_daemon(wait="")
    with socket.create_server(("127.0.0.1", daemon.port)):
        says = [f"Cannot listen on 127.0.0.1:{daemon.port}", "in use", "server.listen"]
        _assert_ends(daemon, code=2, says=says)
    daemon.start()
    assert daemon.get("/v1/system")["ready"] is True


def test_a_network_that_lets_workers_meet_is_refused(start_daemon: DaemonStarter) -> None:
    daemon = start_daemon(wait="")
    daemon.engine.client.networks.create(daemon.network, driver="bridge")
    _assert_ends(daemon, code=2, says=[f"network {daemon.network}", "docker network rm"])


def test_a_data_folder_that_cannot_be_made_is_named(start_daemon: DaemonStarter) -> None:
    daemon = start_daemon(wait="")
    daemon.data_dir.write_text("a file")
    _assert_ends(daemon, code=1, says=[str(daemon.data_dir), "paths.data_dir"])

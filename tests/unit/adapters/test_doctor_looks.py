"""The doctor's eyes, on real files, locks and sockets."""

from __future__ import annotations

import datetime as dt
import os
import socket
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gpud.adapters.box_look import look_at_clock, look_at_disk, look_at_kernel, look_at_limits, look_at_port
from gpud.adapters.engine_look import look_at_engine, look_at_toolkit
from gpud.adapters.install_look import lock_holder, look_at_certificate, look_at_data, processes_of
from gpud.adapters.sqlite.datadir import LOCK_NAME, claim
from gpud.adapters.sqlite.migrate import APPLICATION_ID
from gpud.core.doctor.gpus import GpuLook, NvmlLook
from gpud.core.gpu import GpuAttach
from gpud.settings import DockerSettings, GpuSettings, ServerSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_the_holder_of_a_data_directory_is_found_without_touching_the_lock(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / LOCK_NAME) == 0
    held = claim(tmp_path)
    assert lock_holder(tmp_path / LOCK_NAME) == os.getpid()
    held.release()
    assert lock_holder(tmp_path / LOCK_NAME) == 0


def test_a_kernel_that_does_not_show_its_locks_leaves_the_holder_unknown(tmp_path: Path) -> None:
    claim(tmp_path).release()
    assert lock_holder(tmp_path / LOCK_NAME, locks=tmp_path / "none") is None


def test_a_data_directory_is_seen_as_it_is(tmp_path: Path) -> None:
    assert not look_at_data(tmp_path / "none").exists
    with sqlite3.connect(tmp_path / "gpud.db") as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 7")
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    (tmp_path / "master.key").write_bytes(b"k" * 32)
    (tmp_path / "master.key").chmod(0o640)
    seen = look_at_data(tmp_path)
    assert (seen.readable, seen.has_database, seen.schema) == (True, True, 7)
    assert (seen.key_mode, seen.key_bytes, seen.owner_differs) == (0o640, 32, "")


def test_a_key_that_the_service_hands_over_is_looked_at_where_it_is_kept(tmp_path: Path) -> None:
    key = tmp_path / "elsewhere.key"
    (tmp_path / "data").mkdir()
    assert look_at_data(tmp_path / "data", service_key=key).key_mode is None
    key.write_bytes(b"k" * 32)
    key.chmod(0o604)
    seen = look_at_data(tmp_path / "data", service_key=key)
    assert (seen.key_path, seen.key_mode, seen.key_bytes) == (str(key), 0o604, 32)


def test_a_foreign_file_has_no_schema(tmp_path: Path) -> None:
    (tmp_path / "gpud.db").write_bytes(b"x" * 4096)
    assert look_at_data(tmp_path).schema is None


def test_a_disk_is_measured_where_it_may_be_written_and_left_as_it_was(tmp_path: Path) -> None:
    seen = look_at_disk(tmp_path, try_writing=True)
    assert seen.writable_error == ""
    assert seen.sync_s is not None
    assert 0 < seen.free_bytes <= seen.total_bytes
    assert list(tmp_path.iterdir()) == []
    above = look_at_disk(tmp_path / "a/b", try_writing=True)
    assert (above.path, above.missing, above.writable_error) == (str(tmp_path), True, None)


def test_a_clock_that_went_back_shows_in_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gpud.db-wal"
    path.touch()
    os.utime(path, (time.time() + 500,) * 2)
    assert 400 < look_at_clock(path).newest_ahead_s < 600
    assert look_at_clock(None).newest_ahead_s == 0


def test_limits_are_the_daemons_where_it_runs() -> None:
    mine = look_at_limits(os.getpid())
    assert mine.is_daemon
    assert mine.soft > 0
    assert not look_at_limits(0).is_daemon


def test_the_kernel_is_told_with_its_control_groups() -> None:
    seen = look_at_kernel(0, engine_is_local=True)
    assert seen.release == os.uname().release
    assert seen.cgroups in (0, 1, 2)
    assert [tool for tool, _why in seen.checkpoint_obstacles] == ["criu", "cuda-checkpoint"]


def test_a_port_is_free_ours_or_anothers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"127.0.0.1:{server.getsockname()[1]}"
        taken = look_at_port(listen, ours=frozenset(), address="")
        ours = look_at_port(listen, ours=processes_of(os.getpid()), address="")
    assert (taken.taken, taken.ours) == (True, False)
    assert f"process {os.getpid()}" in taken.holder
    assert (ours.taken, ours.ours) == (True, True)
    assert not look_at_port(listen, ours=frozenset(), address="").taken
    assert look_at_port("203.0.113.7:8700", ours=frozenset(), address="").error


def test_an_engine_that_is_not_there_is_said_in_the_daemons_words(tmp_path: Path) -> None:
    settings = Settings(docker=DockerSettings(host=f"unix://{tmp_path}/docker.sock"))
    look, seen = look_at_engine(settings)
    assert seen is None
    assert "its socket does not exist" in look.error


def test_cdi_descriptions_tell_for_which_driver_they_were_made(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text("kind: nvidia.com/gpu\n- /usr/lib/libcuda.so.570.86.10\n")
    (tmp_path / "other.json").write_text('{"kind": "vendor.com/nic"}')
    nvml = NvmlLook(source="auto", driver="570.86.10", gpus=(GpuLook(index=0),))
    settings = Settings(gpus=GpuSettings(attach=GpuAttach.CDI))
    look = look_at_toolkit(settings, None, nvml, folders=(tmp_path, tmp_path / "none"), devices=tmp_path)
    assert look.specs == (str(tmp_path / "nvidia.yaml"),)
    assert look.spec_drivers == ("570.86.10",)
    assert (look.attach, look.gpus, look.char_links) == (GpuAttach.CDI, True, None)


def _certificate(folder: Path, days: int) -> Settings:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "box")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=100))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    (folder / "key.pem").chmod(0o600)
    return Settings(server=ServerSettings(tls_cert=str(folder / "cert.pem"), tls_key=str(folder / "key.pem")))


@pytest.mark.parametrize("days", [90, -3])
def test_a_certificate_says_whose_it_is_and_how_long_it_holds(tmp_path: Path, days: int) -> None:
    seen = look_at_certificate(_certificate(tmp_path, days))
    assert (seen.error, seen.subject, seen.key_mode) == ("", "CN=box", 0o600)
    assert abs(seen.expires_in_s - days * 86_400) < 3600


def test_a_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    settings = _certificate(tmp_path, 90)
    key = (tmp_path / "key.pem").read_bytes()
    _certificate(tmp_path, 90)
    (tmp_path / "key.pem").write_bytes(key)
    assert look_at_certificate(settings).error
    (tmp_path / "key.pem").unlink()
    assert "No such file" in look_at_certificate(settings).error


def test_the_supervisor_of_a_daemon_is_one_of_its_processes() -> None:
    assert processes_of(os.getpid()) == {os.getpid(), os.getppid()}
    assert processes_of(0) == frozenset()

"""What is said of settings, data directory, keys, certificate and port."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpud.core.doctor.findings import Verdict
from gpud.core.doctor.install import (
    DaemonLook,
    DataLook,
    PortLook,
    SettingsLook,
    TlsLook,
    VersionsLook,
    check_daemon,
    check_data,
    check_key_file,
    check_port,
    check_settings,
    check_tls,
    check_versions,
)

_UP = DaemonLook(socket="/run/gpud/api.sock", answers=True, version="1.0")
_DOWN = DaemonLook(socket="/run/gpud/api.sock", error="gpud is not running")
_DATA = DataLook(
    path="/var/lib/gpud",
    exists=True,
    readable=True,
    mode=0o700,
    holder=812,
    has_database=True,
    schema=10,
    schema_known=10,
    key_path="/var/lib/gpud/master.key",
    key_mode=0o600,
    key_bytes=32,
)
_DAY_S = 86_400.0
_TLS = TlsLook(certificate="/c.pem", key="/k.pem", subject="CN=box", expires_in_s=80 * _DAY_S, key_mode=0o640)


def test_a_known_fault_of_sqlite_is_a_warning() -> None:
    look = VersionsLook(gpud="1.0", python="3.11.7", sqlite="3.40.1")
    assert check_versions(look).verdict is Verdict.OK
    assert check_versions(replace(look, sqlite_warning="It has a fault.")).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("look", "verdict"),
    [
        (SettingsLook(), Verdict.OK),
        (SettingsLook(path="/etc/gpud/gpud.toml"), Verdict.OK),
        (SettingsLook(path="/etc/gpud/gpud.toml", error="line 3"), Verdict.FAILED),
        (SettingsLook(path="/etc/gpud/gpud.toml", changed=("server",)), Verdict.WARNING),
    ],
)
def test_settings_must_be_valid_and_should_be_those_in_force(look: SettingsLook, verdict: Verdict) -> None:
    assert check_settings(look).verdict is verdict


@pytest.mark.parametrize(
    ("look", "verdicts"),
    [
        (_UP, [Verdict.OK]),
        (replace(_UP, version="0.9"), [Verdict.WARNING]),
        (replace(_UP, faults=(("engine", "Docker is away."),)), [Verdict.OK, Verdict.FAILED]),
        (_DOWN, [Verdict.SKIPPED]),
        (replace(_DOWN, denied=True), [Verdict.SKIPPED]),
    ],
)
def test_a_daemon_that_does_not_run_is_no_fault_and_one_that_is_unwell_is(
    look: DaemonLook, verdicts: list[Verdict]
) -> None:
    assert [finding.verdict for finding in check_daemon(look, own_version="1.0")] == verdicts


@pytest.mark.parametrize(
    ("change", "daemon", "verdict", "word"),
    [
        ({}, _UP, Verdict.OK, ""),
        ({"holder": 0}, _DOWN, Verdict.OK, ""),
        ({"holder": None}, _UP, Verdict.OK, ""),
        ({"exists": False}, _DOWN, Verdict.OK, ""),
        ({"readable": False}, _DOWN, Verdict.SKIPPED, "as root"),
        ({"schema": 11}, _DOWN, Verdict.FAILED, "Install that version"),
        ({}, _DOWN, Verdict.FAILED, "ps -fp 812"),
        ({}, replace(_DOWN, denied=True), Verdict.OK, ""),
        ({"holder": 0}, _UP, Verdict.WARNING, "--config"),
        ({"owner_differs": "gpud.db belongs to user 0"}, _UP, Verdict.FAILED, "chown"),
        ({"mode": 0o755}, _UP, Verdict.WARNING, "chmod 700"),
        ({"restore_pending": True, "holder": 0}, _DOWN, Verdict.WARNING, "Start the daemon"),
    ],
)
def test_the_data_directory_belongs_to_one_daemon_and_to_nobody_else(
    change: dict[str, object], daemon: DaemonLook, verdict: Verdict, word: str
) -> None:
    finding = check_data(replace(_DATA, **change), daemon)  # type: ignore[arg-type]
    assert finding.verdict is verdict
    assert word in finding.todo


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, Verdict.OK),
        ({"key_mode": None}, Verdict.OK),
        ({"key_mode": None, "has_database": False}, Verdict.OK),
        ({"key_bytes": 64}, Verdict.OK),
        ({"key_bytes": 7}, Verdict.FAILED),
        ({"key_mode": 0o644}, Verdict.FAILED),
        ({"readable": False}, Verdict.SKIPPED),
    ],
)
def test_the_master_key_is_whole_and_closed_to_others(change: dict[str, object], verdict: Verdict) -> None:
    assert check_key_file(replace(_DATA, **change)).verdict is verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("look", "verdict"),
    [
        (TlsLook(), Verdict.SKIPPED),
        (_TLS, Verdict.OK),
        (replace(_TLS, error="key does not match"), Verdict.FAILED),
        (replace(_TLS, expires_in_s=-_DAY_S), Verdict.FAILED),
        (replace(_TLS, expires_in_s=9 * _DAY_S), Verdict.WARNING),
        (replace(_TLS, key_mode=0o644), Verdict.WARNING),
    ],
)
def test_a_certificate_is_valid_for_a_while_and_its_key_is_closed(look: TlsLook, verdict: Verdict) -> None:
    assert check_tls(look).verdict is verdict


@pytest.mark.parametrize(
    ("look", "verdict", "word"),
    [
        (PortLook(listen="127.0.0.1:8700"), Verdict.OK, "free"),
        (PortLook(listen="127.0.0.1:8700", taken=True, ours=True, holder="gpud"), Verdict.OK, "gpud"),
        (PortLook(listen="127.0.0.1:8700", taken=True, holder="nginx"), Verdict.FAILED, "nginx"),
        (PortLook(listen="10.9.9.9:8700", error="Cannot assign"), Verdict.FAILED, "Cannot assign"),
    ],
)
def test_the_port_is_free_or_gpuds_own(look: PortLook, verdict: Verdict, word: str) -> None:
    finding = check_port(look)
    assert finding.verdict is verdict
    assert word in finding.found

"""What `gpud doctor` prints, with a daemon and without one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gpud import __version__
from gpud.cli import exits
from gpud.core.doctor.findings import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from gpud.settings import Settings
    from tests.unit.cli.canned import CannedDaemon
    from tests.unit.cli.conftest import Gpud


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gpud.toml"
    path.write_text(
        f'[paths]\ndata_dir = "{tmp_path}/data"\nrun_dir = "{tmp_path}/run"\n'
        f'[docker]\nhost = "unix://{tmp_path}/docker.sock"\n'
        '[server]\nlisten = "127.0.0.1:0"\n[gpus]\nsource = "none"\n'
    )
    return path


def _answers(daemon: CannedDaemon, settings: Settings) -> None:
    system = {"version": __version__, "ready": False, "parts": {"store": "", "engine": "Docker is away."}}
    daemon.on("GET", "/v1/system", system)
    daemon.on("GET", "/v1/settings", json.loads(settings.model_dump_json()))
    daemon.lists("/v1/gpus")


def test_without_a_daemon_the_box_is_examined_by_the_file(
    gpud: Gpud, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPUD_SOCKET", raising=False)
    ran = gpud("doctor", "--config", str(config), "--json")
    told = json.loads(ran.out)
    checks = {check["check"]: check for check in told["checks"]}
    assert (ran.code, told["ok"]) == (exits.FAILED, False)
    assert checks["engine"]["verdict"] == "failed"
    assert checks["settings"]["verdict"] == "ok"
    assert checks["daemon"]["verdict"] == "skipped"
    assert str(config.parent / "run/api.sock") in checks["daemon"]["found"]
    assert told["counts"] == {
        verdict.value: sum(check["verdict"] == verdict for check in told["checks"]) for verdict in Verdict
    }
    assert all(
        check["why"] and check["todo"]
        for check in told["checks"]
        if check["verdict"] in ("warning", "failed")
    )


def test_with_a_daemon_its_settings_count_and_its_faults_are_told(
    gpud: Gpud, config: Path, daemon: CannedDaemon
) -> None:
    from gpud.settings import load_settings  # noqa: PLC0415

    running = load_settings(config)
    running = running.model_copy(update={"docker": running.docker.model_copy(update={"network": "other"})})
    _answers(daemon, running)
    ran = gpud("doctor", "--config", str(config))
    assert ran.code == exits.FAILED
    assert "Docker is away." in ran.out
    assert "other settings in docker" in ran.out
    assert f"version {__version__} answers at" in ran.out
    assert ran.out.rstrip().endswith("skipped")
    assert not any(line != line.rstrip() for line in ran.out.splitlines())


def test_a_broken_file_is_one_finding_among_the_others(gpud: Gpud, config: Path) -> None:
    config.write_text('[server]\nlisten = "nowhere"\n')
    ran = gpud("doctor", "--config", str(config), "--brief", "--socket", str(config.parent / "none.sock"))
    assert ran.code == exits.FAILED
    assert "must be host:port" in ran.out
    assert " ok " not in ran.out.rsplit("\n", 2)[0]

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gpud.cli import exits
from gpud.settings import Settings

ROOT = Path(__file__).parents[2]
SERVICE, SOCKET = ROOT / "config/gpud.service", ROOT / "config/gpud.socket"
EXPOSURE_MAX = 1.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def values(path: Path, section: str, key: str) -> list[str]:
    """Every value of a key: unit files repeat keys."""
    text = path.read_text(encoding="utf-8")
    body = text[text.index(f"[{section}]") + len(section) + 2 :].partition("\n[")[0]
    return re.findall(rf"^{key}=(.*)$", body, flags=re.MULTILINE)


def analyze(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr


@needs_systemd
def test_the_units_are_ones_systemd_can_load(tmp_path: Path) -> None:
    service = SERVICE.read_text(encoding="utf-8").replace("/opt/gpud/bin/gpud", "/bin/true")
    (tmp_path / SERVICE.name).write_text(service, encoding="utf-8")
    shutil.copy(SOCKET, tmp_path)
    assert analyze("verify", str(tmp_path / SERVICE.name), str(tmp_path / SOCKET.name)) == ""


@needs_systemd
def test_the_service_is_no_more_exposed_than_its_page_says() -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(SERVICE))
    exposure = re.search(r"Overall exposure level for gpud.service: ([0-9.]+)", said)
    assert exposure is not None
    assert float(exposure[1]) <= EXPOSURE_MAX
    assert f"{EXPOSURE_MAX} (OK)" in (ROOT / "docs/howto/systemd.md").read_text(encoding="utf-8")


def test_the_sockets_address_is_the_settings_default() -> None:
    assert values(SOCKET, "Socket", "ListenStream") == [Settings().server.listen]


def test_the_units_folders_are_the_settings_defaults() -> None:
    paths = Settings().paths
    assert values(SERVICE, "Service", "StateDirectory") == [str(paths.data_dir.relative_to("/var/lib"))]
    assert values(SERVICE, "Service", "RuntimeDirectory") == [str(paths.run_dir.relative_to("/run"))]


def test_stopping_may_take_longer_than_the_daemon_waits_for_requests() -> None:
    (stop_s,) = values(SERVICE, "Service", "TimeoutStopSec")
    assert float(stop_s) >= Settings().server.shutdown_timeout_s + 30


def test_settings_that_cannot_be_used_are_not_tried_again() -> None:
    assert values(SERVICE, "Service", "RestartPreventExitStatus") == [str(exits.BAD_USAGE)]

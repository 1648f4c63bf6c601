"""The wheel and the sdist hold all that gpud needs: built once, installed, run away from the sources."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import venv
from pathlib import Path

import pytest

from tests.e2e.daemon import as_toml, free_port, static_gpus
from tests.e2e.waiting import until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(240)  # Compiling, two builds and an installation on a busy machine.


class Installed:
    """gpud from the wheel, in an environment of its own, with the dependencies of this one."""

    def __init__(self, folder: Path) -> None:
        self.dist = folder / "dist"
        _passes(ROOT / "scripts" / "build-packages", self.dist, cwd=ROOT)
        self.home = folder / "home"
        self.home.mkdir()
        self.prefix = folder / "venv"
        venv.create(self.prefix, with_pip=False, symlinks=True)
        self.site = Path(
            self.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        )
        # A folder named so is searched, but path files in it are not read: the source tree stays out.
        (self.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (wheel,) = self.dist.glob("*.whl")
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.prefix / "bin" / "python",
            "install",
        ]
        _passes(*pip, "--quiet", "--no-index", "--no-deps", wheel, cwd=self.home)

    def run(self, program: str, *words: str) -> str:
        return _passes(self.prefix / "bin" / program, *words, cwd=self.home)


def _passes(*words: str | Path, cwd: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        words, cwd=cwd, env=outside, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("packages"))


def test_the_wheel_runs_away_from_the_source_tree(installed: Installed, tmp_path: Path) -> None:
    where = installed.run("python", "-c", "import gpud; print(gpud.__file__)")
    assert where.startswith(str(installed.site))
    assert "gpud COMMAND" in installed.run("gpud", "--help")
    assert "complete -F" in installed.run("gpud", "completion", "bash")

    port = free_port()
    settings = static_gpus(2) | {
        "server": {"listen": f"127.0.0.1:{port}"},
        "paths": {"data_dir": str(tmp_path / "data"), "run_dir": str(tmp_path / "run")},
        "docker": {"host": f"unix://{tmp_path}/no-engine.sock"},
    }
    (tmp_path / "gpud.toml").write_text(as_toml(settings))
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [installed.prefix / "bin" / "gpud", "serve", "--config", tmp_path / "gpud.toml"],
            cwd=installed.home,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: _page(port, "/livez"), what="the daemon answers", within_s=60)
        socket = f"--socket={tmp_path}/run/api.sock"
        gpus = json.loads(installed.run("gpud", socket, "gpu", "ls", "--json"))
        assert [gpu["uuid"] for gpu in gpus["items"]] == ["GPU-static-0", "GPU-static-1"]
        assert "/v1/endpoints" in _page(port, "/docs")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=60) == 0, (tmp_path / "log").read_text()
    finally:
        daemon.kill()
        daemon.wait()


def test_the_wheel_holds_every_file_of_the_package_and_the_shim(installed: Installed) -> None:
    listed = subprocess.run(["git", "ls-files", "gpud"], cwd=ROOT, capture_output=True, text=True, check=True)
    missing = [name for name in listed.stdout.splitlines() if not (installed.site / name).is_file()]
    assert not missing
    shim = installed.site / "gpud" / "shim" / f"gpud-shim-{platform.machine()}"
    assert os.access(shim, os.X_OK)
    assert (installed.prefix / "share" / "gpud" / "gpud.service").is_file()


def test_the_sdist_holds_sources_and_nothing_compiled(installed: Installed) -> None:
    (sdist,) = installed.dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"gpud/shim/shim.c", "scripts/build-shim", "gpud.toml", "config/gpud.service", "LICENSE"} <= names
    assert not [name for name in names if "gpud-shim-" in name or "__pycache__" in name]


def _page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""

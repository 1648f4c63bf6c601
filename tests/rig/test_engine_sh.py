"""Does the scripts' shell library say nothing when all is in place, and plainly what is wrong else?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.engine import engine_obstacle

if TYPE_CHECKING:
    from tests.rig.engine import Engine
    from tests.rig.fixtures import ContainerStarter

LIBRARY = Path(__file__).parents[2] / "scripts/lib/engine.sh"


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that has sourced the library, with the options that all scripts set."""
    return subprocess.run(
        ["bash", "-c", f'set -euo pipefail\n. "$1"\n{script}', "bash", str(LIBRARY)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_packages_that_are_installed_are_passed_over_in_silence() -> None:
    done = run("need_packages bash coreutils")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.engine
def test_with_engine_and_base_image_in_place_nothing_is_said_or_done(engine: Engine, base_image: str) -> None:
    before = engine.client.images.get(base_image).id
    done = run("need_engine; need_base_image", **engine.env())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert engine.client.images.get(base_image).id == before


@pytest.mark.engine
def test_a_base_image_that_is_missing_is_imported(engine: Engine, base_image: str) -> None:
    name = "gpud/rig-base-test:1"
    done = run(f"need_base_archive; GPUD_BASE_IMAGE={name}; need_base_image", **engine.env())
    assert done.returncode == 0, done.stderr
    assert f"Importing the base image {name}" in done.stderr
    assert engine.client.images.get(name).attrs["Config"]["Cmd"] == ["python3"]
    engine.client.images.remove(name)
    assert base_image


@pytest.mark.engine
def test_the_base_image_has_a_whole_python(start_container: ContainerStarter, base_image: str) -> None:
    script = (
        "import asyncio, ctypes, http.server, sqlite3, ssl, zlib\n"
        "assert ssl.create_default_context().get_ca_certs(), 'no certificates'\n"
        "assert sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)\n"
        "assert ctypes.CDLL(None).getpid() == 1\n"
    )
    container = start_container(base_image, command=["python3", "-c", script])
    assert container.wait(timeout=20)["StatusCode"] == 0, container.logs().decode()


def test_a_named_engine_that_does_not_answer_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = run("need_engine", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1
    assert f"error: no Docker Engine answers at DOCKER_HOST=unix://{tmp_path}/none.sock" in done.stderr
    assert "unset DOCKER_HOST" in done.stderr


def test_an_engine_that_was_not_started_here_is_not_stopped(tmp_path: Path) -> None:
    (tmp_path / "dockerd.pid").write_text(str(os.getpid()))
    done = run("stop_engine", GPUD_ENGINE_RUN_DIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "dockerd.pid").exists()


def test_the_python_environment_is_made_once_for_each_state_of_the_lock_files(tmp_path: Path) -> None:
    lock = tmp_path / "requirements/base.lock"
    lock.parent.mkdir()
    lock.write_text("# nothing is needed\n")
    first = run("need_venv", GPUD_ROOT=str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert "Making a Python environment" in first.stderr
    again = run("need_venv", GPUD_ROOT=str(tmp_path))
    assert (again.returncode, again.stderr) == (0, "")
    lock.write_text("# nothing is needed still\n")
    changed = run("need_venv", GPUD_ROOT=str(tmp_path))
    assert "Installing the Python packages of requirements/base.lock" in changed.stderr
    python = tmp_path / ".venv/bin/python"
    shown = subprocess.run(
        [python, "-c", "import sys; print(sys.path)"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert f"'{tmp_path}'" in shown.stdout


def test_without_a_lock_file_it_says_so(tmp_path: Path) -> None:
    done = run("need_venv", GPUD_ROOT=str(tmp_path))
    assert done.returncode == 1
    assert "error: no lock file" in done.stderr


@pytest.mark.skipif(engine_obstacle() is not None, reason=str(engine_obstacle()))
def test_a_package_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    # apt-get is replaced for this one call: what matters is what becomes of its failure.
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("need_packages bash gpud-no-such-package", PATH=path)
    assert done.returncode == 1
    assert "Installing Debian packages: gpud-no-such-package\n" in done.stderr
    assert "Unable to locate package" in done.stderr
    assert "error: apt-get could not install gpud-no-such-package" in done.stderr

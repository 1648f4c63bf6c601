from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from gpud.adapters import checkpoint_tools
from gpud.adapters.checkpoint_tools import CheckpointSurvey, criu_obstacle, cuda_checkpoint_obstacle
from gpud.adapters.threads import Threads

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but what a test puts there, seen as root."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path


def _install(tools: Path, name: str, script: str) -> None:
    (tools / name).write_text(f"#!/bin/sh\n{script}\n")
    (tools / name).chmod(0o755)


def test_what_is_not_installed_is_said_so(tools: Path) -> None:
    assert list(tools.iterdir()) == []
    assert criu_obstacle() == "criu is not installed."
    assert "not installed" in cuda_checkpoint_obstacle()


def test_what_works_has_no_obstacle(tools: Path) -> None:
    _install(tools, "criu", '[ "$1" = check ] && echo "Looks good."')
    _install(tools, "cuda-checkpoint", "exit 0")
    assert criu_obstacle() == ""
    assert cuda_checkpoint_obstacle() == ""


def test_criu_that_is_there_and_fails_its_own_check_is_told_in_its_words(tools: Path) -> None:
    _install(tools, "criu", 'echo "Error (criu/vdso.c): vdso: Unexpected rt vDSO area bounds" >&2; exit 1')
    assert criu_obstacle() == (
        "`criu check` failed with code 1: Error (criu/vdso.c): vdso: Unexpected rt vDSO area bounds"
    )


def test_criu_needs_root(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tools, "criu", "exit 0")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in criu_obstacle()


def test_a_tool_of_another_machine_is_an_obstacle_and_no_crash(tools: Path) -> None:
    for name in ("criu", "cuda-checkpoint"):
        (tools / name).write_bytes(b"\x7fELF" + bytes(60))
        (tools / name).chmod(0o755)
    assert "cannot be run" in criu_obstacle()
    assert "cannot be run" in cuda_checkpoint_obstacle()


async def test_what_stands_in_the_way_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look(name: str) -> str:
        asked.append(name)
        return f"no {name}"

    tools = {name: partial(look, name) for name in ("criu", "other")}
    monkeypatch.setattr(checkpoint_tools, "_TOOLS", tools)
    threads = Threads(1)
    survey = CheckpointSurvey(threads)
    assert await survey.obstacles() == await survey.obstacles() == {"criu": "no criu", "other": "no other"}
    assert asked == ["criu", "other"]
    await threads.close()

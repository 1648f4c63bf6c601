"""A command that the engine never ran is told as that, also when the engine says nothing of it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gpud.adapters import docker_exec
from gpud.adapters.docker_exec import DockerExec
from gpud.errors import CommandNotStarted
from gpud.ports.execs import ExecRequest


class _NeverRun(DockerExec):
    async def _inspect(self) -> dict[str, Any] | None:
        return {"Pid": 0, "Running": False, "ExitCode": 126}


async def test_an_engine_that_keeps_quiet_about_a_command_that_never_ran_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(docker_exec, "_END_S_MAX", 0.05)
    running = _NeverRun(
        cast("Any", None),
        "c1",
        "e1",
        mark="m",
        reader=asyncio.StreamReader(),
        writer=cast("Any", None),
        tty=False,
    )
    with pytest.raises(CommandNotStarted, match="The engine said: nothing"):
        await running.begin(ExecRequest(command=("x",), tty=False, rows=24, cols=80))

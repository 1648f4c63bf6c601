"""Says whether this box could keep checkpoints of workers: tools that are there, and that really run here."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.adapters.threads import Threads

_TIMEOUT_S = 20.0
_PATIENCE_S = 2.0


def criu_obstacle() -> str:
    """Say why CRIU cannot be used here; empty when it can.

    It is run, not only looked for: Debian 12's (3.17) does not work on kernels from 6.13 on.
    """
    program = shutil.which("criu")
    if program is None:
        return "criu is not installed."
    if os.geteuid() != 0:
        return "gpud does not run as root, which criu needs."
    try:
        checked = subprocess.run(  # noqa: S603 - found on PATH, no words of a user's
            [program, "check"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"`criu check` did not end within {_TIMEOUT_S:g} s."
    except OSError as error:
        return f"criu cannot be run: {error}."
    if checked.returncode == 0:
        return ""
    lines = [line.strip() for line in (checked.stderr + checked.stdout).splitlines() if line.strip()]
    said = next((line for line in lines if "Error" in line), lines[-1] if lines else "it said nothing")
    return f"`criu check` failed with code {checked.returncode}: {said}"


def cuda_checkpoint_obstacle() -> str:
    """Say why NVIDIA's cuda-checkpoint cannot be used here; empty when it can."""
    program = shutil.which("cuda-checkpoint")
    if program is None:
        return "cuda-checkpoint is not installed; it comes with NVIDIA's driver from 550 on, or on its own."
    try:
        told = subprocess.run(  # noqa: S603 - found on PATH, no words of a user's
            [program, "--help"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cuda-checkpoint cannot be run: {error}."
    return "" if told.returncode == 0 else f"cuda-checkpoint --help failed with code {told.returncode}."


class CheckpointSurvey:
    """What stands in the way of checkpoints on this box; found out once, when somebody asks.

    Args:
        threads: The tools are run on.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._looking: asyncio.Task[dict[str, str]] | None = None

    async def obstacles(self) -> dict[str, str]:
        """Why each tool cannot be used here; empty where it can."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="checkpoint_tools")
        done, _waiting = await asyncio.wait([self._looking], timeout=_PATIENCE_S)
        return self._looking.result() if done else dict.fromkeys(_TOOLS, "It is being run, to see.")

    async def _look(self) -> dict[str, str]:
        return {name: await self._threads.run(obstacle) for name, obstacle in _TOOLS.items()}


_TOOLS = {"criu": criu_obstacle, "cuda_checkpoint": cuda_checkpoint_obstacle}

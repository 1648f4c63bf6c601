"""Has processes watch which files starts open: one for each start that is to be recorded."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

    from gpud.core.ids import WorkerId

_CHILD = "gpud.adapters.opened_files_child"
_LIMIT_S = 60.0
_LINE_BYTES_MAX = 64 << 20


class OpenedFiles:
    """The watching processes, by the worker whose start each of them sees."""

    def __init__(self) -> None:
        self._processes: dict[WorkerId, Process] = {}

    async def prepare(self, worker_id: WorkerId) -> None:
        """Have a process ready before the container runs: many a program starts sooner than one is made."""
        with suppress(OSError):  # without it nobody watches, which `attach` tells
            self._processes[worker_id] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", _CHILD),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LINE_BYTES_MAX,
            )

    async def attach(self, worker_id: WorkerId, pid: int) -> str:
        """From now on note what is opened; says why not, if that cannot be."""
        answer = await self._ask(worker_id, pid)
        why = answer if isinstance(answer, str) else "the process that was to watch it failed"
        if why:
            await self.drop(worker_id)
        return why

    async def ranges(self, worker_id: WorkerId, layers: Sequence[str]) -> list[Any]:
        """What was opened and is in memory: path, offset and length; nothing when nobody could watch."""
        answer = await self._ask(worker_id, list(layers))
        await self.drop(worker_id)
        return answer if isinstance(answer, list) else []

    async def drop(self, worker_id: WorkerId) -> None:
        """Watch no more."""
        process = self._processes.pop(worker_id, None)
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, worker_id: WorkerId, question: object) -> Any:  # noqa: ANN401 - JSON
        """One line in, one line out; None when no answer comes."""
        process = self._processes.get(worker_id)
        if process is None or process.stdin is None or process.stdout is None:
            return None
        with suppress(OSError, ValueError, TimeoutError):
            process.stdin.write(json.dumps(question).encode() + b"\n")
            async with asyncio.timeout(_LIMIT_S):
                return json.loads(await process.stdout.readline())
        return None

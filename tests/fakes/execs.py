"""Commands inside workers, without containers: a few programs that a test knows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.errors import CommandNotStarted
from gpud.ports.execs import OutputStream

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.ports.execs import ExecRequest

_ROOM_PIECES = 4


class FakeExec:
    """`cat` gives back what is typed, `both` writes to both streams, `flood` never ends, `exit N` ends."""

    def __init__(self, request: ExecRequest) -> None:
        self.request = request
        self.closed = False
        self.code: int | None = 0
        self.written = 0
        self.sizes = [(request.rows, request.cols)]
        self._out: asyncio.Queue[tuple[OutputStream, bytes] | None] = asyncio.Queue(_ROOM_PIECES)
        program, *words = request.command
        if program == "both":
            self._out.put_nowait((OutputStream.STDOUT, b"out\xff"))
            self._out.put_nowait((OutputStream.STDERR, b"err\x00"))
            self._out.put_nowait(None)
        elif program == "exit":
            self.code = int(words[0])
            self._out.put_nowait(None)

    async def read(self) -> tuple[OutputStream, bytes] | None:
        if self.request.command[0] == "flood":
            await asyncio.sleep(0)
            self.written += 65_536
            return OutputStream.STDOUT, b"x" * 65_536
        return await self._out.get()

    async def write(self, data: bytes) -> None:
        await self._out.put((OutputStream.STDOUT, data))

    async def write_eof(self) -> None:
        await self._out.put(None)

    async def resize(self, rows: int, cols: int) -> None:
        self.sizes.append((rows, cols))

    async def exit_code(self) -> int | None:
        return self.code

    async def close(self) -> bool:
        self.closed = True
        return True

    def end(self, code: int | None) -> None:
        """Its container ends it."""
        self.code = code
        self._out.put_nowait(None)


class FakeExecs:
    """Implements `ExecRunner`; `opened` has every command so far."""

    def __init__(self) -> None:
        self.opened: list[FakeExec] = []
        self.raises: Exception | None = None

    async def open(self, worker_id: WorkerId, request: ExecRequest) -> FakeExec:
        if self.raises is not None:
            raise self.raises
        if request.command[0].startswith("/no/"):
            raise CommandNotStarted(f"{worker_id} has no {request.command[0]}.", extra={"exit_code": 127})
        made = FakeExec(request)
        self.opened.append(made)
        return made

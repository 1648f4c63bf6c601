"""The daemon's end of the process that keeps the workers' output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import OrderedDict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from gpud.ports.logs import LogCounts

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gpud.core.log_caps import LogCaps

log = structlog.get_logger(__name__)

_RESTART_S = 1.0
_FINISH_LIMIT_S = 10.0
_UNSENT_BYTES_MAX = 4 << 20
"""Orders that the process has not taken; beyond that gpud's own words about workers are left out."""
_COUNTS_MAX = 2000
_END_LIMIT_S = 5.0


class ProcessLogCapture:
    """The `LogCapture` of the daemon; `run` keeps the process going.

    Args:
        root: Of the logs.
        caps: What is kept.
        engine: Its address.
        files: Read the engine's own files where that is allowed.
        timeout_s: Of a question to the engine.
    """

    def __init__(
        self, root: Path, caps: LogCaps, *, engine: str, files: bool, timeout_s: float = 10.0
    ) -> None:
        self._settings = {
            "root": str(root),
            "caps": asdict(caps),
            "engine": engine,
            "files": files,
            "timeout_s": timeout_s,
        }
        self._process: Process | None = None
        self._begun: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._finishing: dict[str, asyncio.Future[bool]] = {}
        self._counts: OrderedDict[str, LogCounts] = OrderedDict()
        self._kept_orders: list[bytes] = []
        self._notes_lost = 0
        self._given_up: set[str] = set()

    def begin(self, worker_id: str, endpoint: str, secrets: Sequence[str]) -> None:
        """Keep the output of a worker's container."""
        wanted = (endpoint, tuple(secrets))
        if self._begun.get(worker_id) != wanted:
            self._begun[worker_id] = wanted
            self._order_begin(worker_id)

    def note(self, worker_id: str, endpoint: str, *, at_ms: int, text: str) -> None:
        """Put gpud's own words about a worker among its output."""
        self._order("note", worker=worker_id, endpoint=endpoint, at_ns=at_ms * 1_000_000, text=text)

    async def finish(self, worker_id: str) -> bool:
        """Wait until all that an ended container wrote is kept; False when that took too long."""
        if worker_id not in self._begun:
            return True
        if worker_id in self._given_up:
            return False  # its removal is tried again and again, and must not wait each time
        waiting = self._finishing.get(worker_id)
        if waiting is None:
            waiting = self._finishing[worker_id] = asyncio.get_running_loop().create_future()
            self._order("finish", worker=worker_id)
        try:
            async with asyncio.timeout(_FINISH_LIMIT_S):
                return await asyncio.shield(waiting)
        except TimeoutError:
            log.warning("worker.log_unfinished", worker=worker_id, waited_s=_FINISH_LIMIT_S)
            self._given_up.add(worker_id)
            return False
        finally:
            self._finishing.pop(worker_id, None)

    def end(self, worker_id: str) -> None:
        """Nothing more will come of a worker."""
        self._begun.pop(worker_id, None)
        self._given_up.discard(worker_id)
        self._order("end", worker=worker_id)

    def counts(self) -> Mapping[str, LogCounts]:
        """By worker, those that have ended lately included."""
        return self._counts

    async def run(self) -> None:
        """Keep the process going, until cancelled."""
        try:
            while True:
                await self._serve()
                log.warning("log_process.ended", restart_in_s=_RESTART_S)
                await asyncio.sleep(_RESTART_S)
        finally:
            await self._end_process()

    async def _serve(self) -> None:
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gpud.adapters.log_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        kept, self._kept_orders = self._kept_orders, []
        self._write(json.dumps(self._settings).encode() + b"\n")
        for worker_id in self._begun:
            self._order_begin(worker_id)
        for order in kept:
            self._write(order)
        for worker_id in self._finishing:
            self._order("finish", worker=worker_id)
        reports = process.stdout
        assert reports is not None  # noqa: S101 - it was asked for
        async for line in reports:
            self._take(json.loads(line))
        await process.wait()

    def _take(self, report: dict[str, Any]) -> None:
        if worker_id := report.pop("finished", ""):
            waiting = self._finishing.get(worker_id)
            if waiting is not None and not waiting.done():
                waiting.set_result(True)
        elif worker_id := report.pop("counts", ""):
            self._counts[worker_id] = LogCounts(**report)
            self._counts.move_to_end(worker_id)
            while len(self._counts) > _COUNTS_MAX:
                self._counts.popitem(last=False)

    def _order_begin(self, worker_id: str) -> None:
        endpoint, secrets = self._begun[worker_id]
        self._order("begin", worker=worker_id, endpoint=endpoint, secrets=secrets)

    def _order(self, name: str, **details: object) -> None:
        line = json.dumps({"order": name, **details}).encode() + b"\n"
        process = self._process
        if process is None or process.returncode is not None:
            if name in ("note", "end") and len(self._kept_orders) < _COUNTS_MAX:
                self._kept_orders.append(line)  # the others are given again at its start
            return
        self._write(line, may_drop=name == "note")

    def _write(self, line: bytes, *, may_drop: bool = False) -> None:
        pipe = self._process.stdin if self._process else None
        if pipe is None or pipe.is_closing():
            return
        if may_drop and pipe.transport.get_write_buffer_size() > _UNSENT_BYTES_MAX:
            self._notes_lost += 1
            return
        pipe.write(line)

    async def _end_process(self) -> None:
        """Let the process write what it has; it ends when its input does."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_LIMIT_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()

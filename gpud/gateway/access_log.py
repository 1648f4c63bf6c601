"""Writes a log line for each request: noted at its end, written later and a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import structlog

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName

LINES_MAX = 10_000
"""Lines kept until they are written; newer ones are then dropped and counted."""
PORTION_S = 0.001
"""How long one portion may take of the event loop."""
PAUSE_S = 0.01
"""How long the event loop is left alone between two portions."""
_log = structlog.get_logger()


class Line(NamedTuple):
    """What is told of a request."""

    request_id: str
    method: str
    target: str
    status: int
    endpoint: EndpointName | None
    began_s: float
    ended_s: float
    request_bytes: int


class AccessLog:
    """See the module's text.

    Args:
        share: Of the requests that ended well, how many get a line: 1 for all, 0 for none. One that gpud or
            a worker failed (status 500 and above) always gets its line.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._due = 0.0
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._scheduled: asyncio.TimerHandle | None = None

    def note(self, line: Line) -> None:
        """Keep a line for later, if it is this request's turn."""
        if line.status < 500:
            self._due += self._share
            if self._due < 1.0:
                return
            self._due -= 1.0
        if len(self._lines) >= LINES_MAX:
            self._dropped += 1
            return
        self._lines.append(line)
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_later(PAUSE_S, self._write)

    def close(self) -> None:
        """Write what is left: the gateway is stopping."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        while self._lines:
            self._write_one()
        self._tell_dropped()

    def _write(self) -> None:
        self._scheduled = None
        until_s = time.perf_counter() + PORTION_S
        while self._lines and time.perf_counter() < until_s:
            self._write_one()
        if self._lines:
            self._scheduled = asyncio.get_running_loop().call_later(PAUSE_S, self._write)
        else:
            self._tell_dropped()

    def _write_one(self) -> None:
        line = self._lines.popleft()
        _log.info(
            "request.finished",
            request_id=line.request_id,
            method=line.method,
            path=line.target.partition("?")[0],
            status=line.status,
            endpoint=line.endpoint,
            duration_ms=round((line.ended_s - line.began_s) * 1000),
            request_bytes=line.request_bytes,
        )

    def _tell_dropped(self) -> None:
        if self._dropped:
            _log.warning("request_lines.dropped", lines=self._dropped)
            self._dropped = 0

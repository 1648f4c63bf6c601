"""What all who follow over server-sent events have in common: how many may, how it opens, how it waits."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from gpud.errors import GpudError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLLOWERS_MAX = 64
"""Clients that may follow one kind of thing at once."""

QUIET_S_MAX = 15.0
"""After so long without news a comment is sent, which keeps proxies in between from closing."""

NOTHING_NEW = b": nothing new\n\n"

_SERVER_FAULT = 500

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Followers:
    """Those who follow one kind of thing.

    Args:
        what: They follow, as a person would say it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Be one of them for a while.

        Raises:
            Unavailable: All places are taken.
        """
        if self._count >= FOLLOWERS_MAX:
            raise Unavailable(
                f"{FOLLOWERS_MAX} clients follow {self._what} already. End one, or read pages.",
                retry_after_s=30,
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


async def begun_stream(request: web.Request) -> web.StreamResponse:
    """The answer to who follows, its head sent."""
    response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    await response.prepare(request)
    return response


async def rest(stopping: asyncio.Event, wait_s: float) -> None:
    """Wait before the next look, or until the daemon stops."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await stopping.wait()


@contextlib.contextmanager
def ended_early(request: web.Request) -> Iterator[None]:
    """End a stream whose head is sent when its reader goes, or when it can be told no more.

    A refusal would be written into the middle of the answer. Who asks again is told it in the usual way.
    """
    try:
        yield
    except ConnectionResetError:
        return
    except GpudError as error:
        if error.status >= _SERVER_FAULT:
            _log.warning("stream.ended_early", path=request.path, problem=error.slug, error=error.detail)

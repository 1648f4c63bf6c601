"""Carries a step to its end although whoever asked for it may leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def whole(step: Coroutine[object, object, T]) -> T:
    """Run a step; cancelling the caller leaves it running, so that rows and counts agree."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_hear)
        raise


def _hear(task: asyncio.Future[T]) -> None:
    if not task.cancelled():
        task.exception()  # nobody else is left to hear it

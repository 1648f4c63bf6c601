"""Runs a test's coroutine in virtual time, first come first served."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tests.sim.loop import SimLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what it waits for passes at once."""
    with asyncio.Runner(loop_factory=partial(SimLoop, shuffle=False)) as runner:
        return runner.run(work)

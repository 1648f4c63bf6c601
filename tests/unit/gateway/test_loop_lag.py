from __future__ import annotations

import asyncio
import time

from gpud.gateway import loop_lag
from gpud.gateway.loop_lag import LoopLag


async def test_a_loop_that_was_held_is_seen_to_be_late() -> None:
    lag = LoopLag()
    lag.start()
    try:
        time.sleep(loop_lag.BEAT_S + 0.1)  # noqa: ASYNC251 - this is what must be noticed
        async with asyncio.timeout(10):
            while not lag.worst_s:  # noqa: ASYNC110 - the measure has no event of its own
                await asyncio.sleep(0.002)
        assert lag.worst_s >= 0.05
        assert lag.worst_s >= lag.last_s
    finally:
        lag.stop()


async def test_nothing_is_measured_after_the_end() -> None:
    lag = LoopLag()
    lag.start()
    lag.stop()
    await asyncio.sleep(2 * loop_lag.BEAT_S)
    assert lag.last_s == lag.worst_s == 0.0

"""The simulation's loop rests on asyncio's private parts: these tests say when they have moved."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from tests.sim.loop import SimLoop, SimulationStuckError

_DAY_S = 86_400.0


async def _story(lines: list[tuple[float, str]]) -> None:
    """Ten tasks that wait for random times and for each other."""
    rng = random.Random(7)
    loop = asyncio.get_running_loop()
    turnstile = asyncio.Semaphore(2)

    async def walk(name: str) -> None:
        for _ in range(20):
            async with turnstile:
                await asyncio.sleep(rng.choice((0.0, 0.0, 0.25, 0.5)))
            lines.append((loop.time(), name))

    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(walk(f"task {number}"))


def _told(seed: int, *, shuffle: bool = True) -> list[tuple[float, str]]:
    lines: list[tuple[float, str]] = []
    with asyncio.Runner(loop_factory=partial(SimLoop, seed, shuffle=shuffle)) as runner:
        runner.run(_story(lines))
    return lines


def test_a_day_passes_in_no_time() -> None:
    async def doze() -> float:
        for _ in range(24):
            await asyncio.sleep(_DAY_S / 24)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        assert runner.run(doze()) == _DAY_S


def test_the_same_seed_tells_the_same_story() -> None:
    assert _told(1) == _told(1)


def test_another_seed_tells_another_story() -> None:
    assert len({tuple(_told(seed)) for seed in range(5)}) == 5


def test_without_shuffling_the_seed_does_not_matter() -> None:
    assert _told(1, shuffle=False) == _told(2, shuffle=False)


def test_timers_go_off_in_order_and_on_time() -> None:
    rung: list[tuple[float, float]] = []

    async def wait_all() -> None:
        loop = asyncio.get_running_loop()

        def ring(delay_s: float) -> None:
            rung.append((delay_s, loop.time()))

        for delay_s in (3.0, 1.0, 2.0, 0.5):
            loop.call_later(delay_s, ring, delay_s)
        await asyncio.sleep(4.0)

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(wait_all())
    assert rung == [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]


def test_a_cancelled_timer_does_not_hold_time_up() -> None:
    async def wait() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(500):
            loop.call_later(1.0, pytest.fail, "a cancelled timer went off").cancel()
        await asyncio.sleep(5.0)
        return loop.time()

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        assert runner.run(wait()) == 5.0


def test_a_wait_for_what_never_comes_is_told() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with asyncio.Runner(loop_factory=SimLoop) as runner, pytest.raises(SimulationStuckError):
        runner.run(wait())


def test_a_task_that_never_waits_is_told() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - the point of it
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=SimLoop) as runner, pytest.raises(SimulationStuckError):
        runner.run(spin())

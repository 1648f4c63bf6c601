"""The bounded pool for blocking calls."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.threads import Threads
from gpud.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT_S = 10.0


class Gate:
    """A blocking call that a test holds and lets go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()
        self.calls = 0

    def pass_through(self) -> str:
        self.calls += 1
        self.entered.release()
        assert self._open.wait(LIMIT_S)
        return "passed"

    def open(self) -> None:
        self._open.set()

    async def until_entered(self, times: int = 1) -> None:
        for _ in range(times):
            assert await asyncio.to_thread(self.entered.acquire, timeout=LIMIT_S)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    made = Gate()
    yield made
    made.open()


def threads_named(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith(name)]


async def until_ended(name: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while threads_named(name):  # noqa: ASYNC110  # A thread tells nobody that it has ended.
            await asyncio.sleep(0.005)


async def test_a_call_runs_on_another_thread_and_returns_its_result() -> None:
    threads = Threads(2)
    assert await threads.run(divmod, 7, 3) == (2, 1)
    assert await threads.run(threading.get_ident) != threading.get_ident()
    assert await threads.close()


async def test_what_a_call_raises_is_raised_to_its_caller() -> None:
    threads = Threads(1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)
    with pytest.raises(RuntimeError):
        await threads.run(next, iter(()))
    with pytest.raises(SystemExit):
        await threads.run(exit_now)
    assert await threads.run(divmod, 1, 1) == (1, 0)
    assert await threads.close()


def exit_now() -> None:
    raise SystemExit(1)


async def test_a_call_sees_its_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("mine")
    threads = Threads(1)
    assert await threads.run(variable.get) == "mine"
    assert await threads.close()


async def test_no_more_calls_run_at_once_than_there_are_workers(gate: Gate) -> None:
    threads = Threads(2, name="bound")
    calls = [asyncio.create_task(threads.run(gate.pass_through)) for _ in range(5)]
    await gate.until_entered(2)
    assert gate.calls == len(threads_named("bound")) == 2
    gate.open()
    assert await asyncio.gather(*calls) == ["passed"] * 5
    assert await threads.close()


async def test_a_call_that_takes_too_long_times_out_and_its_thread_goes_on(gate: Gate) -> None:
    threads = Threads(1)
    with pytest.raises(TimeoutError):
        await threads.run(gate.pass_through, timeout_s=0.05)
    gate.open()
    assert await threads.run(divmod, 1, 1, timeout_s=LIMIT_S) == (1, 0)
    assert gate.calls == 1
    assert await threads.close()


async def test_waiting_for_a_thread_counts_towards_the_limit(gate: Gate) -> None:
    threads = Threads(1)
    first = asyncio.create_task(threads.run(gate.pass_through))
    await gate.until_entered()
    with pytest.raises(TimeoutError):
        await threads.run(divmod, 1, 1, timeout_s=0.05)
    gate.open()
    assert await first == "passed"
    assert await threads.close()


async def test_the_result_of_a_cancelled_call_is_dropped(gate: Gate) -> None:
    threads = Threads(1)
    call = asyncio.create_task(threads.run(gate.pass_through))
    await gate.until_entered()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    gate.open()
    assert await threads.run(divmod, 1, 1) == (1, 0)
    assert await threads.close()


async def test_a_call_cancelled_before_a_thread_was_free_is_never_made(gate: Gate) -> None:
    threads = Threads(1)
    first = asyncio.create_task(threads.run(gate.pass_through))
    await gate.until_entered()
    made: list[int] = []
    second = asyncio.create_task(threads.run(made.append, 1))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    gate.open()
    await first
    await threads.run(made.append, 2)
    assert made == [2]
    assert await threads.close()


async def test_closing_waits_for_running_calls_fails_waiting_ones_and_refuses_new_ones(gate: Gate) -> None:
    threads = Threads(1, name="closing")
    running = asyncio.create_task(threads.run(gate.pass_through))
    await gate.until_entered()
    waiting = asyncio.create_task(threads.run(divmod, 1, 1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(threads.close())
    with pytest.raises(Unavailable):
        await waiting
    gate.open()
    assert await closing
    assert await running == "passed"
    with pytest.raises(Unavailable):
        await threads.run(divmod, 1, 1)
    await until_ended("closing")


async def test_closing_does_not_wait_for_a_hung_call_beyond_its_limit(gate: Gate) -> None:
    threads = Threads(1)
    hung = asyncio.create_task(threads.run(gate.pass_through))
    await gate.until_entered()
    assert not await threads.close(timeout_s=0.05)
    assert all(each.daemon for each in threads_named("gpud-blocking"))
    hung.cancel()
    await asyncio.wait([hung])


async def test_threads_without_work_end_and_are_made_again() -> None:
    threads = Threads(4, name="idle", idle_timeout_s=0.02)
    await asyncio.gather(*(threads.run(divmod, 1, 1) for _ in range(8)))
    await until_ended("idle")
    assert await threads.run(divmod, 1, 1) == (1, 0)
    assert await threads.close()


async def test_many_calls_from_many_tasks_each_get_their_own_result() -> None:
    threads = Threads(8, idle_timeout_s=0.001)
    results = await asyncio.gather(*(threads.run(pow, number, 2) for number in range(500)))
    assert results == [number**2 for number in range(500)]
    assert await threads.close()


def test_a_call_that_outlives_its_loop_does_no_harm() -> None:
    gate = Gate()
    threads = Threads(1, name="outlives")

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await threads.run(gate.pass_through, timeout_s=0.05)

    asyncio.run(leave())
    (thread,) = threads_named("outlives")
    gate.open()
    assert asyncio.run(threads.close())
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Threads(0)

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from gpud.adapters.lone_thread import LoneThread
from gpud.errors import DependencyDown

if TYPE_CHECKING:
    from collections.abc import Iterator

BUDGET_S = 0.2


class Library:
    """Calls that hang until the test lets them go on."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.entered = threading.Event()
        self.left = threading.Event()
        self.calls = 0

    def hang(self) -> str:
        self.calls += 1
        self.entered.set()
        self.let_go.wait(30)
        self.left.set()
        return "late"

    def answer(self) -> str:
        self.calls += 1
        return "prompt"


@pytest.fixture
def library() -> Iterator[Library]:
    library = Library()
    yield library
    library.let_go.set()


@pytest.fixture
def thread() -> Iterator[LoneThread]:
    thread = LoneThread("library", budget_s=BUDGET_S, complaint="The library hangs.")
    yield thread
    thread.close()


async def recovered(thread: LoneThread) -> None:
    async with asyncio.timeout(10):
        while thread.stuck:  # noqa: ASYNC110  a thread gives no event to a loop
            await asyncio.sleep(0.001)


async def test_a_call_returns_what_the_library_returns(thread: LoneThread, library: Library) -> None:
    assert await thread.run(library.answer) == "prompt"


async def test_calls_run_on_one_thread_that_the_process_does_not_wait_for(thread: LoneThread) -> None:
    one, other = await thread.run(threading.current_thread), await thread.run(threading.current_thread)
    assert one is other
    assert one is not threading.current_thread()
    assert one.daemon


async def test_an_error_of_the_library_is_the_callers(thread: LoneThread, library: Library) -> None:
    def fail() -> None:
        raise KeyError("device")

    with pytest.raises(KeyError):
        await thread.run(fail)
    assert await thread.run(library.answer) == "prompt"


async def test_a_timeout_the_library_raises_itself_is_no_hang(thread: LoneThread) -> None:
    def fail() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await thread.run(fail)
    assert not thread.stuck


async def test_a_hanging_call_costs_its_budget_and_the_next_ones_nothing(
    thread: LoneThread, library: Library
) -> None:
    started_s = time.monotonic()
    with pytest.raises(DependencyDown, match="hangs"):
        await thread.run(library.hang)
    assert time.monotonic() - started_s >= BUDGET_S * 0.9
    assert thread.stuck
    started_s = time.monotonic()
    for _ in range(100):
        with pytest.raises(DependencyDown, match="hangs"):
            await thread.run(library.answer)
    assert time.monotonic() - started_s < BUDGET_S
    assert library.calls == 1


async def test_calls_are_taken_again_once_the_hanging_one_returns(
    thread: LoneThread, library: Library
) -> None:
    with pytest.raises(DependencyDown):
        await thread.run(library.hang)
    library.let_go.set()
    await recovered(thread)
    assert await thread.run(library.answer) == "prompt"


async def test_a_call_that_waited_behind_a_hanging_one_is_never_made(
    thread: LoneThread, library: Library
) -> None:
    both = await asyncio.gather(thread.run(library.hang), thread.run(library.answer), return_exceptions=True)
    assert all(isinstance(each, DependencyDown) for each in both)
    library.let_go.set()
    await recovered(thread)
    await thread.run(lambda: None)
    assert library.calls == 1


async def test_a_cancelled_caller_leaves_the_thread_usable(thread: LoneThread, library: Library) -> None:
    call = asyncio.create_task(thread.run(library.hang))
    await asyncio.to_thread(library.entered.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    library.let_go.set()
    assert await thread.run(library.answer) == "prompt"


async def test_a_closed_thread_takes_no_call(thread: LoneThread, library: Library) -> None:
    thread.close()
    with pytest.raises(DependencyDown, match="stopping"):
        await thread.run(library.answer)

"""Runs blocking calls on a bounded number of threads, so that the event loop never waits for a library."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from gpud.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")
ArgsT = TypeVarTuple("ArgsT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One call, the loop that waits for it, and the future it waits on."""

    call: Callable[[], object]
    context: contextvars.Context
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[object]

    def run(self) -> None:
        if self.future.cancelled():
            return  # Its caller left before a thread was free.
        result: object = None
        error: BaseException | None = None
        try:
            result = self.context.run(self.call)
        except StopIteration as stop:  # A future cannot carry it.
            error = RuntimeError("the call raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:  # noqa: BLE001  # Whatever it is, it belongs to the caller.
            error = raised
        self.settle(result, error)

    def settle(self, result: object, error: BaseException | None) -> None:
        """Hand the outcome to the caller's loop; nobody is left to hear it when that loop is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle_on_loop, result, error)

    def _settle_on_loop(self, result: object, error: BaseException | None) -> None:
        if self.future.done():
            return  # The caller was cancelled or gave up: its result is dropped.
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Threads:
    """A bounded pool of daemon threads.

    The standard library's pool joins its threads when the interpreter ends, so one call hung in a
    library would keep the daemon from exiting. These threads do not; unused ones end by themselves.

    Args:
        workers: Most calls that run at once; more calls wait their turn, first come first served.
        name: Prefix of the threads' names.
        idle_timeout_s: A thread without work for this long ends.
    """

    def __init__(self, workers: int, *, name: str = "gpud-blocking", idle_timeout_s: float = 30.0) -> None:
        if workers < 1:
            raise ValueError("workers must be 1 or more")
        self._workers = workers
        self._name = name
        self._idle_timeout_s = idle_timeout_s
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._started = 0
        self._closed = False
        self._all_ended: Callable[[], None] | None = None

    async def run(
        self, fn: Callable[[*ArgsT], ResultT], /, *args: *ArgsT, timeout_s: float | None = None
    ) -> ResultT:
        """Call `fn` on a thread and wait for its result.

        Cancelling the caller does not stop a call that runs: it ends in its own time and its result
        is dropped. A call that still waits for a thread is never made.

        Raises:
            TimeoutError: No result within `timeout_s`, the wait for a thread included.
            Unavailable: The pool is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        job = _Job(
            call=partial(fn, *args),
            context=contextvars.copy_context(),
            loop=loop,
            future=future,
        )
        self._submit(job)
        async with asyncio.timeout(timeout_s):
            return await future  # type: ignore[return-value]  # The job's result is what fn returned.

    async def close(self, *, timeout_s: float = 5.0) -> bool:
        """Refuse new calls, fail waiting ones, and wait for running ones.

        Returns:
            Whether all threads ended within `timeout_s`; those that did not are left behind and do
            not keep the process from exiting.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        with self._changed:
            self._closed = True
            dropped = tuple(self._jobs)
            self._jobs.clear()
            self._all_ended = partial(_call_soon, loop, ended.set)
            if not self._threads:
                ended.set()
            self._changed.notify_all()
        for job in dropped:
            job.settle(None, Unavailable("gpud is stopping; this call was not made. Try again later."))
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            return False
        return True

    def _submit(self, job: _Job) -> None:
        with self._changed:
            if self._closed:
                raise Unavailable("gpud is stopping; this call was not made. Try again later.")
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif len(self._threads) < self._workers:
                self._started += 1
                thread = threading.Thread(
                    target=self._work, name=f"{self._name}-{self._started}", daemon=True
                )
                self._threads.add(thread)
                thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()

    def _next(self) -> _Job | None:
        """Take the next job; None when this thread shall end."""
        with self._changed:
            while not self._jobs:
                if not self._closed:
                    self._idle += 1
                    woken = self._changed.wait(self._idle_timeout_s)
                    self._idle -= 1
                    if self._jobs or (woken and not self._closed):
                        continue
                self._threads.discard(threading.current_thread())
                if not self._threads and self._all_ended is not None:
                    self._all_ended()
                return None
            return self._jobs.popleft()


def _call_soon(loop: asyncio.AbstractEventLoop, fn: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
        loop.call_soon_threadsafe(fn)

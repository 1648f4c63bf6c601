"""One thread for a library that may hang: each call has a budget, and a hung one holds up nobody."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import structlog

from gpud.errors import DependencyDown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

T = TypeVar("T")

_log = structlog.get_logger()


class LoneThread:
    """Runs calls one after the other on a thread of its own.

    A pool would be joined when the process ends, so one hung call would hold the process for
    ever; this thread is not. While a call is over its budget, others fail at once instead of
    queueing behind it; when it returns at last, calls are taken again.

    Args:
        name: Of the thread, and of the dependency in log events.
        budget_s: For one call, its time in the queue included.
        complaint: What a caller is told when the budget is spent.
    """

    def __init__(self, name: str, *, budget_s: float, complaint: str) -> None:
        self._name = name
        self._budget_s = budget_s
        self._complaint = complaint
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._running: Future[Any] | None = None
        self._late: Future[Any] | None = None
        self._closed = False

    @property
    def stuck(self) -> bool:
        """Whether a call is over its budget and has not returned."""
        return self._late is not None and not self._late.done()

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call on the thread and return what it returns, or raise what it raises.

        Raises:
            DependencyDown: The budget is spent, or an earlier call still hangs, or the thread
                was closed.
        """
        if self._closed:
            raise DependencyDown(f"{self._name} is not asked any more, because gpud is stopping.")
        if self.stuck:
            raise DependencyDown(self._complaint)
        if self._late is not None:
            self._late = None
            _log.info("dependency.recovered", dependency=self._name)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        future: Future[T] = Future()
        self._calls.put((future, call))
        limit = asyncio.timeout(self._budget_s)
        try:
            async with limit:
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if not self.stuck:
                self._late = self._running
                _log.warning("dependency.stalled", dependency=self._name, budget_s=self._budget_s)
            raise DependencyDown(self._complaint) from error

    def close(self) -> None:
        """Let the thread end after the calls it already has, and take no more; never waits."""
        self._closed = True
        self._calls.put(None)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            # A caller that gave up while this waited in the queue wants no call any more.
            if not future.set_running_or_notify_cancel():
                continue
            self._running = future
            try:
                result = call()
            except Exception as error:  # noqa: BLE001  it belongs to the caller
                self._running = None
                future.set_exception(error)
            else:
                self._running = None
                future.set_result(result)

"""Callers of the simulated gateway: each is answered, refused, cut off or hangs up; none is forgotten."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.errors import GpudError
from gpud.gateway.lane import Slot

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.worker import WorkerState
    from gpud.gateway.hold import Held
    from tests.sim.box import Box
    from tests.sim.daemon import Daemon


class Outcome(StrEnum):
    """What became of a request; exactly one of these."""

    ANSWERED = "answered"
    REFUSED = "refused"
    BROKEN = "broken"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    CUT = "cut"


class Request:
    """One request of one client.

    Args:
        takes_s: How long a worker computes on it.
        patience_s: After which the client hangs up; None for never.

    Attributes:
        outcome: None while it is under way. BROKEN: the worker ended in the middle of it. CUT: the
            daemon was killed.
        reason: Slug of the refusal, if it was refused.
        cold: It was held while no worker was ready.
        served_by: Containers that got its bytes.
        misdelivered: A container of another worker got them.
        dispatched_to: States of the workers it was dispatched to, at that moment.
        status: Of the answer; 0 without one.
    """

    def __init__(
        self, endpoint: EndpointName, *, takes_s: float, patience_s: float | None, arrived_s: float
    ) -> None:
        self.endpoint = endpoint
        self.takes_s = takes_s
        self.patience_s = patience_s
        self.arrived_s = arrived_s
        self.answered_s: float | None = None
        self.outcome: Outcome | None = None
        self.reason = ""
        self.status = 0
        self.cold = False
        self.served_by: list[WorkerId] = []
        self.misdelivered = False
        self.dispatched_to: list[WorkerState | None] = []

    def __repr__(self) -> str:
        return f"Request({self.endpoint}, {self.outcome}, {self.reason!r}, arrived {self.arrived_s:.3f} s)"

    @property
    def waited_s(self) -> float:
        """From its arrival to its answer."""
        assert self.answered_s is not None
        return self.answered_s - self.arrived_s


class Client:
    """Carries one request through the daemon that is up when it comes. It is the dispatcher's `Waiter`."""

    party = ""

    def __init__(self, request: Request, daemon: Daemon, box: Box) -> None:
        self.request = request
        self._daemon = daemon
        self._box = box
        self._turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._held: Held | None = None
        self._slot: Slot | None = None

    def granted(self, slot: Slot) -> None:
        self._held = None
        self._take(slot)
        if not self._turn.done():
            self._turn.set_result(slot)

    def refused(self, error: GpudError) -> None:
        self._held = None
        if not self._turn.done():
            self._turn.set_exception(error)

    async def run(self) -> None:
        request = self.request
        outcome = Outcome.CUT
        try:
            async with asyncio.timeout(request.patience_s):
                outcome = await self._exchange()
        except TimeoutError:
            outcome = Outcome.ABANDONED
        except GpudError as error:
            outcome, request.reason = Outcome.REFUSED, error.slug
        finally:
            self._hang_up()
            assert request.outcome is None
            request.outcome = outcome
            request.answered_s = asyncio.get_running_loop().time()

    async def _exchange(self) -> Outcome:
        dispatcher, request = self._daemon.dispatcher, self.request
        got = dispatcher.acquire_nowait(request.endpoint, self)
        while True:
            slot = await self._settled(got)
            request.cold = request.cold or slot.cold
            found = self._box.listening_at(slot.worker.address)
            if found is not None:
                break
            self._turn = asyncio.get_running_loop().create_future()
            self._slot = None
            got = slot.unreachable(self, "Connection refused")
        request.served_by.append(found.worker_id)
        # Between the end of one container and the first answer of the next with its address an engine
        # needs a tenth of a second; here it may all be one instant, in which nobody can be told.
        another = found.worker_id != slot.worker.worker_id
        in_an_instant = found.listens_at_s >= asyncio.get_running_loop().time()
        request.misdelivered = request.misdelivered or (another and not in_an_instant)
        outcome = await self._served(found.worker_id)
        if outcome is Outcome.ANSWERED:
            request.status = 500 if "FAILS" in found.env else 200
            slot.judge(asyncio.get_running_loop().time(), failed=False, status=request.status)
        if outcome is Outcome.BROKEN:
            self._daemon.dispatcher.worker_failed(slot.worker.worker_id, "Connection reset")
        return outcome

    async def _settled(self, got: Slot | Held) -> Slot:
        if isinstance(got, Slot):
            self._take(got)
            return got
        self._held = got
        return await self._turn

    async def _served(self, container_id: WorkerId) -> Outcome:
        """Wait for the answer, the container's end or the request's time limit, whichever comes first."""
        loop = asyncio.get_running_loop()
        route = self._daemon.dispatcher.table.routes.get(self.request.endpoint)
        limit_s = loop.time() + (route.request_timeout_s if route else 600.0)
        due_s = loop.time() + self.request.takes_s
        ended = self._box.ended_event(container_id)
        while True:
            hangs = container_id in self._box.hung
            until_s = limit_s if hangs else min(due_s, limit_s)
            try:
                async with asyncio.timeout_at(min(until_s, loop.time() + 1.0)):
                    await ended.wait()
            except TimeoutError:
                if loop.time() >= limit_s:
                    return Outcome.TIMED_OUT
                if loop.time() >= due_s and container_id not in self._box.hung:
                    return Outcome.ANSWERED
            else:
                return Outcome.BROKEN

    def _take(self, slot: Slot) -> None:
        self._slot = slot
        worker = self._daemon.fleet.state.workers.get(slot.worker.worker_id)
        self.request.dispatched_to.append(worker.state if worker else None)

    def _hang_up(self) -> None:
        """The connection ends, whatever was going on."""
        if self._held is not None:
            self._daemon.dispatcher.abandon(self.request.endpoint, self._held)
        if self._slot is not None:
            self._slot.release()
        if self._turn.done() and not self._turn.cancelled():
            self._turn.exception()  # Heard, or nobody is left to hear it.

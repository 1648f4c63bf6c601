"""One job that a worker went on with while the daemon was away: asks the worker what became of it.

The row stays IN_PROGRESS under the delivery it has, and the job keeps its place at the worker, until the
worker tells the outcome, says that it does not know the job, ends, or says nothing for too long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core.ids import WorkerId
from gpud.core.job import Delivered, Ending
from gpud.core.job_status import SILENT_S, Whereabouts, ask_again_s, status_said
from gpud.core.routing import RouteWorker
from gpud.core.worker import WorkerState
from gpud.jobs.delivery import LEFT, RESULT_BYTES_MAX, SLOT_RETURN_S, booked, too_large
from gpud.ports.jobs import Claim, Payload
from gpud.ports.work import Handover, HandoverFailed

if TYPE_CHECKING:
    from gpud.core.endpoint import EndpointSpec
    from gpud.core.job import Job
    from gpud.jobs.push import Push
    from gpud.ports.work import JobPlace, WorkerAnswer

_ENDED = frozenset({WorkerState.FAILED, WorkerState.RELEASING, WorkerState.GONE, WorkerState.LOST})
LOST = Delivered(ending=Ending.INTERRUPTED, reason="daemon_restarted", after_ms=0)
_log = structlog.get_logger(__name__)


class Recovery:
    """See the module's text.

    Args:
        push: What all deliveries share.
        spec: Of the endpoint.
        job: As its row says, taken over by this run of the daemon.
        place: At its worker, counted.
    """

    def __init__(self, push: Push, spec: EndpointSpec, job: Job, place: JobPlace) -> None:
        self._push = push
        self._spec = spec
        self._place = place
        self.job = job
        self._worker_id = WorkerId(job.worker_id)
        self._interrupted = asyncio.get_running_loop().create_future()

    def interrupt(self, why: str) -> None:
        """End it early; safe to repeat."""
        if not self._interrupted.done():
            self._interrupted.set_result(why)

    def leave(self) -> None:
        """Go away from it: the next run of the daemon asks again."""
        self.interrupt(LEFT)

    async def run(self) -> None:
        """Ask until something is known, and book it."""
        queue = self._push.queue
        left_s = max(0.0, (self.job.stop_by_ms - queue.now_ms()) / 1000)
        asking = asyncio.ensure_future(self._outcome())
        try:
            done, _ = await asyncio.wait(
                (asking, self._interrupted), timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            asking.cancel()
        if asking in done:
            said, result = asking.result()
        elif self._interrupted in done:
            said, result = Delivered(ending=Ending.INTERRUPTED, reason=self._interrupted.result()), None
        else:
            error = "executionTimeout exceeded"
            said, result = Delivered(ending=Ending.TIMED_OUT, error=error, reason="execution_timeout"), None
        if said.reason == LEFT:
            return
        if asking not in done:
            await self._end_early()
        _log.info("job.recovered", job=self.job.id, worker=self._worker_id, ending=said.ending.value)
        if said.ending is Ending.COMPLETED:
            await booked(self.job, lambda: queue.complete(self.job, result))
        else:
            await booked(self.job, lambda: queue.settle(self.job, said))

    async def _outcome(self) -> tuple[Delivered, Payload | None]:
        began_s = heard_s = self._push.clock.now_s()
        while True:
            answer = await self._ask()
            if answer == "ended":
                return LOST, None
            now_s = self._push.clock.now_s()
            if isinstance(answer, str):
                if now_s - heard_s >= SILENT_S:
                    await self._recycle()
                    return LOST, None
            else:
                heard_s = now_s
                content = answer.payload.content
                said = status_said(answer.status, answer.headers, content, delivery=self.job.deliveries)
                if said is Whereabouts.UNKNOWN:
                    return LOST, None
                if isinstance(said, Delivered):
                    if said.ending is Ending.COMPLETED and len(content) > RESULT_BYTES_MAX:
                        said = too_large(len(content))
                    return said, answer.payload
            await asyncio.sleep(ask_again_s(now_s - began_s))

    async def _ask(self) -> WorkerAnswer | str:
        """What the worker says; `ended` when it is not there any more, `silent` when it says nothing now."""
        worker = self._push.fates.worker(self._worker_id)
        if worker is None or worker.state in _ENDED:
            return "ended"
        handover = self._handover(worker.address, worker.port)
        try:
            return await self._push.carrier.ask_outcome(handover, self._spec.jobs.status_path)
        except HandoverFailed:
            return "silent"

    def _handover(self, address: str, port: int) -> Handover:
        return Handover(
            worker=RouteWorker(worker_id=self._worker_id, address=address, port=port),
            claim=Claim(job=self.job, payload=Payload(content=b"")),
            path=self._spec.jobs.path,
            cancel_path=self._spec.jobs.cancel_path,
            headers={"X-Gpud-Job-Id": self.job.id, "X-Gpud-Delivery": str(self.job.deliveries)},
        )

    async def _end_early(self) -> None:
        """Nobody waits for it any more: ask the worker to stop, or have it replaced if nobody shares it."""
        worker = self._push.fates.worker(self._worker_id)
        if worker is None or worker.state in _ENDED:
            return
        if self._spec.jobs.cancel_path:
            handover = self._handover(worker.address, worker.port)
            await self._push.carrier.ask_to_stop(handover)
            if await self._has_stopped(handover):
                return
        if self._spec.scale.concurrency == 1:
            await self._recycle()

    async def _has_stopped(self, handover: Handover) -> bool:
        until_s = self._push.clock.now_s() + SLOT_RETURN_S
        while self._push.clock.now_s() < until_s:
            try:
                answer = await self._push.carrier.ask_outcome(handover, self._spec.jobs.status_path)
            except HandoverFailed:
                return False
            said = status_said(answer.status, answer.headers, b"", delivery=self.job.deliveries)
            if said is not Whereabouts.RUNS:
                return True
            await asyncio.sleep(1.0)
        return False

    async def _recycle(self) -> None:
        if self._spec.jobs.recycles(self._spec.scale.concurrency):
            _log.warning("job.worker_recycled", job=self.job.id, worker=self._worker_id)
            await self._push.fates.recycle(self._worker_id)

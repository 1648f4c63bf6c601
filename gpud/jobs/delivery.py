"""One delivery of one job to one worker: from the first byte to what its end means."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.core.job import Delivered, Ending
from gpud.core.job_answers import delivered_by
from gpud.errors import StorageFull, Unavailable
from gpud.ports.work import Handover, HandoverFailed, WorkerAnswer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gpud.core.endpoint import EndpointSpec
    from gpud.core.job import Job
    from gpud.jobs.push import Push
    from gpud.ports.jobs import Claim, Payload
    from gpud.ports.work import JobSlot

SLOT_RETURN_S = 10.0
"""How long a worker that was asked to stop a job may take until it is replaced."""
RESULT_BYTES_MAX = 20 << 20
_FLUSH_S = 0.02
LEFT = "daemon_stopped"
_FULL_DISK_RETRY_S = 0.5
_log = structlog.get_logger(__name__)


class Delivery:
    """See the module's text.

    Args:
        push: What all deliveries share.
        spec: Of the endpoint.
        slot: Reserved for it.
        claim: The job, booked.
        alone: The slot is the whole worker.
    """

    def __init__(self, push: Push, spec: EndpointSpec, slot: JobSlot, claim: Claim, *, alone: bool) -> None:
        self._push = push
        self._spec = spec
        self._slot = slot
        self._alone = alone
        self.job: Job = claim.job
        self._handover = Handover(
            worker=slot.worker,
            claim=claim,
            path=claim.job.path or spec.jobs.path,
            cancel_path=spec.jobs.cancel_path,
            headers={
                "X-Gpud-Job-Id": claim.job.id,
                "X-Gpud-Attempt": str(claim.job.attempt),
                "X-Gpud-Delivery": str(claim.job.deliveries),
                "X-Gpud-Deadline": str(push.queue.shown_ms(claim.job.stop_by_ms)),
                "X-Gpud-Job-Token": push.tokens.of(claim.job),
                **push.progress_header(claim.job.id),
            },
        )
        self._interrupted = asyncio.get_running_loop().create_future()
        self._chunks: list[bytes] = []
        self._flushing: asyncio.Task[None] | None = None

    def interrupt(self, why: str) -> None:
        """End it early; safe to repeat."""
        if not self._interrupted.done():
            self._interrupted.set_result(why)

    def leave(self) -> None:
        """Go away from it: nobody waits for the worker, and its row goes on saying that it runs."""
        self.interrupt(LEFT)

    async def run(self) -> None:
        """Deliver, wait, and book what came of it."""
        said, result = await self._attempt()
        if said.reason == LEFT:
            return
        if self._flushing is not None:
            await self._flushing
        await self._flush()
        queue = self._push.queue
        if said.ending is Ending.COMPLETED:
            await booked(self.job, lambda: queue.complete(self.job, result))
        else:
            await booked(self.job, lambda: queue.settle(self.job, said))

    async def _attempt(self) -> tuple[Delivered, Payload | None]:
        limit_s = max(0.0, (self.job.stop_by_ms - self._push.queue.now_ms()) / 1000)
        answering = asyncio.ensure_future(self._push.carrier.deliver(self._handover, self._on_chunk))
        done, _ = await asyncio.wait(
            (answering, self._interrupted), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        if answering in done:
            return self._read(answering)
        if self._interrupted in done:
            why = self._interrupted.result()
            said = Delivered(ending=Ending.INTERRUPTED, reason=why, after_ms=0)
            # The next daemon sees to a worker that is left; and one that others share is not taken from them.
            orderly = why == LEFT or self._spec.scale.concurrency > 1
        else:
            said = Delivered(
                ending=Ending.TIMED_OUT, error="executionTimeout exceeded", reason="execution_timeout"
            )
            orderly = False
        # A worker that tells outcomes later goes on when its caller is gone, so it is asked in any case.
        ask = bool(self._spec.jobs.status_path) and said.reason != LEFT
        await self._end_early(answering, orderly, ask=ask or not orderly)
        return said, None

    def _read(self, answering: asyncio.Future[WorkerAnswer]) -> tuple[Delivered, Payload | None]:
        try:
            answer = answering.result()
        except HandoverFailed as failed:
            return self._no_answer(failed), None
        now_s = self._push.clock.now_s()
        self._slot.judge(now_s, failed=answer.status in (502, 503, 504))
        said = delivered_by(answer.status, answer.headers, answer.payload.content)
        if said.ending is Ending.COMPLETED and len(answer.payload.content) > RESULT_BYTES_MAX:
            said = too_large(len(answer.payload.content))
        return said, answer.payload

    def _no_answer(self, failed: HandoverFailed) -> Delivered:
        worker_id = self._slot.worker.worker_id
        now_s = self._push.clock.now_s()
        if not failed.sent:
            self._slot.broke(now_s, failed.detail)
            return Delivered(ending=Ending.INTERRUPTED, error=failed.detail, reason="worker_unreachable")
        if self._push.fates.asked_to_stop(worker_id):
            return Delivered(ending=Ending.INTERRUPTED, error=failed.detail, reason="worker_stopped")
        alone = self._push.in_flight_at(self._slot) <= 1 or self._alone
        self._slot.broke(now_s, failed.detail)
        return Delivered(
            ending=Ending.WORKER_DIED if alone else Ending.WORKER_DIED_SHARED,
            error=failed.detail,
            exit_code=self._push.fates.exit_code(worker_id),
        )

    async def _end_early(self, answering: asyncio.Future[WorkerAnswer], orderly: bool, *, ask: bool) -> None:
        """Close the connection; have the worker replaced unless it ends the job when asked."""
        if self._handover.cancel_path and ask:
            await self._push.carrier.ask_to_stop(self._handover)
            done, _ = await asyncio.wait((answering,), timeout=SLOT_RETURN_S)
            orderly = orderly or (bool(done) and not isinstance(answering.exception(), HandoverFailed))
        answering.cancel()
        await asyncio.wait((answering,))
        if not answering.cancelled():
            answering.exception()
        if not orderly:
            _log.warning("job.worker_recycled", job=self.job.id, worker=self._slot.worker.worker_id)
            await self._push.fates.recycle(self._slot.worker.worker_id)

    # -- stream chunks -------------------------------------------------------------------------

    def _on_chunk(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush_soon())

    async def _flush_soon(self) -> None:
        await asyncio.sleep(_FLUSH_S)
        await self._flush()

    async def _flush(self) -> None:
        chunks, self._chunks = self._chunks, []
        if chunks:
            try:
                await self._push.queue.store.append_chunks(self.job, chunks)
            except (StorageFull, Unavailable):
                _log.warning("job.chunks_lost", job=self.job.id, chunks=len(chunks))
            self._push.queue.news.tell(self.job.id)


async def booked(job: Job, book: Callable[[], Awaitable[Job | None]]) -> None:
    """Write the end; while nothing can be written the slot stays taken and it is tried again."""
    while True:
        try:
            if await book() is None:
                _log.info("job.stale_delivery_dropped", job=job.id, delivery=job.deliveries)
        except (StorageFull, Unavailable):
            await asyncio.sleep(_FULL_DISK_RETRY_S)
        else:
            return


def too_large(size: int) -> Delivered:
    """What becomes of a job whose result is larger than any may be."""
    error = f"The result has {size} bytes; at most {RESULT_BYTES_MAX} are kept."
    return Delivered(ending=Ending.FAILED, error=error, may_retry=False, reason="result_too_large")

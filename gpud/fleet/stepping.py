"""Brings idle workers down to a rung and back; whatever fails, the worker ends and another starts cold."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpud.core.probing import ProbeOutcome, startup_interval_s
from gpud.core.standby import Rung, after_fault
from gpud.core.worker import Cause, WorkerEvent
from gpud.errors import DependencyDown, GpudError, Unavailable
from gpud.fleet.sleepers import beyond_sleepers
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.hands import Hands
    from gpud.fleet.prober import Prober
    from gpud.ports.steps import Step

_VRAM_LOOK_S = 0.05
_THAW_TIMEOUT_S = 20.0
_INSPECT_EVERY_S = 1.0


class Stepping:
    """The efforts of PAUSED, DOZING, WAKING and DISCARDING workers.

    Args:
        hands: The fleet.
        steps: The rungs this daemon knows.
        prober: Asks a worker whether it is back.
    """

    def __init__(self, hands: Hands, steps: Iterable[Step], prober: Prober) -> None:
        self._hands = hands
        self._steps: Mapping[Rung, Step] = {step.rung: step for step in steps}
        self._prober = prober

    async def survey(self) -> Mapping[Rung, str]:
        """Say why this box cannot have some of the rungs."""
        known = {rung: await step.unavailable() for rung, step in self._steps.items()}
        missing = {
            rung: "This daemon does not know the rung."
            for rung in (Rung.PAUSED, Rung.SLEEPING)
            if rung not in known
        }
        return missing | {rung: why for rung, why in known.items() if why}

    async def pause(self, worker_id: WorkerId) -> None:
        """Freeze a worker, and leave it alone for as long as it is paused."""
        known = self._known(worker_id)
        if known is None:
            return
        worker, endpoint = known
        try:
            await self._steps[Rung.PAUSED].enter(worker, endpoint.spec)
        except Unavailable:
            raise
        except GpudError as error:
            self._failed(worker, Rung.PAUSED, Cause.PAUSE_FAILED, error.detail)
            return
        await asyncio.Event().wait()

    async def doze(self, worker_id: WorkerId) -> None:
        """Put a worker to sleep; its GPUs are free once the driver shows their memory back."""
        known = self._known(worker_id)
        if known is None:
            return
        worker, endpoint = known
        policy = endpoint.spec.sleep
        try:
            async with asyncio.timeout(policy.timeout_s):
                if endpoint.spec.pause.after_idle_s:
                    await self._steps[Rung.PAUSED].leave(worker, endpoint.spec)
                await self._steps[Rung.SLEEPING].enter(worker, endpoint.spec)
                why = await self._await_memory(worker, policy.vram_mib)
        except TimeoutError:
            why = f"It was not asleep {policy.timeout_s:g} s after it was told to (sleep.timeout_s)."
        except GpudError as error:
            why = error.detail
        if why:
            self._failed(worker, Rung.SLEEPING, Cause.SLEEP_FAILED, why)
            return
        self._hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=Cause.FELL_ASLEEP))

    async def wake(self, worker_id: WorkerId) -> None:
        """Bring a worker back to the rung where it serves."""
        known = self._known(worker_id)
        if known is None:
            return
        worker, endpoint = known
        slept = worker.cause is Cause.GPUS_RESERVED
        rung = Rung.SLEEPING if slept else Rung.PAUSED
        timeout_s = endpoint.spec.sleep.timeout_s if slept else _THAW_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                why = await self._busy_gpu(worker) if slept else ""
                if not why:
                    await self._steps[rung].leave(worker, endpoint.spec)
                    self._note_left(worker_id)
                    why = await self._await_answer(worker)
        except TimeoutError:
            why = f"It did not come back within {timeout_s:g} s."
        except DependencyDown:
            raise
        except GpudError as error:
            why = error.detail
        if why:
            self._failed(worker, rung, Cause.WAKE_FAILED, why)
            return
        self._hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=Cause.PROBE_PASSED))

    async def discard(self, worker_id: WorkerId) -> None:
        """Destroy a worker that sleeps; it holds no GPU."""
        await self._hands.runtime.remove_worker(worker_id)
        self._hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=Cause.RELEASED))

    def _known(self, worker_id: WorkerId) -> tuple[Worker, Endpoint] | None:
        worker = self._hands.state.workers.get(worker_id)
        endpoint = self._hands.endpoint_of(worker) if worker else None
        return (worker, endpoint) if worker and endpoint else None

    def _failed(self, worker: Worker, rung: Rung, cause: Cause, detail: str) -> None:
        """A rung cannot be had: it is left alone for a while, and what is on its way to it ends."""
        hands, state = self._hands, self._hands.state

        def note() -> None:
            before = state.standby_faults.get((worker.endpoint, rung))
            fault = after_fault(before, worker.revision, detail, now_s=hands.clock.now_s())
            state.standby_faults[worker.endpoint, rung] = fault
            facts: dict[str, object] = {"rung": rung, "detail": detail}
            hands.reconciler.record(
                "worker.step_failed", facts, endpoint=worker.endpoint, worker_id=worker.id
            )

        hands.reconciler.tell(note)
        force = cause is not Cause.PAUSE_FAILED
        hands.reconciler.post(WorkerEvent(worker_id=worker.id, cause=cause, detail=detail, force=force))

    def _note_left(self, worker_id: WorkerId) -> None:
        marks = self._hands.state.wakes.get(worker_id)
        if marks is not None:
            marks.left_ns = self._hands.clock.boot_ns()

    async def _await_memory(self, worker: Worker, kept_mib: int) -> str:
        """Wait until the GPUs of a worker that was told to sleep have their memory back."""
        hands = self._hands
        if not hands.verifies(worker.gpu_uuids):
            return ""
        limit_mib = hands.settings.idle_memory_mib_max + kept_mib
        while True:
            uses = await beyond_sleepers(hands, await hands.gpus.usage(worker.gpu_uuids), but=worker.id)
            full = [use for use in uses if use.used_mib > limit_mib]
            if len(uses) == len(worker.gpu_uuids) and not full:
                return ""
            told = "; ".join(f"{use.used_mib} MiB in use on {use.uuid}, {limit_mib} allowed" for use in full)
            hands.note(worker.id, f"It was told to sleep and keeps GPU memory: {told}.")
            await asyncio.sleep(_VRAM_LOOK_S)

    async def _busy_gpu(self, worker: Worker) -> str:
        """Say who else uses the GPUs of a worker that is to wake; empty when nobody does."""
        hands = self._hands
        if not hands.verifies(worker.gpu_uuids):
            return ""
        own = set(await hands.runtime.pids(worker.id))
        limit_mib = hands.settings.idle_memory_mib_max + self._kept_mib(worker)
        for use in await beyond_sleepers(hands, await hands.gpus.usage(worker.gpu_uuids), but=worker.id):
            others = set(use.pids) - own
            if others:
                return f"Processes {', '.join(map(str, sorted(others)))} use {use.uuid}, which it needs back."
            if use.used_mib > limit_mib:
                return f"{use.used_mib} MiB of {use.uuid} are in use, which it needs back."
        return ""

    def _kept_mib(self, worker: Worker) -> int:
        endpoint = self._hands.endpoint_of(worker)
        return endpoint.spec.sleep.vram_mib if endpoint else 0

    async def _await_answer(self, worker: Worker) -> str:
        """Probe a worker that was brought back until it answers well; says when its container ended."""
        clock = self._hands.clock
        began_s = inspected_s = clock.now_s()
        while True:
            result = await self._prober.ask(worker)
            if result is None or result.outcome is ProbeOutcome.OK:
                return ""
            now_s = clock.now_s()
            refused = result.outcome is ProbeOutcome.REFUSED
            if refused or now_s - inspected_s >= _INSPECT_EVERY_S:
                inspected_s = now_s
                seen = await self._hands.runtime.inspect_worker(worker.id)
                if seen is None or seen.status is not ContainerStatus.RUNNING:
                    return "Its container does not run any more."
            await asyncio.sleep(startup_interval_s(now_s - began_s, listens=not refused))

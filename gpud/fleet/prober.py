"""Asks workers whether they are well: until ready, and from then on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.endpoint import EndpointType
from gpud.core.probing import (
    FIRST_PROBE_S,
    ProbeOutcome,
    ProbeStreak,
    ReadinessVerdict,
    describe,
    judge,
    judge_pulse,
    startup_interval_s,
)
from gpud.core.worker import Cause, WorkerEvent
from gpud.errors import DependencyDown
from gpud.fleet.outcomes import ended_event
from gpud.fleet.stalls import StallWatch
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import WorkerId
    from gpud.core.probing import ProbeResult
    from gpud.core.worker import Worker
    from gpud.fleet.hands import Hands

_INSPECT_EVERY_S = 1.0
_PIN_CHECK_EVERY_S = 60.0
_RETURN_PERIOD_S = 1.0
_FIRST_CALL_S = 1.0
_LISTENS = frozenset({ProbeOutcome.OK, ProbeOutcome.BAD_STATUS, ProbeOutcome.RESET})


class Prober:
    """The efforts of STARTING, READY and NOT_READY workers; a change of state begins the next one at once."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def answers_at_once(self, worker: Worker, address: str, *, probes: int) -> bool:
        """Ask a worker that was just started, every millisecond for a few; many take longer than that.

        What answers within these is ready in the round that hears of its start.
        """
        asked = replace(worker, address=address)
        if self._calls_itself(worker):
            return False
        for _ in range(probes):
            result = await self._probe(asked)
            if result is not None and result.outcome in _LISTENS:
                self._note_listening(worker.id)
            if result is None or result.outcome is not ProbeOutcome.REFUSED:
                return result is not None and result.outcome is ProbeOutcome.OK
            await asyncio.sleep(FIRST_PROBE_S)
        return False

    async def ask(self, worker: Worker) -> ProbeResult | None:
        """Probe a worker once; None when its endpoint is gone."""
        return await self._probe(worker)

    async def await_ready(self, worker_id: WorkerId) -> None:
        """Probe a starting worker until it answers well, or its container ended."""
        clock = self._hands.clock
        worker = self._hands.state.workers.get(worker_id)
        if worker is None:
            return
        began_s = clock.now_s()
        inspected_s = began_s
        endpoint = self._hands.endpoint_of(worker)
        watch = StallWatch(self._hands, worker_id, endpoint.spec.health.stall_timeout_s if endpoint else 0.0)
        while True:
            result = await self._probe(worker)
            if result is None:
                return
            if result.outcome in _LISTENS:
                self._note_listening(worker_id)
            if result.outcome is ProbeOutcome.OK:
                self._hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=Cause.PROBE_PASSED))
                return
            now_s = clock.now_s()
            if now_s - inspected_s >= _INSPECT_EVERY_S:
                inspected_s = now_s
                self._hands.note(worker_id, self._describe(worker, result))
                await watch.look(self._describe(worker, result))
                if await self._has_ended(worker_id):
                    return
            listens = result.outcome is not ProbeOutcome.REFUSED
            await asyncio.sleep(startup_interval_s(now_s - began_s, listens=listens))

    def _note_listening(self, worker_id: WorkerId) -> None:
        timeline = self._hands.state.timelines.get(worker_id)
        if timeline is not None and not timeline.listening_ns:
            timeline.listening_ns = self._hands.clock.boot_ns()

    async def watch_health(self, worker_id: WorkerId) -> None:
        """Probe a ready worker for as long as it is."""
        hands = self._hands
        endpoint = self._endpoint_of(worker_id)
        if endpoint is None:
            return
        health = endpoint.spec.health
        pin_checked_s = float("-inf")
        streak = ProbeStreak()
        await asyncio.sleep(health.period_s * hands.ids.fraction())
        while True:
            worker = hands.state.workers.get(worker_id)
            result = await self._probe(worker) if worker else None
            if worker is None or result is None:
                return
            streak, verdict = judge(
                streak,
                result,
                in_flight=hands.traffic.worker_in_flight(worker_id),
                fail_threshold=health.fail_threshold,
            )
            if verdict is ReadinessVerdict.BECAME_NOT_READY:
                detail = self._describe(worker, result)
                hands.reconciler.post(
                    WorkerEvent(worker_id=worker_id, cause=Cause.PROBE_FAILED, detail=detail)
                )
                return
            if hands.clock.now_s() - pin_checked_s >= _PIN_CHECK_EVERY_S:
                pin_checked_s = hands.clock.now_s()
                if not await self._pin_holds(worker):
                    return
            await asyncio.sleep(health.period_s)

    async def await_return(self, worker_id: WorkerId) -> None:
        """Probe a worker that is out of rotation until it answers well; requests may wait for it."""
        endpoint = self._endpoint_of(worker_id)
        if endpoint is None:
            return
        pause_s = min(endpoint.spec.health.period_s, _RETURN_PERIOD_S)
        while True:
            worker = self._hands.state.workers.get(worker_id)
            result = await self._probe(worker) if worker else None
            if result is None:
                return
            if result.outcome is ProbeOutcome.OK:
                self._hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=Cause.PROBE_PASSED))
                return
            await asyncio.sleep(pause_s)

    def _endpoint_of(self, worker_id: WorkerId) -> Endpoint | None:
        worker = self._hands.state.workers.get(worker_id)
        return self._hands.endpoint_of(worker) if worker else None

    async def _probe(self, worker: Worker) -> ProbeResult | None:
        endpoint = self._hands.endpoint_of(worker)
        if endpoint is None:
            return None
        if endpoint.spec.type is EndpointType.QUEUE:
            return await self._listen(worker)
        health = endpoint.spec.health
        asked_ns = self._hands.clock.boot_ns()
        result = await self._hands.probe.probe(
            worker.address, worker.port, health.path, timeout_s=health.timeout_s
        )
        if result.status:
            self._hands.reconciler.worker_alive(worker.id, at_boot_ns=asked_ns)
        return result

    def _calls_itself(self, worker: Worker) -> bool:
        endpoint = self._hands.endpoint_of(worker)
        return endpoint is not None and endpoint.spec.type is EndpointType.QUEUE

    async def _listen(self, worker: Worker) -> ProbeResult:
        """Hear whether a worker that fetches its jobs has called lately."""
        pulse = await self._hands.line.pulse(worker.id, wait_s=_FIRST_CALL_S)
        if pulse.silent_s is not None:
            heard_ns = self._hands.clock.boot_ns() - int(pulse.silent_s * 1e9)
            self._hands.reconciler.worker_alive(worker.id, at_boot_ns=heard_ns)
        return judge_pulse(pulse.silent_s, pulse.complaint)

    def _describe(self, worker: Worker, result: ProbeResult) -> str:
        endpoint = self._hands.endpoint_of(worker)
        path = endpoint.spec.health.path if endpoint else "/"
        return describe(result, address=worker.address, port=worker.port, path=path)

    async def _has_ended(self, worker_id: WorkerId) -> bool:
        try:
            seen = await self._hands.runtime.inspect_worker(worker_id)
        except DependencyDown:
            return False
        if seen is None or seen.status is not ContainerStatus.EXITED:
            return False
        self._hands.reconciler.post(await ended_event(self._hands, worker_id, seen))
        return True

    async def _pin_holds(self, worker: Worker) -> bool:
        """Whether the container's processes are on its own GPUs and on no others."""
        hands = self._hands
        if hands.gpus.source != "nvml" or not worker.gpu_uuids:
            return True
        try:
            pids = set(await hands.runtime.pids(worker.id))
            uses = await hands.gpus.usage(tuple(hands.state.gpus))
        except DependencyDown:
            return True
        strayed = [u.uuid for u in uses if u.uuid not in worker.gpu_uuids and pids & set(u.pids)]
        if not strayed:
            return True
        detail = (
            f"Processes of the container run on {', '.join(strayed)}, which are not its GPUs "
            f"({', '.join(worker.gpu_uuids)}). It was stopped. Does the image start with elevated "
            f"device access, or set its own NVIDIA_VISIBLE_DEVICES?"
        )
        hands.reconciler.post(WorkerEvent(worker_id=worker.id, cause=Cause.PIN_VIOLATED, detail=detail))
        return False

"""Compares the engine with the rows: at start-up, on every hint, and every fifteen seconds."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import structlog

from gpud.core.adoption import ContainerFacts, Verdict, judge_containers
from gpud.core.worker import Cause, WorkerEvent, WorkerState
from gpud.errors import DependencyDown, GpudError
from gpud.fleet.outcomes import ended_event
from gpud.fleet.views import warnings_of
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.fleet.hands import Hands
    from gpud.fleet.prewarmer import Prewarmer
    from gpud.fleet.standby_keeper import StandbyKeeper
    from gpud.ports.containers import EngineInfo, SeenContainer

log = structlog.get_logger(__name__)

_SWEEP_S = 15.0
_RECONNECT_S = (0.2, 1.0, 5.0)
_STRAY_AGE_S = 60.0
_LAUNCH_S = 0.05


class Sweeper:
    """Finds out what happened to containers that gpud did not do itself."""

    def __init__(self, hands: Hands, prewarmer: Prewarmer, keeper: StandbyKeeper) -> None:
        self._hands = hands
        self._prewarmer = prewarmer
        self._keeper = keeper
        self._engine_answered_ns = hands.clock.wall_ns()
        self._up: bool | None = None
        self._strays_since_s: dict[WorkerId, float] = {}
        self._stuck: dict[WorkerId, str] = {}
        self._hurry = asyncio.Event()
        self.tried_s = hands.clock.now_s()

    async def run_sweeps(self) -> None:
        """Sweep for as long as the daemon runs; notices when the engine goes and returns."""
        attempt = 0
        while True:
            self.tried_s = self._hands.clock.now_s()
            try:
                self.note_info(await self._hands.runtime.ping())
                if not self._up:
                    await self._hands.runtime.prepare()
                await self.sweep()
            except DependencyDown as error:
                self.note_engine(up=False, error=error.detail)
                await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])
                attempt += 1
            else:
                self.note_engine(up=True)
                attempt = 0
                await self._until_next_sweep()

    async def _until_next_sweep(self) -> None:
        self._hurry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SWEEP_S):
                await self._hurry.wait()

    async def run_watch(self) -> None:
        """Follow the engine's events, which only make things sooner."""
        attempt = 0
        while True:
            try:
                async with aclosing(self._hands.runtime.watch()) as hints:
                    async for worker_id in hints:
                        attempt = 0
                        await self.look_at(worker_id)
                log.warning("engine.events_ended")
            except DependencyDown as error:
                log.warning("engine.events_unavailable", error=error.detail)
            # An engine that restarts takes its stream with it: what it did is looked at now, while
            # it is still known to be its doing.
            self._hurry.set()
            await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])
            attempt += 1

    async def sweep(self, *, strays_at_once: bool = False) -> None:
        """Compare every container and every endpoint's image with what is believed.

        Args:
            strays_at_once: Remove containers that no row explains though they were never seen before.
        """
        hands = self._hands
        before_ns, looked_ns = hands.clock.wall_ns(), hands.clock.boot_ns()
        seen = {container.worker_id: container for container in await hands.runtime.list_workers()}
        # A GONE one is only forgotten once that is on disk, and explains no container.
        live = {w.id: w for w in hands.state.workers.values() if w.state is not WorkerState.GONE}
        findings = judge_containers(live, [_facts(container) for container in seen.values()])
        strays = {finding.worker_id for finding in findings if finding.verdict is Verdict.STRAY}
        strays -= set(hands.state.standbys)
        if not strays_at_once:
            strays = self._old_among(strays)
        for finding in findings:
            worker_id, verdict = finding.worker_id, finding.verdict
            if verdict is not Verdict.STRAY or worker_id in strays:
                await self._act(worker_id, verdict, seen.get(worker_id), looked_ns=looked_ns)
        await self._keeper.judge(seen, engine_was_away=self._up is False)
        for image in sorted(hands.state.images_wanted(), key=lambda each: each.pin):
            await self._prewarmer.look(image)
        self._engine_answered_ns = before_ns

    async def look_at(self, worker_id: WorkerId) -> None:
        """Look at one worker whose container an event named."""
        if worker_id not in self._hands.state.workers:
            await self._keeper.look_at(worker_id)
            return
        if self._hands.state.workers[worker_id].state is WorkerState.CREATING:
            # It ended while its start is being told of: look once that is known.
            await asyncio.sleep(_LAUNCH_S)
        looked_ns = self._hands.clock.boot_ns()
        seen = await self._hands.runtime.inspect_worker(worker_id)
        worker = self._hands.state.workers.get(worker_id)
        if worker is None:
            return
        facts = [_facts(seen)] if seen else []
        for finding in judge_containers({worker_id: worker}, facts):
            await self._act(worker_id, finding.verdict, seen, looked_ns=looked_ns)

    def _old_among(self, strays: set[WorkerId]) -> set[WorkerId]:
        """Those that have been seen for a minute; the engine's clock may be set, ours may not."""
        now_s = self._hands.clock.now_s()
        self._strays_since_s = {each: self._strays_since_s.get(each, now_s) for each in sorted(strays)}
        return {each for each, since_s in self._strays_since_s.items() if now_s - since_s >= _STRAY_AGE_S}

    async def _act(
        self, worker_id: WorkerId, verdict: Verdict, seen: SeenContainer | None, *, looked_ns: int
    ) -> None:
        hands = self._hands
        match verdict:
            case Verdict.ALIVE:
                hands.reconciler.worker_alive(worker_id, at_boot_ns=looked_ns)
            case Verdict.ENDED if seen is not None:
                hands.reconciler.post(await self._how_it_ended(worker_id, seen))
            case Verdict.MISSING:
                # Never on the word of a single listing.
                if await hands.runtime.inspect_worker(worker_id) is None:
                    detail = "The container was removed by somebody else."
                    event = WorkerEvent(worker_id=worker_id, cause=Cause.VANISHED, detail=detail)
                    hands.reconciler.post(event)
            case Verdict.MISMATCHED:
                detail = "The container's GPUs are not those leased to it; it was stopped."
                event = WorkerEvent(worker_id=worker_id, cause=Cause.INCONSISTENT, detail=detail)
                hands.reconciler.post(event)
            case Verdict.STRAY:
                await self._remove_stray(worker_id)
            case _:
                pass

    async def _how_it_ended(self, worker_id: WorkerId, seen: SeenContainer) -> WorkerEvent:
        """An end while the engine was away is the engine's doing, not the worker's failure."""
        event = await ended_event(self._hands, worker_id, seen)
        engine_was_away = self._up is False and seen.finished_ns >= self._engine_answered_ns
        if not engine_was_away:
            return event
        return WorkerEvent(
            worker_id=worker_id,
            cause=Cause.ENGINE_RESTARTED,
            detail="The Docker Engine was restarted and took the container with it.",
            finished_ns=seen.finished_ns,
            exit_code=seen.exit_code,
        )

    async def _remove_stray(self, worker_id: WorkerId) -> None:
        """Remove a container that nobody asked for; one that stays is tried again in later sweeps.

        Whether the engine answers at all is known from the sweep's other questions.
        """
        runtime, reconciler = self._hands.runtime, self._hands.reconciler
        try:
            tail = await self._hands.last_output(worker_id, bytes_max=4096)
            await runtime.remove_worker(worker_id)
        except GpudError as error:
            if self._stuck.get(worker_id) != error.detail:
                self._stuck[worker_id] = error.detail
                log.warning("worker.stray_not_removed", worker=worker_id, error=error.detail)
            return
        self._stuck.pop(worker_id, None)
        reconciler.tell(
            lambda: reconciler.record("worker.stray_removed", {"log_tail": tail}, worker_id=worker_id)
        )

    def note_info(self, engine: EngineInfo) -> None:
        """Tell what kind of engine it is, when that is news."""
        state, reconciler = self._hands.state, self._hands.reconciler

        def apply() -> None:
            if engine == state.engine:
                return
            state.engine = engine
            facts = {"version": engine.version, "runtime": engine.runtime or engine.default_runtime}
            reconciler.record("engine.examined", {**facts, "warnings": list(warnings_of(engine))})

        reconciler.tell(apply)

    def note_engine(self, *, up: bool, error: str = "") -> None:
        """Tell the reconciler when the engine went away or came back."""
        if up is self._up:
            return
        is_news = self._up is not None or not up
        self._up = up
        state, reconciler, now_s = self._hands.state, self._hands.reconciler, self._hands.clock.now_s()

        def apply() -> None:
            state.engine_up = up
            state.engine_down_since_s = None if up else now_s
            state.engine_error = error
            if is_news:
                reconciler.record("engine.returned" if up else "engine.lost", {} if up else {"error": error})

        reconciler.tell(apply)


def _facts(container: SeenContainer) -> ContainerFacts:
    return ContainerFacts(
        worker_id=container.worker_id,
        running=container.status is ContainerStatus.RUNNING,
        ended=container.status is ContainerStatus.EXITED,
        gpu_uuids=container.gpu_uuids,
    )

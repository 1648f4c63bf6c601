"""Carries out what was decided about standbys: prepares, wakes, looks after and destroys them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpud.core.standby import StandbyState
from gpud.errors import GpudError, ImageNotFound, LaunchFailed, Unavailable
from gpud.fleet.launches import launch_for
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import WorkerId
    from gpud.core.standby import Rung, Standby
    from gpud.core.worker import Worker
    from gpud.fleet.hands import Hands
    from gpud.fleet.standbys import Standbys
    from gpud.ports.containers import SeenContainer, WorkerLaunch
    from gpud.ports.standby import Tier, Woken

log = structlog.get_logger(__name__)

_RETRY_S = (0.2, 1.0, 5.0)
_REACHES = (StandbyState.PREPARING, StandbyState.DISCARDING)


class StandbyKeeper:
    """One effort for each standby that needs one; what it came to is told to the reconciler.

    Args:
        hands: The fleet.
        standbys: Their owner; called through the reconciler.
        tiers: Of the rungs this daemon knows.
        tasks: Owns the efforts; an unknown exception in one ends the daemon.
    """

    def __init__(
        self, hands: Hands, standbys: Standbys, tiers: Iterable[Tier], tasks: asyncio.TaskGroup
    ) -> None:
        self._hands = hands
        self._standbys = standbys
        self._tiers: Mapping[Rung, Tier] = {tier.rung: tier for tier in tiers}
        self._tasks = tasks
        self._running: dict[WorkerId, tuple[StandbyState, asyncio.Task[None]]] = {}
        self._hands_free = False
        self._closed = False
        self._said: dict[WorkerId | Rung, str] = {}

    async def survey(self, others: Mapping[Rung, str]) -> None:
        """Find out which rungs this box can have.

        Args:
            others: Rungs of workers, found out before.
        """
        found = {rung: await tier.unavailable() for rung, tier in self._tiers.items()}
        unavailable = {**others, **{rung: why for rung, why in found.items() if why}}

        def note() -> None:
            self._hands.state.rungs_unavailable = unavailable

        self._hands.reconciler.tell(note)

    def free_hands(self) -> None:
        """The containers left by the daemon before are accounted for: from now on touch them."""
        self._hands_free = True

    def close(self) -> None:
        """Begin nothing more; containers stay as they are."""
        self._closed = True
        for _state, task in self._running.values():
            task.cancel()

    def follow(self, *, may_start: bool) -> None:
        """Bring the running efforts in line with the standbys' states.

        Args:
            may_start: False while changes are not on disk: nothing is prepared then.
        """
        if self._closed or not self._hands_free:
            return
        for standby_id in [s for s in self._running if s not in self._hands.state.standbys]:
            self._running.pop(standby_id)
        for standby in self._hands.state.standbys.values():
            running = self._running.get(standby.id)
            if standby.state not in _REACHES or (running is not None and running[0] is standby.state):
                continue
            if standby.state is StandbyState.PREPARING and not may_start:
                continue
            effort = self._prepare if standby.state is StandbyState.PREPARING else self._discard
            before = running[1] if running is not None else None
            task = self._tasks.create_task(
                self._after(before, effort, standby.id), name=f"{standby.state}:{standby.id}"
            )
            self._running[standby.id] = (standby.state, task)

    async def wake(self, worker: Worker, launch: WorkerLaunch) -> Woken | None:
        """Have a claimed standby become its worker; None when there is none, or it did not come back.

        In the second case nothing of its container is left, and the worker is to be started cold.
        """
        standby = self._hands.state.standbys.get(worker.id)
        if standby is None or standby.state is not StandbyState.CLAIMED:
            return None
        tier = self._tiers.get(standby.rung)
        try:
            if tier is not None:
                return await tier.leave(launch, standby)
            why = "this daemon does not know its rung"
        except Unavailable:
            raise
        except GpudError as error:
            why = error.detail
        await self._destroy(standby)
        self._hands.reconciler.tell(lambda: self._standbys.fell_through(worker.id, why))
        return None

    async def end_triggered(self) -> None:
        """Destroy standbys that were triggered by a daemon that ended before it could write so.

        Their applications run, on GPUs that nothing says are taken; so this comes before anybody may start.
        One that cannot be looked at may be such a one.
        """
        for standby in list(self._hands.state.standbys.values()):
            tier = self._tiers.get(standby.rung)
            if standby.state is not StandbyState.READY or tier is None:
                continue
            why, counts = "It was triggered by a daemon that ended at that moment.", False
            try:
                was_left = await tier.was_left(standby)
            except Unavailable:
                raise
            except GpudError as error:
                was_left, why, counts = True, f"Whether it was triggered cannot be told. {error.detail}", True
            if was_left:
                await self._destroy(standby)
                self._hands.reconciler.tell(partial(self._standbys.failed, standby.id, why, counts=counts))

    def needs_engine(self, worker_id: WorkerId) -> bool:
        """Whether starting this worker is a start of the engine."""
        standby = self._hands.state.standbys.get(worker_id)
        tier = self._tiers.get(standby.rung) if standby is not None else None
        return tier is None or tier.uses_engine

    async def judge(self, seen: Mapping[WorkerId, SeenContainer], *, engine_was_away: bool) -> None:
        """Compare every ready standby with what the engine shows, and tidy up behind the others."""
        for standby in list(self._hands.state.standbys.values()):
            if standby.state is StandbyState.READY:
                await self._judge(standby, seen.get(standby.id), engine_was_away=engine_was_away)
        for tier in self._tiers.values():
            await self._tidy(tier)

    async def _tidy(self, tier: Tier) -> None:
        """Let go of what is kept for containers that are gone; what cannot be is tried again next time."""
        state = self._hands.state
        try:
            leftovers = await tier.leftovers()
        except Unavailable:
            raise
        except GpudError as error:
            self._say(tier.rung, error.detail)
            return
        self._said.pop(tier.rung, None)
        for worker_id in leftovers:
            if worker_id not in state.standbys and worker_id not in state.workers:
                await self._let_go(tier, worker_id)

    async def _let_go(self, tier: Tier, worker_id: WorkerId) -> None:
        """Have a rung forget a container; what it cannot forget now is a leftover that is met again."""
        try:
            await tier.discard(worker_id)
        except Unavailable:
            raise
        except GpudError as error:
            self._say(worker_id, error.detail)
        else:
            self._said.pop(worker_id, None)

    def _say(self, about: WorkerId | Rung, detail: str) -> None:
        """Say once what is tried again and again."""
        if self._said.get(about) != detail:
            self._said[about] = detail
            log.warning("standby.not_tidied", about=about, error=detail)

    async def look_at(self, standby_id: WorkerId) -> None:
        """Look at one standby whose container an event named."""
        standby = self._hands.state.standbys.get(standby_id)
        if standby is not None and standby.state is StandbyState.READY:
            await self._judge(standby, None, engine_was_away=False)

    async def _judge(self, standby: Standby, seen: SeenContainer | None, *, engine_was_away: bool) -> None:
        if seen is None:  # Never on the word of a listing alone.
            seen = await self._hands.runtime.inspect_worker(standby.id)
        tier = self._tiers.get(standby.rung)
        if seen is None:
            why = "The container was removed by somebody else."
        elif tier is None:
            why = "This daemon does not know its rung."
        else:
            why = await self._left_rung(tier, standby, seen)
        if why:
            ended_by_itself = seen is not None and seen.status is ContainerStatus.EXITED
            counts = ended_by_itself and not engine_was_away
            self._hands.reconciler.tell(lambda: self._standbys.failed(standby.id, why, counts=counts))

    @staticmethod
    async def _left_rung(tier: Tier, standby: Standby, seen: SeenContainer) -> str:
        try:
            return await tier.kept(standby, seen)
        except Unavailable:
            raise
        except GpudError as error:
            return f"Whether it is still there cannot be told. {error.detail}"

    async def _prepare(self, standby_id: WorkerId) -> None:
        standby = self._hands.state.standbys.get(standby_id)
        endpoint = self._endpoint_of(standby) if standby else None
        tier = self._tiers.get(standby.rung) if standby else None
        if standby is None or endpoint is None or tier is None or endpoint.revision != standby.revision:
            self._hands.reconciler.tell(lambda: self._standbys.unknown(standby_id))
            return
        launch = launch_for(
            self._hands,
            endpoint,
            worker_id=standby.id,
            revision=standby.revision,
            port=endpoint.spec.port,
            gpu_uuids=standby.gpu_uuids,
        )
        try:
            seen = await tier.enter(launch)
        except Unavailable:
            raise
        except ImageNotFound as error:
            vanished = error.detail
            self._hands.reconciler.tell(lambda: self._standbys.image_vanished(standby_id, vanished))
            return
        except GpudError as error:
            detail = error.detail
            self._hands.reconciler.tell(lambda: self._standbys.failed(standby_id, detail, counts=True))
            return
        self._hands.reconciler.tell(lambda: self._standbys.prepared(standby_id, seen.address))

    async def _discard(self, standby_id: WorkerId) -> None:
        standby = self._hands.state.standbys.get(standby_id)
        if standby is not None:
            await self._destroy(standby)
        self._hands.reconciler.tell(lambda: self._standbys.forget(standby_id))

    async def _destroy(self, standby: Standby) -> None:
        tier = self._tiers.get(standby.rung)
        if tier is not None:
            await self._let_go(tier, standby.id)
        await self._hands.runtime.remove_worker(standby.id)

    async def _after(
        self,
        before: asyncio.Task[None] | None,
        effort: Callable[[WorkerId], Awaitable[None]],
        standby_id: WorkerId,
    ) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        attempt = 0
        while True:
            try:
                await effort(standby_id)
            except (Unavailable, LaunchFailed) as error:
                wait_s = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
                log.warning("standby.postponed", standby=standby_id, error=error.detail, retry_in_s=wait_s)
                attempt += 1
                await asyncio.sleep(wait_s)
            else:
                return

    def _endpoint_of(self, standby: Standby) -> Endpoint | None:
        state = self._hands.state
        present = state.endpoints.get(standby.endpoint)
        return state.made_for.get(standby.id) or (state.serving(present) if present else None)

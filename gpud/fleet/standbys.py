"""The standbys as the reconciler owns them: made, claimed, dropped, each change with its row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.ids import WorkerId
from gpud.core.records import StandbyForgotten, StandbySaved
from gpud.core.standby import (
    ClaimStandby,
    DropStandby,
    NewStandby,
    Standby,
    StandbySeen,
    StandbyState,
    after_fault,
)
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from typing import Protocol

    from gpud.core.standby import StandbyBudget
    from gpud.core.worker import Worker
    from gpud.fleet.journal import Journal
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock, IdSource

    class Record(Protocol):
        """Records an event for people."""

        def __call__(
            self, kind: str, facts: dict[str, object], *, endpoint: str = "", worker_id: str = ""
        ) -> None:
            """Write it with the round under way."""
            ...


_BEFORE_START = frozenset({WorkerState.PENDING, WorkerState.RESERVED, WorkerState.CREATING})


class Standbys:
    """Writes the standbys of the fleet's state; called in the reconciler's task alone.

    Args:
        state: The fleet.
        budget: From the settings.
        record: Of events for people.
    """

    def __init__(
        self,
        *,
        state: FleetState,
        journal: Journal,
        clock: Clock,
        ids: IdSource,
        budget: StandbyBudget,
        record: Record,
    ) -> None:
        self._state = state
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._budget = budget
        self._record = record

    def seen(self, *, closed: bool) -> StandbySeen:
        """All of them, for the core."""
        state = self._state
        return StandbySeen(
            standbys=dict(state.standbys),
            budget=self._budget,
            unavailable=state.rungs_unavailable,
            faults=dict(state.standby_faults),
            closed=closed,
        )

    def make(self, change: NewStandby) -> None:
        """Write a standby that is to be prepared."""
        endpoint = self._state.serving(self._state.endpoints[change.endpoint])
        standby = Standby(
            id=WorkerId(self._ids.new_id("wk")),
            endpoint=endpoint.name,
            revision=endpoint.revision,
            rung=change.rung,
            state=StandbyState.PREPARING,
            since_s=self._clock.now_s(),
            created_at_ms=self._clock.at_ms(),
            gpu_uuids=change.gpu_uuids,
            ram_mib=change.ram_mib,
        )
        self._state.made_for[standby.id] = endpoint
        self._save(standby)

    def drop(self, change: DropStandby) -> bool:
        """Have a standby destroyed; False when it is on its way already."""
        standby = self._state.standbys.get(change.standby_id)
        if standby is None or standby.state in (StandbyState.DISCARDING, StandbyState.CLAIMED):
            return False
        self._discard(standby, change.why)
        return True

    def unknown(self, standby_id: WorkerId) -> None:
        """A standby that nothing here can prepare is destroyed."""
        self.drop(DropStandby(standby_id=standby_id, why="not_asked_for"))

    def claim(self, change: ClaimStandby) -> Standby | None:
        """Mark a standby as the one that becomes a worker; None when it is not there to be claimed."""
        standby = self._state.standbys.get(change.standby_id)
        if standby is None or standby.state is not StandbyState.READY:
            return None
        self._save(replace(standby, state=StandbyState.CLAIMED, since_s=self._clock.now_s()))
        return standby

    def prepared(self, standby_id: WorkerId, address: str) -> None:
        """A standby is where it should be."""
        standby = self._state.standbys.get(standby_id)
        if standby is None or standby.state is not StandbyState.PREPARING:
            return
        now_s = self._clock.now_s()
        took_ms = round((now_s - standby.since_s) * 1000, 3)
        self._save(replace(standby, state=StandbyState.READY, address=address, since_s=now_s))
        self._state.standby_faults.pop((standby.endpoint, standby.rung), None)
        facts: dict[str, object] = {"rung": standby.rung, "took_ms": took_ms}
        self._record("standby.prepared", facts, endpoint=standby.endpoint, worker_id=standby.id)

    def failed(self, standby_id: WorkerId, detail: str, *, counts: bool) -> None:
        """A standby could not be brought or kept where it should be.

        Args:
            standby_id: Which.
            detail: What happened, for a person.
            counts: It says something about the rung, which is then not tried again for a while.
        """
        standby = self._state.standbys.get(standby_id)
        if standby is None or standby.state in (StandbyState.DISCARDING, StandbyState.CLAIMED):
            return
        if counts:
            key = (standby.endpoint, standby.rung)
            before = self._state.standby_faults.get(key)
            fault = after_fault(before, standby.revision, detail, now_s=self._clock.now_s())
            self._state.standby_faults[key] = fault
        facts: dict[str, object] = {"rung": standby.rung, "detail": detail}
        self._record("standby.failed", facts, endpoint=standby.endpoint, worker_id=standby.id)
        self._discard(standby, "failed", told=False)

    def image_vanished(self, standby_id: WorkerId, detail: str) -> None:
        """The image is not on the box any more: nothing is prepared from it until it was pulled again."""
        made_for = self._state.made_for.get(standby_id)
        if made_for is not None:
            self._state.images_present.discard(made_for.image.pin)
        self.failed(standby_id, detail, counts=False)

    def fell_through(self, worker_id: WorkerId, detail: str) -> None:
        """A claimed standby did not come back: its worker starts cold, and says why."""
        standby = self._state.standbys.get(worker_id)
        if standby is None:
            return
        facts: dict[str, object] = {"rung": standby.rung, "detail": detail}
        self._record("standby.failed", facts, endpoint=standby.endpoint, worker_id=worker_id)

    def forget(self, standby_id: WorkerId) -> None:
        """Nothing is left of a standby as such."""
        if self._state.standbys.pop(standby_id, None) is not None:
            self._journal.add(StandbyForgotten(standby_id=standby_id))
            if standby_id not in self._state.workers:
                self._state.made_for.pop(standby_id, None)

    def follow_worker(self, after: Worker) -> None:
        """Leave the container of a claimed standby to its worker once it runs, or destroy it without one."""
        standby = self._state.standbys.get(after.id)
        if standby is None or standby.state is not StandbyState.CLAIMED or after.state in _BEFORE_START:
            return
        if after.state is WorkerState.GONE:
            self._discard(standby, after.cause)
        elif after.state is WorkerState.STARTING:
            self.forget(after.id)

    def end_with_boot(self) -> None:
        """The machine was restarted: what is left of any standby is an ended container."""
        for standby in list(self._state.standbys.values()):
            if standby.state is not StandbyState.DISCARDING:
                self._discard(standby, "rebooted")

    def _discard(self, standby: Standby, why: str, *, told: bool = True) -> None:
        self._save(replace(standby, state=StandbyState.DISCARDING, detail=why, since_s=self._clock.now_s()))
        if told:
            facts: dict[str, object] = {"rung": standby.rung, "why": why}
            self._record("standby.dropped", facts, endpoint=standby.endpoint, worker_id=standby.id)

    def _save(self, standby: Standby) -> None:
        self._state.standbys[standby.id] = standby
        self._journal.add(StandbySaved(standby=standby))

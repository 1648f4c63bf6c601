"""Takes the fleet over from the daemon before: rows, leases, segments, and what still runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.revision import at_present
from gpud.core.worker import Cause, WorkerEvent, WorkerState
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from gpud.core.ids import WorkerId
    from gpud.core.standby import Standby
    from gpud.core.worker import Worker
    from gpud.fleet.hands import Hands
    from gpud.fleet.meter import Meter
    from gpud.ports.containers import SeenContainer
    from gpud.ports.store import FleetRows

_SERVING = (
    WorkerState.STARTING,
    WorkerState.READY,
    WorkerState.NOT_READY,
    WorkerState.PAUSED,
    WorkerState.DOZING,
    WorkerState.SLEEPING,
    WorkerState.WAKING,
    WorkerState.DRAINING,
)


class Adoption:
    """One start-up's work.

    What was paused is brought back. What was READY is out of rotation until a probe says that it still
    answers: its container may have ended, and its address may be another's by now. The meter writes nothing
    about the time that nobody watched until the engine has told what became of it.
    """

    def __init__(self, hands: Hands, meter: Meter, rows: FleetRows) -> None:
        self._hands = hands
        self._meter = meter
        self._rows = rows
        self._unsettled = {worker.id for worker in rows.workers if worker.state in _SERVING}

    @property
    def rebooted(self) -> bool:
        """Whether the machine was restarted since the last daemon."""
        heartbeat = self._rows.heartbeat
        return heartbeat is not None and heartbeat[0] != self._hands.clock.boot_id

    @property
    def goes_on(self) -> bool:
        """Whether there may be workers of the last daemon to adopt."""
        return self._rows.heartbeat is not None and not self.rebooted

    def load(self) -> None:
        """Put the rows into memory; workers of an earlier boot ended with it."""
        state, heartbeat = self._hands.state, self._rows.heartbeat
        for endpoint in self._rows.endpoints:
            state.endpoints[endpoint.name] = endpoint
            known = self._rows.predictions.get(endpoint.name)
            if known is not None:
                state.recall(endpoint.name).prediction = known
        state.revisions.load(self._rows.revisions, self._rows.revision_numbers)
        self._hands.reconciler.rollouts.resume(self._rows.rollouts)
        for worker in self._rows.workers:
            state.workers[worker.id] = worker
            self._recall_what_it_was_made_from(worker)
        for standby in self._rows.standbys:
            state.standbys[standby.id] = standby
            self._recall_what_it_was_made_from(standby)
        for start in self._rows.cold_starts:
            state.recall(start.endpoint).recollect(start)
        if heartbeat is None:
            return
        _, heartbeat_ns, wall_ms = heartbeat
        if self.rebooted:
            self._end_with_boot(heartbeat_ns)
            return
        self._meter.resume(
            self._rows.open_segments,
            self._rows.workers,
            heartbeat_ns=heartbeat_ns,
            wall_ms=wall_ms,
            slept=self._rows.slept,
        )
        for worker in self._rows.workers:
            if worker.state in (WorkerState.READY, WorkerState.PAUSED):
                self._post(worker.id, Cause.ADOPTED)

    def _recall_what_it_was_made_from(self, worker: Worker | Standby) -> None:
        """A worker of an earlier revision is probed and stopped as that revision says."""
        state = self._hands.state
        record = state.revisions.get(worker.endpoint, worker.revision)
        if record is not None:
            present = state.endpoints.get(worker.endpoint)
            state.made_for[worker.id] = record.endpoint if present is None else at_present(record, present)

    def settle(self, seen: tuple[SeenContainer, ...], *, looked_boot_ns: int) -> None:
        """Tell which workers were taken over, once the engine has told what runs.

        What ended meanwhile is told to the reconciler by the sweep, whose first pass follows.

        Args:
            seen: Every container of this install.
            looked_boot_ns: When the engine was asked: what runs may have ended since.
        """
        if self.rebooted:
            return
        running = {each.worker_id for each in seen if each.status is ContainerStatus.RUNNING}
        for worker_id in running:
            self._meter.alive(worker_id, at_boot_ns=looked_boot_ns)
        for worker in self._rows.workers:
            if worker.id in self._unsettled & running:
                self._tell_adopted(worker)
        self._unsettled.clear()

    def _end_with_boot(self, heartbeat_ns: int) -> None:
        reconciler = self._hands.reconciler
        segments = {segment.worker_id: segment for segment in self._rows.open_segments}
        for worker in self._rows.workers:
            if worker.id in segments:
                self._meter.ended_with_boot(worker, segments[worker.id], at_boot_ns=heartbeat_ns)
            self._post(worker.id, Cause.REBOOTED, "The machine was restarted.")
        facts = {"workers": len(self._rows.workers)}
        reconciler.tell(reconciler.standbys.end_with_boot)
        reconciler.tell(lambda: reconciler.record("daemon.found_reboot", facts))

    def _tell_adopted(self, worker: Worker) -> None:
        reconciler = self._hands.reconciler
        heartbeat_ns = self._rows.heartbeat[1] if self._rows.heartbeat else 0
        away_ms = (self._hands.clock.boot_ns() - heartbeat_ns) // 1_000_000
        facts = {"state": worker.state, "unsupervised_ms": away_ms}
        reconciler.tell(
            lambda: reconciler.record("worker.adopted", facts, endpoint=worker.endpoint, worker_id=worker.id)
        )

    def _post(self, worker_id: WorkerId, cause: Cause, detail: str = "") -> None:
        self._hands.reconciler.post(WorkerEvent(worker_id=worker_id, cause=cause, detail=detail))

"""Takes the fleet over from the daemon before: rows, leases, segments, and what still runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gpud.core.worker import Cause, WorkerEvent, WorkerState
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from gpud.core.worker import Worker
    from gpud.fleet.hands import Hands
    from gpud.fleet.meter import Meter
    from gpud.ports.containers import SeenContainer
    from gpud.ports.store import FleetRows

log = structlog.get_logger(__name__)

_JUMP_NS = 500_000_000
"""A wall clock that moved this much against CLOCK_BOOTTIME makes engine timestamps useless."""

_SERVING = (WorkerState.STARTING, WorkerState.READY, WorkerState.NOT_READY, WorkerState.DRAINING)


class Adoption:
    """One start-up's work, done before the first round."""

    def __init__(self, hands: Hands, meter: Meter, rows: FleetRows) -> None:
        self._hands = hands
        self._meter = meter
        self._rows = rows

    def load(self) -> None:
        """Put the rows into memory; workers of an earlier boot ended with it."""
        state, clock = self._hands.state, self._hands.clock
        for endpoint in self._rows.endpoints:
            state.endpoints[endpoint.name] = endpoint
        heartbeat = self._rows.heartbeat
        serving = [worker.id for worker in self._rows.workers if worker.state in _SERVING]
        self._meter.resume(self._rows.open_segments, unwatched=serving if heartbeat else ())
        rebooted = heartbeat is not None and heartbeat[0] != clock.boot_id
        for worker in self._rows.workers:
            state.workers[worker.id] = worker
            if rebooted and heartbeat is not None:
                self._meter.ended_with_boot(worker, at_boot_ns=heartbeat[1])
                detail = "The machine was restarted."
                event = WorkerEvent(worker_id=worker.id, cause=Cause.REBOOTED, detail=detail)
                self._hands.reconciler.post(event)
        if rebooted:
            self._hands.reconciler.tell(
                lambda: self._hands.reconciler.record(
                    "daemon.found_reboot", {"workers": len(self._rows.workers)}
                )
            )

    def settle(self, seen: tuple[SeenContainer, ...], *, looked_boot_ns: int) -> None:
        """Account for the time nobody watched, once the engine has told what runs.

        Workers whose container runs go on; the rest is told to the reconciler by the sweep,
        whose first pass follows.

        Args:
            seen: Every container of this install.
            looked_boot_ns: When the engine was asked: what runs may have ended since.
        """
        heartbeat = self._rows.heartbeat
        if heartbeat is None or heartbeat[0] != self._hands.clock.boot_id:
            return
        by_worker = {container.worker_id: container for container in seen}
        for worker in list(self._hands.state.workers.values()):
            if not self._meter.is_unwatched(worker.id):
                continue
            container = by_worker.get(worker.id)
            if container is not None and container.status is ContainerStatus.RUNNING:
                self._go_on(worker, container, heartbeat[1], looked_boot_ns)
            else:
                self._close_unwatched(worker, container, heartbeat)

    def _go_on(self, worker: Worker, container: SeenContainer, heartbeat_ns: int, looked_ns: int) -> None:
        in_flight = self._hands.traffic.worker_in_flight(worker.id)
        self._meter.unsupervised(worker, since_boot_ns=heartbeat_ns)
        self._meter.supervised(worker, in_flight=in_flight, since_boot_ns=looked_ns)
        if worker.state not in _SERVING:
            return  # It was told to stop since this daemon began.
        reconciler = self._hands.reconciler
        event = WorkerEvent(worker_id=worker.id, cause=Cause.ADOPTED, address=container.address)
        reconciler.post(event)
        facts = {"state": worker.state, "unsupervised_ms": self._away_ms(heartbeat_ns)}
        reconciler.tell(
            lambda: reconciler.record("worker.adopted", facts, endpoint=worker.endpoint, worker_id=worker.id)
        )

    def _close_unwatched(
        self, worker: Worker, container: SeenContainer | None, heartbeat: tuple[str, int, int]
    ) -> None:
        """End the meter where the container ended, or where it was last known to run."""
        clock, meter = self._hands.clock, self._meter
        _, heartbeat_ns, heartbeat_wall_ms = heartbeat
        drift_ns = (clock.wall_ns() - heartbeat_wall_ms * 1_000_000) - (clock.boot_ns() - heartbeat_ns)
        told = container.finished_ns if container is not None else 0
        if not told or abs(drift_ns) > _JUMP_NS:
            meter.ended_at(worker, at_boot_ns=heartbeat_ns, estimated=True)
            return
        end_ns = min(meter.engine_moment_ns(told), clock.boot_ns())
        if end_ns > heartbeat_ns:
            meter.unsupervised(worker, since_boot_ns=heartbeat_ns)
        meter.ended_at(worker, at_boot_ns=end_ns, estimated=False)

    def _away_ms(self, heartbeat_ns: int) -> int:
        return (self._hands.clock.boot_ns() - heartbeat_ns) // 1_000_000

"""What must hold after every step, whatever goes wrong, and what must hold once nothing does any more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gpud.core.worker import COUNTED, HOLDS_GPUS, WorkerState

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from gpud.core.routing import RoutingTable
    from tests.sim.box import Box
    from tests.sim.daemon import Daemon


class Invariants:
    """Checks one box and whichever daemon runs on it.

    The routing table is swapped in every round of the reconciler and in the same turn of the
    loop as the changes it shows, so a new table is when there is something to look at.
    """

    def __init__(self, box: Box) -> None:
        self._box = box
        self._daemon: Daemon | None = None
        self._seen: RoutingTable | None = None
        self._counted: Counter[EndpointName] = Counter()

    def watch(self, daemon: Daemon) -> None:
        """Look at another run of the daemon from now on."""
        self._daemon = daemon
        self._seen = daemon.dispatcher.table
        self._counted = Counter()

    def step(self) -> None:
        """Check after one turn of the loop."""
        assert not self._box.breaches, self._box.breaches[0]
        daemon = self._daemon
        if daemon is None or daemon.killed or daemon.dispatcher.table is self._seen:
            return
        self._seen = daemon.dispatcher.table
        self._gpus_are_held_once(daemon)
        self._workers_are_within_bounds(daemon)
        self._routes_lead_to_ready_workers(daemon)

    def _gpus_are_held_once(self, daemon: Daemon) -> None:
        holders: dict[GpuUuid, WorkerId] = {}
        for worker in daemon.fleet.state.workers.values():
            if worker.state not in HOLDS_GPUS:
                continue
            for uuid in worker.gpu_uuids:
                assert uuid not in holders, f"{uuid} is held by {holders[uuid]} and by {worker.id}."
                holders[uuid] = worker.id

    def _workers_are_within_bounds(self, daemon: Daemon) -> None:
        """Never more than `max_workers` of the present revision, unless the bound was lowered below them."""
        state = daemon.fleet.state
        counted: Counter[EndpointName] = Counter()
        for worker in state.workers.values():
            endpoint = state.endpoints.get(worker.endpoint)
            if endpoint is not None and worker.revision == endpoint.revision and worker.state in COUNTED:
                counted[worker.endpoint] += 1
        for name, number in counted.items():
            most = max(state.endpoints[name].spec.scale.max_workers, self._counted[name])
            assert number <= most, f"{name} has {number} workers; {most} are allowed."
        self._counted = counted

    def _routes_lead_to_ready_workers(self, daemon: Daemon) -> None:
        workers = daemon.fleet.state.workers
        for route in daemon.dispatcher.table.routes.values():
            for each in route.workers:
                worker = workers.get(each.worker_id)
                assert worker is not None, (
                    f"{each.worker_id} is in the routes of {route.endpoint} and not there."
                )
                assert worker.state is WorkerState.READY, f"{worker.id} is {worker.state} and in the routes."

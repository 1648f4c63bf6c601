"""What must hold after every step, whatever goes wrong, and what must hold once nothing does any more."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gpud.core.rollout import TRYING
from gpud.core.worker import COUNTED, HOLDS_GPUS, STARTING_UP, WorkerState
from tests.sim.box import GPU_MIB
from tests.sim.daemon import HEADROOM_MIB

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
    from gpud.core.routing import RoutingTable
    from tests.sim.box import Box
    from tests.sim.daemon import Daemon

_STARTING = STARTING_UP & HOLDS_GPUS


class Invariants:
    """Checks one box and whichever daemon runs on it.

    The routing table is published in every round of the reconciler and in the same turn of the
    loop as the changes it shows, so that is when there is something to look at.
    """

    def __init__(self, box: Box) -> None:
        self._box = box
        self._daemon: Daemon | None = None
        self._published = False
        self._counted: set[WorkerId] = set()

    def watch(self, daemon: Daemon) -> None:
        """Look at another run of the daemon from now on."""
        self._daemon = daemon
        self._published = False
        publish = daemon.dispatcher.publish

        def note_and_publish(table: RoutingTable) -> None:
            self._published = True
            publish(table)

        daemon.dispatcher.publish = note_and_publish  # type: ignore[method-assign]
        self._counted = set(daemon.fleet.state.workers)

    def step(self) -> None:
        """Check after one turn of the loop."""
        assert not self._box.breaches, self._box.breaches[0]
        daemon = self._daemon
        if daemon is None or daemon.killed or not self._published:
            return
        self._published = False
        self._gpus_are_held_once(daemon)
        self._workers_are_within_bounds(daemon)
        self._at_most_two_revisions_begin(daemon)
        self._routes_lead_to_ready_workers(daemon)

    def _gpus_are_held_once(self, daemon: Daemon) -> None:
        holders: dict[GpuUuid, WorkerId] = {}
        reserved_mib: defaultdict[GpuUuid, int] = defaultdict(int)
        for worker in daemon.fleet.state.workers.values():
            if worker.state not in HOLDS_GPUS:
                continue
            for uuid in worker.gpu_uuids if worker.gpu_slice else ():
                reserved_mib[uuid] += worker.gpu_slice.memory_mib if worker.gpu_slice else 0
                assert reserved_mib[uuid] + HEADROOM_MIB <= GPU_MIB, f"{uuid} is over-committed."
            for uuid in worker.gpu_uuids if not worker.gpu_slice else ():
                assert uuid not in holders, f"{uuid} is held by {holders[uuid]} and by {worker.id}."
                holders[uuid] = worker.id
        assert not holders.keys() & reserved_mib.keys(), "A whole worker and a slice are on one GPU."

    def _workers_are_within_bounds(self, daemon: Daemon) -> None:
        """Nobody joins an endpoint that has `max_workers` of its present revision.

        More than that may be there for a while: when the bound was lowered, or when the endpoint
        went back to a revision whose workers had not gone yet.
        """
        state = daemon.fleet.state
        counted = {worker.id: worker for worker in state.workers.values() if worker.state in COUNTED}
        current: defaultdict[EndpointName, list[WorkerId]] = defaultdict(list)
        for worker in counted.values():
            endpoint = state.endpoints.get(worker.endpoint)
            if endpoint is not None and worker.revision == endpoint.revision:
                current[worker.endpoint].append(worker.id)
        for name, ids in current.items():
            most = state.endpoints[name].spec.scale.max_workers
            joined = [worker_id for worker_id in ids if worker_id not in self._counted]
            assert len(ids) <= most or not joined, f"{joined} joined {name}: {len(ids)} of {most} workers."
        self._counted = set(counted)

    def _at_most_two_revisions_begin(self, daemon: Daemon) -> None:
        """A worker is made only of a revision that serves or is on trial, never beside two others."""
        state = daemon.fleet.state
        for name, rollout in state.rollouts.items():
            if not rollout.active:
                continue
            alive: defaultdict[Revision, list[WorkerState]] = defaultdict(list)
            for worker in state.workers.values():
                if worker.endpoint == name and worker.state is not WorkerState.LOST:
                    alive[worker.revision].append(worker.state)
            others = set(alive) - {rollout.base, rollout.target}
            canaries = [each for each in alive[rollout.target] if each in COUNTED]
            if rollout.step in TRYING and others:
                assert not set(canaries) & _STARTING, f"{name} starts {rollout.target} beside {others}."
            if rollout.step in TRYING:
                assert len(canaries) <= 1, f"{name} tries {len(canaries)} workers of {rollout.target}."

    def _routes_lead_to_ready_workers(self, daemon: Daemon) -> None:
        workers = daemon.fleet.state.workers
        for route in daemon.dispatcher.table.routes.values():
            for each in route.workers:
                worker = workers.get(each.worker_id)
                assert worker is not None, (
                    f"{each.worker_id} is in the routes of {route.endpoint} and not there."
                )
                assert worker.state is WorkerState.READY, f"{worker.id} is {worker.state} and in the routes."

"""The routing table as the fleet's state implies it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpud.core.denied import denied_paths
from gpud.core.endpoint import EndpointType
from gpud.core.pieces import PIECE, at_once
from gpud.core.request_rules import quiet_paths
from gpud.core.rollout import RolloutStep
from gpud.core.routing import Refusal, Route, RouteWorker, RoutingTable
from gpud.core.worker import STARTING_UP, WorkerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.budget import BudgetSpent
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName, WorkerId
    from gpud.core.pieces import Pieces
    from gpud.core.starts import StartRecord
    from gpud.core.waiting import WaitReason
    from gpud.core.worker import Worker
    from gpud.fleet.state import FleetState

_DOWN_GRACE_S = 10.0
"""How long requests are still held when the engine or the disk fails: a restart takes seconds."""
_ON_ITS_WAY = tuple(state for state in WorkerState if state in STARTING_UP)
"""From the first step of a start to the last."""


@dataclass(slots=True)
class _Known:
    """A route, and what it was made from."""

    route: Route
    endpoint: Endpoint
    starts: StartRecord
    waits: Sequence[WaitReason]
    expected_start_s: float
    failing: Failing
    spent: BudgetSpent | None


@dataclass(frozen=True, slots=True)
class Failing:
    """What keeps every endpoint from starting workers, for longer than requests are held for it."""

    engine: bool
    disk: bool


class Routes:
    """Makes the table, and makes anew only what has changed since the last time.

    Args:
        state: The fleet.
    """

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._known: dict[EndpointName, _Known] = {}
        self._workers: dict[WorkerId, tuple[Worker, RouteWorker]] = {}
        self._followed: dict[WorkerId, Worker] = {}
        self._table = RoutingTable()
        self._now_s = 0.0
        self._failing = Failing(engine=False, disk=False)

    def table(self, *, now_s: float, full_since_s: float | None) -> RoutingTable:
        """The table the gateway serves from; the same object while nothing in it has changed.

        Args:
            now_s: Loop time.
            full_since_s: Since when nothing can be written, if so.
        """
        return at_once(self.looking(now_s=now_s, full_since_s=full_since_s))

    def looking(self, *, now_s: float, full_since_s: float | None) -> Pieces[RoutingTable]:
        """Make the table some endpoints at a time."""
        state = self._state
        down_s = state.engine_down_since_s
        self._now_s, self._failing = (
            now_s,
            Failing(
                engine=down_s is not None and now_s - down_s > _DOWN_GRACE_S,
                disk=full_since_s is not None and now_s - full_since_s > _DOWN_GRACE_S,
            ),
        )
        ready, phases = self._by_endpoint()
        before, after = self._known, {}
        is_new = len(before) != len(state.endpoints)
        for number, (name, endpoint) in enumerate(state.endpoints.items()):
            if not number % PIECE:
                yield
            known = before.get(name)
            after[name] = self._route(known, endpoint, ready.get(name, ()), phases.get(name, ""))
            is_new |= after[name] is not known
        self._known, self._followed = after, dict(state.workers)
        if is_new or self._table.keys_spent is not state.keys_spent:
            self._table = self._new_table()
        return self._table

    def follow(self) -> RoutingTable:
        """Take in at once which workers and endpoints changed, came or went; all else waits for a look."""
        state, known, followed = self._state, self._known, self._followed
        anew = False
        touched = {w.endpoint for worker_id, w in state.workers.items() if followed.get(worker_id) is not w}
        touched |= {w.endpoint for worker_id, w in followed.items() if worker_id not in state.workers}
        for name, endpoint in state.endpoints.items():
            if name not in known or known[name].endpoint is not endpoint:
                touched.add(name)
                anew = True
        gone = known.keys() - state.endpoints.keys()
        if not touched and not gone:
            return self._table
        self._followed = dict(state.workers)
        for name in gone:
            del known[name]
        ready, phases = self._by_endpoint()
        changed = {}
        for name in touched & state.endpoints.keys():
            before, endpoint = known.get(name), state.endpoints[name]
            known[name] = self._route(before, endpoint, ready.get(name, ()), phases.get(name, ""))
            if known[name] is not before:
                changed[name] = known[name].route
        if anew or gone:
            self._table = self._new_table()
        elif changed:
            self._table = replace(self._table, routes=self._table.routes | changed)
        return self._table

    def _new_table(self) -> RoutingTable:
        aliases: dict[str, EndpointName] = {}
        routes = {}
        for name, known in sorted(self._known.items()):
            routes[name] = known.route
            for alias in known.endpoint.spec.aliases:
                aliases.setdefault(alias, name)
        return RoutingTable(routes=routes, aliases=aliases, keys_spent=self._state.keys_spent)

    def _by_endpoint(self) -> tuple[dict[EndpointName, tuple[RouteWorker, ...]], dict[EndpointName, str]]:
        """READY workers of each endpoint, by id, and the foremost step of those that start."""
        state = self._state
        shifted = {
            name: rollout.target
            for name, rollout in state.rollouts.items()
            if rollout.step is RolloutStep.SHIFT
        }
        ready: dict[EndpointName, list[RouteWorker]] = {}
        steps: dict[EndpointName, int] = {}
        known, self._workers = self._workers, {}
        for worker in state.workers.values():
            if worker.state is WorkerState.READY:
                spare = worker.revision != shifted.get(worker.endpoint, worker.revision)
                kept = known.get(worker.id)
                if kept is None or kept[0] is not worker or kept[1].spare is not spare:
                    kept = worker, self._route_worker(worker, spare=spare)
                self._workers[worker.id] = kept
                ready.setdefault(worker.endpoint, []).append(kept[1])
            elif worker.state in STARTING_UP:
                step = _ON_ITS_WAY.index(worker.state)
                steps[worker.endpoint] = max(step, steps.get(worker.endpoint, 0))
        for workers in ready.values():
            if len(workers) > 1:
                workers.sort(key=_id_of)
        return (
            {name: tuple(workers) for name, workers in ready.items()},
            {name: _ON_ITS_WAY[step].value for name, step in steps.items()},
        )

    def _route_worker(self, worker: Worker, *, spare: bool) -> RouteWorker:
        return RouteWorker(
            worker_id=worker.id,
            address=worker.address,
            port=worker.port,
            spare=spare,
            start_timing=self._state.start_timings.get(worker.id, ""),
        )

    def _route(
        self,
        known: _Known | None,
        endpoint: Endpoint,
        workers: tuple[RouteWorker, ...],
        phase: str,
    ) -> _Known:
        """The route of one endpoint: the known one, while all it was made from is the same."""
        state, name, failing = self._state, endpoint.spec.name, self._failing
        memory, waits = state.recall(name), state.waits.get(name, ())
        if (
            known is not None
            and known.endpoint is endpoint
            and known.starts is memory.starts
            and not memory.starts.open  # else it depends on the moment
            and known.waits == waits
            and known.failing == failing
            and known.spent is state.budgets_spent.get(name)
            and known.route.workers == workers
            and known.route.start_phase == phase
            and known.expected_start_s == memory.expected_start_s
        ):
            return known
        spec = endpoint.spec
        route = Route(
            endpoint=name,
            concurrency=spec.scale.concurrency,
            max_queue=spec.limits.max_queue,
            hold_timeout_s=spec.hold_timeout_s,
            request_timeout_s=spec.limits.request_timeout_s,
            first_request_timeout_s=spec.limits.first_request_timeout_s,
            stream_idle_timeout_s=spec.limits.stream_idle_timeout_s,
            balance=spec.scale.balance,
            public=spec.public,
            forward_authorization=spec.forward_authorization,
            jobs_only=spec.type is EndpointType.QUEUE,
            workers=workers,
            refusal=None if workers else self._refusal(endpoint, memory.starts),
            waiting_for=waits[0].reason if waits else "worker_starting",
            expected_start_s=memory.expected_start_s,
            denied_paths=denied_paths(spec),
            quiet_methods=frozenset(spec.requests.quiet_methods),
            quiet_paths=quiet_paths(spec),
            progress=spec.requests.progress,
            start_phase=phase,
        )
        spent = state.budgets_spent.get(name)
        return _Known(route, endpoint, memory.starts, waits, memory.expected_start_s, failing, spent)

    def _refusal(self, endpoint: Endpoint, starts: StartRecord) -> Refusal | None:
        spent, now_s = self._state.budgets_spent.get(endpoint.name), self._now_s
        if spent is None or not endpoint.spec.scale.max_workers:
            return _refusal(endpoint, starts, self._failing, now_s)
        retry_after_s = max(spent.ends_at_s - now_s, 1.0)
        return Refusal(slug="budget-spent", detail=spent.detail, retry_after_s=retry_after_s)


def _id_of(worker: RouteWorker) -> WorkerId:
    return worker.worker_id


def _refusal(endpoint: Endpoint, starts: StartRecord, failing: Failing, now_s: float) -> Refusal | None:
    """Why a request for an endpoint without ready workers is not even held."""
    if endpoint.spec.scale.max_workers == 0:
        return Refusal(
            slug="unavailable",
            detail=f"Endpoint {endpoint.name} is paused (max_workers is 0). "
            f"Start it with `gpud endpoint scale {endpoint.name} --max-workers 1`.",
        )
    if starts.refuses(now_s=now_s):
        return Refusal(
            slug="start-failed",
            detail=f"{starts.failures} starts of {endpoint.name} failed in a row. "
            f"Last error: {starts.last_error} "
            f"Mend the cause and run `gpud endpoint retry {endpoint.name}`, or wait for the next try.",
            retry_after_s=max(starts.next_try_s - now_s, 0.0),
        )
    if failing.engine:
        return Refusal(
            slug="dependency-down",
            detail="The Docker Engine does not answer, so no worker can start. "
            "Check it with `docker info` and `systemctl status docker`; gpud goes on when it returns.",
            retry_after_s=5.0,
        )
    if failing.disk:
        return Refusal(
            slug="storage-full",
            detail="The disk of gpud's data directory is full, so no worker can be started. "
            "Free some space; gpud goes on by itself.",
            retry_after_s=5.0,
        )
    return None

"""The routing table as the fleet's state implies it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from gpud.core.denied import denied_paths
from gpud.core.endpoint import EndpointType
from gpud.core.request_rules import quiet_paths
from gpud.core.rollout import RolloutStep
from gpud.core.routing import Refusal, Route, RouteWorker, RoutingTable
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import EndpointName
    from gpud.fleet.state import FleetState

_DOWN_GRACE_S = 10.0
"""How long requests are still held when the engine or the disk fails: a restart takes seconds."""


def routing_table(state: FleetState, *, now_s: float, full_since_s: float | None) -> RoutingTable:
    """Build the table the gateway serves from.

    Args:
        state: The fleet.
        now_s: Loop time.
        full_since_s: Since when nothing can be written, if so.
    """
    ready: dict[EndpointName, list[RouteWorker]] = defaultdict(list)
    shifted = {
        name: rollout.target for name, rollout in state.rollouts.items() if rollout.step is RolloutStep.SHIFT
    }
    for worker in sorted(state.workers.values(), key=lambda w: w.id):
        if worker.state is WorkerState.READY:
            route_worker = RouteWorker(
                worker_id=worker.id,
                address=worker.address,
                port=worker.port,
                spare=worker.revision != shifted.get(worker.endpoint, worker.revision),
                start_timing=state.start_timings.get(worker.id, ""),
            )
            ready[worker.endpoint].append(route_worker)
    routes = {}
    aliases: dict[str, EndpointName] = {}
    for name, endpoint in sorted(state.endpoints.items()):
        spec = endpoint.spec
        workers = tuple(ready[name])
        waits = state.waits.get(name, ())
        routes[name] = Route(
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
            refusal=None if workers else _refusal(state, endpoint, now_s, full_since_s),
            waiting_for=waits[0].reason if waits else "worker_starting",
            expected_start_s=state.expected_start_s(name),
            denied_paths=denied_paths(spec),
            quiet_methods=frozenset(spec.requests.quiet_methods),
            quiet_paths=quiet_paths(spec),
            progress=spec.requests.progress,
        )
        for alias in spec.aliases:
            aliases.setdefault(alias, name)
    return RoutingTable(routes=routes, aliases=aliases)


def _refusal(
    state: FleetState, endpoint: Endpoint, now_s: float, full_since_s: float | None
) -> Refusal | None:
    """Why a request for an endpoint without ready workers is not even held."""
    if endpoint.spec.scale.max_workers == 0:
        return Refusal(
            slug="unavailable",
            detail=f"Endpoint {endpoint.name} is paused (max_workers is 0). "
            f"Start it with `gpud endpoint scale {endpoint.name} --max-workers 1`.",
        )
    starts = state.recall(endpoint.name).starts
    if starts.refuses(now_s=now_s):
        return Refusal(
            slug="start-failed",
            detail=f"{starts.failures} starts of {endpoint.name} failed in a row. "
            f"Last error: {starts.last_error} "
            f"Mend the cause and run `gpud endpoint retry {endpoint.name}`, or wait for the next try.",
            retry_after_s=max(starts.next_try_s - now_s, 0.0),
        )
    if state.engine_down_since_s is not None and now_s - state.engine_down_since_s > _DOWN_GRACE_S:
        return Refusal(
            slug="dependency-down",
            detail="The Docker Engine does not answer, so no worker can start. "
            "Check it with `docker info` and `systemctl status docker`; gpud goes on when it returns.",
            retry_after_s=5.0,
        )
    if full_since_s is not None and now_s - full_since_s > _DOWN_GRACE_S:
        return Refusal(
            slug="storage-full",
            detail="The disk of gpud's data directory is full, so no worker can be started. "
            "Free some space; gpud goes on by itself.",
            retry_after_s=5.0,
        )
    return None

"""The fleet as people see it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.engine_advice import engine_warnings
from gpud.core.windows import NO_WINDOW
from gpud.core.worker import STARTING_UP, WorkerState
from gpud.ports.control import EndpointCondition, EndpointView, GpuView, WindowView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.endpoint import Endpoint
    from gpud.core.gpu import GpuUse
    from gpud.core.ids import GpuUuid
    from gpud.core.waiting import WaitReason
    from gpud.core.windows import OpenWindow
    from gpud.core.worker import Worker
    from gpud.fleet.state import FleetState
    from gpud.ports.containers import EngineInfo
    from gpud.ports.images import PullProgress


def view_endpoint(
    state: FleetState,
    endpoint: Endpoint,
    *,
    pulls: Mapping[str, PullProgress],
    in_flight: int,
    waiting: int,
    now_s: float = 0.0,
    at_ms: int = 0,
) -> EndpointView:
    """Show one endpoint as it is now: at loop time `now_s`, which is wall time `at_ms`."""
    name = endpoint.name
    workers = sorted(
        (w for w in state.workers.values() if w.endpoint == name), key=lambda w: (w.created_at_ms, w.id)
    )
    decision = state.decisions.get(name)
    waits = state.waits.get(name, ())
    starts = state.recall(name).starts
    rollout = state.rollouts.get(name)
    failing = bool(starts.failures)
    if rollout is not None and rollout.active and rollout.starts.failures:
        starts = rollout.starts
    return EndpointView(
        endpoint=endpoint,
        condition=_condition(endpoint, workers, waits, failing=failing),
        desired=decision.desired if decision else 0,
        scale_reason=decision.reason if decision else "",
        workers=tuple(workers),
        waiting=waiting,
        in_flight=in_flight,
        waits=tuple(
            _dated(_with_progress(wait, pulls.get(endpoint.image.pin)), now_s=now_s, at_ms=at_ms)
            for wait in waits
        ),
        last_error=starts.last_error,
        pull=pulls.get(endpoint.image.pin),
        serving=state.serving(endpoint).revision,
        rollout=rollout,
        window=_window_view(state.windows_open.get(name, NO_WINDOW), now_s=now_s, at_ms=at_ms),
        prediction=state.recall(name).prediction,
        standbys=tuple(
            sorted(
                (s for s in state.standbys.values() if s.endpoint == name),
                key=lambda s: (s.created_at_ms, s.id),
            )
        ),
    )


def _dated(wait: WaitReason, *, now_s: float, at_ms: int) -> WaitReason:
    """Say by the wall clock when a wait is expected to end, and how long that is from now."""
    if wait.ends_at_s is None:
        return wait
    left_s = max(0.0, wait.ends_at_s - now_s)
    fresh: dict[str, object] = {
        name: round(left_s, 3) for name in ("until_in_s", "retry_in_s") if name in wait.facts
    }
    return replace(wait, facts={**wait.facts, **fresh}, until_ms=at_ms + round(left_s * 1000))


def _window_view(window: OpenWindow, *, now_s: float, at_ms: int) -> WindowView | None:
    if window is NO_WINDOW:
        return None
    edge_ms = None if window.edge_s is None else at_ms + round(max(0.0, window.edge_s - now_s) * 1000)
    return WindowView(window=str(window.window or ""), workers=window.workers, edge_ms=edge_ms)


def _with_progress(wait: WaitReason, pull: PullProgress | None) -> WaitReason:
    """Tell with a pull how far it is."""
    if wait.reason != "image_pulling" or pull is None:
        return wait
    facts: dict[str, object] = {"bytes_done": pull.bytes_done, "bytes_total": pull.bytes_total}
    return replace(wait, facts={**wait.facts, **facts})


def view_gpus(state: FleetState, uses: Mapping[GpuUuid, GpuUse]) -> tuple[GpuView, ...]:
    """Show every GPU with its holder."""
    views = []
    for uuid, status in state.gpus.items():
        view = GpuView(status=status, holders=state.holders_of(uuid), use=uses.get(uuid))
        views.append(view)
    return tuple(views)


def _condition(
    endpoint: Endpoint, workers: list[Worker], waits: tuple[WaitReason, ...], *, failing: bool
) -> EndpointCondition:
    states = {worker.state for worker in workers}
    reasons = {wait.reason for wait in waits}
    if endpoint.spec.scale.max_workers == 0:
        return EndpointCondition.PAUSED
    if WorkerState.READY in states:
        return EndpointCondition.READY
    if failing:
        return EndpointCondition.FAILING
    if reasons & {"waiting_for_gpu", "gpu_unhealthy"}:
        return EndpointCondition.WAITING_FOR_GPU
    if WorkerState.PULLING in states:
        return EndpointCondition.PULLING
    if states & (STARTING_UP | {WorkerState.NOT_READY}):
        return EndpointCondition.STARTING
    return EndpointCondition.SLEEPING


def warnings_of(engine: EngineInfo) -> tuple[str, ...]:
    """What a person should know about an engine."""
    return engine_warnings(
        version=engine.version,
        api_version=engine.api_version,
        runtimes=engine.runtimes,
        storage_driver=engine.storage_driver,
    )

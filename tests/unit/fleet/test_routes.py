from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpud.core.cold_start import ColdStart, StartPhase
from gpud.core.endpoint import Limits, ScalePolicy
from gpud.core.ids import EndpointName, Revision
from gpud.core.starts import StartRecord
from gpud.core.waiting import WaitReason
from gpud.core.worker import WorkerState
from gpud.fleet.routes import Routes
from gpud.fleet.state import FleetState
from tests.unit.core.making import endpoint, worker, worker_id

if TYPE_CHECKING:
    from gpud.core.routing import Refusal, Route

_ECHO = EndpointName("echo")
_NOW_S = 100.0


def _state(scale: ScalePolicy | None = None, *, ready: bool = False) -> FleetState:
    state = FleetState()
    state.endpoints[_ECHO] = endpoint(scale=scale, aliases=("gpt",))
    if ready:
        state.workers[worker_id(0)] = worker(address="10.0.0.2")
    return state


def _route(state: FleetState, *, full_since_s: float | None = None) -> Route:
    return Routes(state).table(now_s=_NOW_S, full_since_s=full_since_s).routes[_ECHO]


def _refusal(state: FleetState, *, full_since_s: float | None = None) -> Refusal:
    refusal = _route(state, full_since_s=full_since_s).refusal
    assert refusal is not None
    return refusal


@pytest.mark.parametrize("state", [each for each in WorkerState if each is not WorkerState.READY])
def test_only_ready_workers_are_in_the_routes(state: WorkerState) -> None:
    fleet = _state(ready=True)
    fleet.workers[worker_id(1)] = worker(1, state, address="10.0.0.3")
    assert [each.worker_id for each in _route(fleet).workers] == [worker_id(0)]


def test_an_alias_leads_to_its_endpoint() -> None:
    table = Routes(_state()).table(now_s=_NOW_S, full_since_s=None)
    assert table.aliases == {"gpt": _ECHO}


def test_a_paused_endpoint_refuses() -> None:
    assert "paused" in _refusal(_state(ScalePolicy(max_workers=0))).detail


def test_a_failing_endpoint_refuses_with_the_error_until_the_next_try() -> None:
    state = _state()
    record = StartRecord(failures=3, last_error="It exited with code 7.", open=True, next_try_s=_NOW_S + 4)
    state.recall(_ECHO).starts = record
    refusal = _refusal(state)
    assert (refusal.slug, refusal.retry_after_s) == ("start-failed", 4.0)
    assert "It exited with code 7." in refusal.detail
    assert Routes(state).table(now_s=_NOW_S + 4, full_since_s=None).routes[_ECHO].refusal is None


def test_an_engine_that_is_away_for_a_moment_refuses_nobody() -> None:
    state = _state()
    state.engine_down_since_s = _NOW_S - 9
    assert _route(state).refusal is None
    state.engine_down_since_s = _NOW_S - 11
    assert _refusal(state).slug == "dependency-down"


def test_a_disk_that_is_full_for_a_moment_refuses_nobody() -> None:
    assert _route(_state(), full_since_s=_NOW_S - 9).refusal is None
    assert _refusal(_state(), full_since_s=_NOW_S - 11).slug == "storage-full"


def test_who_has_a_ready_worker_is_served_whatever_is_broken() -> None:
    state = _state(ready=True)
    state.engine_down_since_s = 0.0
    state.recall(_ECHO).starts = StartRecord(failures=3, open=True, next_try_s=_NOW_S + 4)
    assert _route(state, full_since_s=0.0).refusal is None


def test_a_route_says_what_is_waited_for_and_how_long_that_took_before() -> None:
    state = _state()
    assert _route(state).waiting_for == "worker_starting"
    state.waits = {_ECHO: (WaitReason(reason="waiting_for_gpu", detail="All are held."),)}
    state.recall(_ECHO).cold_starts.extend(_start(took_s) for took_s in (1, 9, 2))
    assert (_route(state).waiting_for, _route(state).expected_start_s) == ("waiting_for_gpu", 2.0)


def test_what_gpud_enforces_of_an_endpoint_is_in_its_route() -> None:
    limits = Limits(request_timeout_s=7, first_request_timeout_s=8, stream_idle_timeout_s=9, max_queue=3)
    state = FleetState()
    made = endpoint(aliases=("gpt",))
    spec = replace(made.spec, limits=limits, public=True, forward_authorization=True)
    state.endpoints[_ECHO] = replace(made, spec=spec)
    route = _route(state)
    assert (route.request_timeout_s, route.first_request_timeout_s, route.stream_idle_timeout_s) == (7, 8, 9)
    assert (route.max_queue, route.public, route.forward_authorization) == (3, True, True)


def _start(took_s: int) -> ColdStart:
    return ColdStart(
        worker_id=worker_id(took_s),
        endpoint=_ECHO,
        revision=Revision("r1"),
        at_ms=0,
        phases_ns={StartPhase.LISTEN: took_s * 1_000_000_000},
    )


_STEPS = st.lists(
    st.tuples(st.sampled_from(["move", "new", "gone", "deploy", "delete", "look"]), st.integers(0, 5)),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(_STEPS)
def test_a_table_that_follows_what_moved_leads_where_one_made_anew_leads(
    steps: list[tuple[str, int]],
) -> None:
    state, names = FleetState(), [EndpointName(f"e{number}") for number in range(3)]
    routes = Routes(state)
    for number, (step, at) in enumerate(steps):
        name, known = names[at % 3], list(state.workers)
        match step:
            case "new":
                made = worker(number, address=f"10.0.0.{number}", endpoint=name)
                state.workers[made.id] = made
            case "move" if known:
                moved = state.workers[known[at % len(known)]]
                turned = WorkerState.DRAINING if moved.state is WorkerState.READY else WorkerState.READY
                state.workers[moved.id] = replace(moved, state=turned)
            case "gone" if known:
                del state.workers[known[at % len(known)]]
            case "deploy":
                state.endpoints[name] = endpoint(name, aliases=(f"alias-{at}",))
            case "delete":
                state.endpoints.pop(name, None)
            case _:
                routes.table(now_s=_NOW_S, full_since_s=None)
        followed, anew = routes.follow(), Routes(state).table(now_s=_NOW_S, full_since_s=None)
        assert followed == anew
        assert routes.follow() is followed, "nothing moved since"

"""An endpoint that rests is decided without a look: it must be what the look would have decided."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from gpud.core.averages import ArrivalCount, LoadAverage
from gpud.core.demand import LoadWindow
from gpud.core.endpoint import GpuNeeds, PolicyName, ScalePolicy
from gpud.core.pacing import PaceMemory
from gpud.core.reconcile import plan
from gpud.core.resting import rests
from gpud.core.scaling import desired_workers
from gpud.core.standby import StandbyMode, StandbyPolicy
from gpud.core.starts import StartRecord
from gpud.core.worker import WorkerState
from tests.unit.core.making import endpoint, seen, worker, world

if TYPE_CHECKING:
    from gpud.core.world import EndpointSeen, World

_NOW_S = 1000.0
_times = st.sampled_from([0.0, 800.0, 950.0, 999.0, _NOW_S])
_windows = st.lists(st.tuples(_times, st.integers(0, 2)), max_size=2).map(
    lambda found: LoadWindow(tuple(sorted(found)))
)


@st.composite
def _scales(draw: st.DrawFn) -> ScalePolicy:
    least = draw(st.integers(0, 2))
    return ScalePolicy(
        min_workers=least,
        max_workers=draw(st.integers(least, 3)),
        policy=draw(st.sampled_from(PolicyName)),
        more_policies=draw(st.sampled_from([(), (PolicyName.REQUEST_COUNT,)])),
        scale_to_zero_delay_s=draw(st.sampled_from([0.0, 300.0])),
        activation_workers=draw(st.integers(1, 2)),
        priority=draw(st.integers(0, 1)),
    )


@st.composite
def _seens(draw: st.DrawFn, name: str = "echo") -> EndpointSeen:
    standby = draw(st.sampled_from([StandbyMode.NONE, StandbyMode.NONE, StandbyMode.CREATED]))
    each = endpoint(name, draw(_scales()), gpus=draw(st.integers(0, 1)), standby=StandbyPolicy(mode=standby))
    return seen(
        each,
        load=draw(st.sampled_from([0, 0, 0, 1])),
        window=draw(_windows),
        average=draw(
            st.sampled_from(
                [
                    LoadAverage(),
                    LoadAverage(((0.0, 0.0),), 0.0),
                    LoadAverage(((0.0, 0.0), (900.0, 5.0)), 0.0),
                    LoadAverage(((0.0, 0.0), (980.0, 5.0)), 0.0),
                ]
            )
        ),
        arrivals=draw(st.sampled_from([ArrivalCount(), ArrivalCount(((700.0, 3),), 0.0)])),
        pace=PaceMemory(
            wishes=draw(_windows), panic_until_s=draw(st.sampled_from([-math.inf, -math.inf, 1010.0]))
        ),
        starts=draw(st.sampled_from([StartRecord(), StartRecord(failures=1, next_try_s=1005.0)])),
        image_present=draw(st.booleans()),
    )


@settings(max_examples=60)
@given(_seens(), st.integers(0, 3), st.sampled_from([_NOW_S, 1001.0, 5000.0]))
def test_what_rests_is_decided_as_a_look_would_decide(each: EndpointSeen, workers: int, at_s: float) -> None:
    if not rests(each, now_s=_NOW_S):
        return
    name = each.endpoint.name
    mine = [worker(n, endpoint=name, revision=each.endpoint.revision, ready_s=0.0) for n in range(workers)]
    looked, pace = desired_workers(each, mine, {}, now_s=at_s)
    rested, kept = desired_workers(replace(each, resting=True), mine, {}, now_s=at_s)
    assert replace(rested, reason=looked.reason) == looked
    assert (rested.reason == looked.reason) or not rested.desired
    assert kept is each.pace
    assert rests(replace(each, pace=pace), now_s=at_s), "a look leaves a memory that rests as well"


@settings(max_examples=40)
@given(st.data())
def test_a_plan_is_the_same_whether_those_that_rest_are_known_or_not(data: st.DataObject) -> None:
    looked = [data.draw(_seens(name)) for name in ("a", "b", "c")]
    workers = [
        worker(
            number,
            data.draw(st.sampled_from([WorkerState.READY, WorkerState.PENDING, WorkerState.DRAINING])),
            endpoint=each.endpoint.name,
            revision=data.draw(st.sampled_from([each.endpoint.revision, "other"])),
            ready_s=0.0,
        )
        for number, each in enumerate(looked)
        if data.draw(st.booleans())
    ]
    known = [replace(each, resting=rests(each, now_s=_NOW_S)) for each in looked]
    assert _told(world(known, workers, gpus=2)) == _told(world(looked, workers, gpus=2))


def _told(box: World) -> tuple[object, ...]:
    answer = plan(box)
    desired = {name: decision.desired for name, decision in answer.decisions.items()}
    return answer.changes, desired, answer.waits, answer.ask_again_at_s, answer.sharing


def test_an_endpoint_with_load_does_not_rest() -> None:
    each = seen(endpoint(scale=ScalePolicy()))
    assert rests(each, now_s=_NOW_S)
    assert not rests(replace(each, load=1), now_s=_NOW_S)
    assert not rests(replace(each, window=LoadWindow(((990.0, 1), (995.0, 0)))), now_s=_NOW_S)


def test_an_endpoint_whose_starts_fail_does_not_rest() -> None:
    each = seen(endpoint(gpus=0), starts=StartRecord(failures=2))
    assert not rests(each, now_s=_NOW_S)
    assert GpuNeeds(count=0) == each.endpoint.spec.gpus

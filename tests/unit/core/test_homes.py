from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.allocation import AllocationMemory, Contest, Grant, allocate
from gpud.core.demand import LoadWindow
from gpud.core.gpu import GpuStatus
from gpud.core.homes import brought_home
from gpud.core.ids import EndpointName
from gpud.core.reconcile import plan
from gpud.core.standby import (
    ClaimStandby,
    NewStandby,
    Rung,
    Standby,
    StandbyMode,
    StandbyPolicy,
    StandbySeen,
    StandbyState,
)
from gpud.core.worker import WorkerState
from tests.unit.core.making import endpoint, events, gpu, gpu_uuid, seen, worker, worker_id, world

if TYPE_CHECKING:
    from gpud.core.allocation import Allocation
    from gpud.core.endpoint import Endpoint
    from gpud.core.world import EndpointSeen, World

_NOW_S = 1000.0
_PARKED = StandbyPolicy(mode=StandbyMode.PARKED)


def _standby(each: Endpoint, number: int, at: int, *, since_s: float = 0.0) -> Standby:
    return Standby(
        id=worker_id(number),
        endpoint=each.name,
        revision=each.revision,
        rung=Rung.PARKED,
        state=StandbyState.READY,
        since_s=since_s,
        created_at_ms=number,
        gpu_uuids=(gpu_uuid(at),),
        address="10.0.0.9",
    )


def _called(each: Endpoint) -> EndpointSeen:
    window = LoadWindow().observed(1, at_s=_NOW_S, span_s=60)
    return seen(each, window=window, load=1, waiting=1)


def _standing(*standbys: Standby) -> StandbySeen:
    return StandbySeen(standbys={s.id: s for s in standbys})


@given(st.permutations(range(5)))
def test_endpoints_called_together_each_claim_their_own_standby(homes: list[int]) -> None:
    called = [endpoint(f"e{n}", standby=_PARKED) for n in range(5)]
    standbys = [_standby(each, n, at) for n, (each, at) in enumerate(zip(called, homes, strict=True))]
    sight = world([_called(each) for each in called], gpus=5, standing=_standing(*standbys))
    answer = plan(replace(sight, starts_max=5))
    assert {c.standby_id for c in answer.changes if isinstance(c, ClaimStandby)} == {s.id for s in standbys}


_AT = st.one_of(st.none(), st.integers(0, 5))


@given(st.permutations(range(6)), st.lists(_AT, min_size=6, max_size=6), st.integers(0, 6))
def test_exchanging_grants_takes_nothing_from_anybody(
    granted: list[int], homes: list[int | None], standing: int
) -> None:
    endpoints = [endpoint(f"e{n}") for n in range(6)]
    standbys = [_standby(endpoints[n], n, at) for n, at in enumerate(homes[:standing]) if at is not None]
    sleepers = [
        worker(
            n, WorkerState.SLEEPING, endpoint=endpoints[n].name, gpu_uuids=(gpu_uuid(at),), created_at_ms=n
        )
        for n, at in enumerate(homes)
        if n >= standing and at is not None
    ]
    sight = world([seen(each) for each in endpoints], sleepers, gpus=6, standing=_standing(*standbys))
    grants = [
        Grant(endpoint=EndpointName(f"e{n}"), gpu_uuids=(gpu_uuid(at),)) for n, at in enumerate(granted)
    ]
    before = replace(
        _nothing(sight), grants=tuple(grants), claimed={g.gpu_uuids[0]: (g.endpoint,) for g in grants}
    )
    after = brought_home(before, sight)
    assert [grant.endpoint for grant in after.grants] == [grant.endpoint for grant in grants]
    assert Counter(g.gpu_uuids for g in after.grants) == Counter(g.gpu_uuids for g in grants)
    assert after.claimed == {g.gpu_uuids[0]: (g.endpoint,) for g in after.grants}
    for was, is_now, home in zip(grants, after.grants, homes, strict=True):
        if home is not None and was.gpu_uuids == (gpu_uuid(home),):
            assert is_now == was, "nobody leaves its home"
    missed = {
        h for g, h in zip(after.grants, homes, strict=True) if h is not None and g.gpu_uuids != (gpu_uuid(h),)
    }
    holders = {g.gpu_uuids[0]: h for g, h in zip(after.grants, homes, strict=True)}
    assert all(holders[gpu_uuid(home)] == home for home in missed), (
        "a home is missed only where another is at home"
    )


def _nothing(sight: World) -> Allocation:
    return allocate(Contest(claimants=(), tenants=(), gpus=sight.gpus, now_s=_NOW_S), AllocationMemory())


@pytest.mark.parametrize(("memory_mib", "expected"), [(24_576, 1), (81_920, 0)])
def test_who_has_no_home_leaves_anothers_alone_where_there_is_a_gpu_of_that_size(
    memory_mib: int, expected: int
) -> None:
    """A larger GPU is kept for those who need one."""
    at_home, other = endpoint("athome", standby=_PARKED), endpoint("other")
    sight = world([seen(at_home), _called(other)], gpus=2, standing=_standing(_standby(at_home, 1, 0)))
    gpus = (GpuStatus(gpu=gpu(0)), GpuStatus(gpu=gpu(1, memory_mib=memory_mib)))
    pending = worker(1, WorkerState.PENDING, endpoint=other.name, revision=other.revision)
    (reserved,) = events(plan(replace(sight, gpus=gpus, workers={pending.id: pending})))
    assert reserved.gpu_uuids == (gpu_uuid(expected),)


def test_a_gpu_that_does_not_suit_is_not_taken_in_exchange() -> None:
    small, large = endpoint("small"), endpoint("large")
    needs = replace(large.spec.gpus, least_memory_mib=40_000)
    large = replace(large, spec=replace(large.spec, gpus=needs))
    sight = world([seen(small), seen(large)], gpus=2, standing=_standing(_standby(small, 1, 1)))
    grants = (
        Grant(endpoint=small.name, gpu_uuids=(gpu_uuid(0),)),
        Grant(endpoint=large.name, gpu_uuids=(gpu_uuid(1),)),
    )
    before = replace(_nothing(sight), grants=grants)
    assert brought_home(before, sight) == before


def test_nobody_is_brought_to_a_home_that_suits_it_no_more() -> None:
    grown, other = endpoint("grown"), endpoint("other")
    needs = replace(grown.spec.gpus, least_memory_mib=40_000)
    grown = replace(grown, spec=replace(grown.spec, gpus=needs))
    sight = world([seen(grown), seen(other)], gpus=2, standing=_standing(_standby(grown, 1, 1)))
    sight = replace(sight, gpus=(GpuStatus(gpu=gpu(0, memory_mib=81_920)), GpuStatus(gpu=gpu(1))))
    grants = (
        Grant(endpoint=grown.name, gpu_uuids=(gpu_uuid(0),)),
        Grant(endpoint=other.name, gpu_uuids=(gpu_uuid(1),)),
    )
    before = replace(_nothing(sight), grants=grants)
    assert brought_home(before, sight) == before


def test_standbys_of_different_endpoints_are_made_for_different_gpus() -> None:
    endpoints = [endpoint(f"e{n}", standby=_PARKED) for n in range(3)]
    first = _standby(endpoints[0], 1, 0)
    answer = plan(world([seen(each) for each in endpoints], gpus=3, standing=_standing(first)))
    made = [change for change in answer.changes if isinstance(change, NewStandby)]
    assert [new.gpu_uuids for new in made] == [(gpu_uuid(1),), (gpu_uuid(2),)]


def test_a_standby_beside_another_endpoints_moves_to_a_gpu_where_nobody_stands_by() -> None:
    one, two = endpoint("one", standby=_PARKED), endpoint("two", standby=_PARKED)

    def decided(since_s: float, gpus: int) -> list[object]:
        standing = _standing(_standby(one, 1, 0), _standby(two, 2, 0, since_s=since_s))
        return list(plan(world([seen(one), seen(two)], gpus=gpus, standing=standing)).changes)

    assert decided(_NOW_S - 9, gpus=2) == []
    assert decided(_NOW_S - 10, gpus=1) == []
    dropped, made = decided(_NOW_S - 10, gpus=2)
    assert getattr(dropped, "standby_id", None) == worker_id(2), "the one that came later"
    assert isinstance(made, NewStandby)
    assert made.gpu_uuids == (gpu_uuid(1),)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=6), st.integers(1, 3))
def test_standbys_of_several_endpoints_settle(made: list[tuple[int, int]], gpus: int) -> None:
    endpoints = [endpoint(f"e{n}", standby=_PARKED) for n in range(4)]
    standbys = {worker_id(n): _standby(endpoints[whose], n, at % gpus) for n, (whose, at) in enumerate(made)}
    number = 40
    by_name = {each.name: each for each in endpoints}
    for _ in range(40):
        answer = plan(
            world([seen(each) for each in endpoints], gpus=gpus, standing=_standing(*standbys.values()))
        )
        if not answer.changes:
            break
        for change in answer.changes:
            if isinstance(change, NewStandby):
                (uuid,) = change.gpu_uuids
                at = next(n for n in range(gpus) if gpu_uuid(n) == uuid)
                standbys[worker_id(number)] = _standby(by_name[change.endpoint], number, at)
                number += 1
            else:
                assert not isinstance(change, ClaimStandby)
                del standbys[change.standby_id]  # type: ignore[union-attr]
    else:
        raise AssertionError("standbys are made and dropped without an end")
    assert len({s.gpu_uuids for s in standbys.values()}) == gpus, (
        "no GPU is without one while another has two"
    )

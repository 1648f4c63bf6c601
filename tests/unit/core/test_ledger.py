from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.allocation import Allocation, AllocationMemory, Contest, allocate
from gpud.core.endpoint import GpuNeeds
from gpud.core.gpu import GpuSlice
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.placement import Placement, place
from gpud.core.reclaim import Claimant, Tenant, TenantPhase
from tests.unit.core.sharing_box import gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW_S = 10_000.0
TOTAL_MIB = 24_000
HEADROOM_MIB = 500


def _claimant(name: str, memory_mib: int, needed: int = 1, **facts: object) -> Claimant:
    known: dict[str, object] = {"desired": needed, "cold_start_s": 20.0, **facts}
    gpus_needed = known.pop("gpus", None) or GpuNeeds(memory_mib=memory_mib)
    return Claimant(name=EndpointName(name), needed=needed, gpus=gpus_needed, **known)  # type: ignore[arg-type]


def _tenant(
    endpoint: str, gpu: int, memory_mib: int, *, ready_for_s: float = 1000.0, idle_for_s: float | None = None
) -> Tenant:
    return Tenant(
        worker_id=WorkerId(f"wk_{endpoint}_{gpu}"),
        endpoint=EndpointName(endpoint),
        gpu_uuids=(GpuUuid(f"GPU-{gpu}"),),
        memory_mib=memory_mib,
        phase=TenantPhase.READY,
        busy=idle_for_s is None,
        held_since_s=NOW_S - ready_for_s - 20.0,
        ready_s=NOW_S - ready_for_s,
        idle_since_s=NOW_S - (idle_for_s or 0.0),
    )


def _allocate(claimants: list[Claimant], tenants: list[Tenant], *, count: int = 1) -> Allocation:
    withheld = {GpuUuid(f"GPU-{i}"): HEADROOM_MIB for i in range(count)}
    contest = Contest(
        claimants=tuple(claimants),
        tenants=tuple(tenants),
        gpus=gpus(count),
        now_s=NOW_S,
        withheld_mib=withheld,
    )
    return allocate(contest, AllocationMemory())


def _granted(answer: Allocation) -> list[tuple[str, tuple[str, ...]]]:
    return [(grant.endpoint, grant.gpu_uuids) for grant in answer.grants]


def test_two_slices_that_fit_together_share_one_gpu_and_the_headroom_is_nobodys() -> None:
    fitting = _allocate([_claimant("a", 12_000), _claimant("b", 11_500)], [])
    assert _granted(fitting) == [("a", ("GPU-0",)), ("b", ("GPU-0",))]
    too_much = _allocate([_claimant("a", 12_000), _claimant("b", 11_501)], [])
    assert _granted(too_much) == [("a", ("GPU-0",))]
    assert too_much.waits[EndpointName("b")].facts["needed_mib"] == 11_501


def test_a_slice_goes_where_the_least_is_left_that_will_do() -> None:
    tenants = [_tenant("x", 0, 5_000), _tenant("y", 1, 15_000), _tenant("z", 2, 20_000)]
    keeping = [_claimant(t.endpoint, t.memory_mib) for t in tenants]
    answer = _allocate([*keeping, _claimant("a", 8_000)], tenants, count=4)
    assert _granted(answer) == [("a", ("GPU-1",))]


def test_a_whole_worker_never_joins_a_slice_nor_a_slice_a_whole_worker() -> None:
    whole = _claimant("whole", 0, priority=-1)
    beside = _allocate([whole, _claimant("x", 100)], [_tenant("x", 0, 100)])
    assert (beside.grants, beside.reclaims) == ((), ())
    slice_ = _claimant("x", 100, priority=-1)
    held = replace(_tenant("whole", 0, 0), memory_mib=0)
    assert _allocate([_claimant("whole", 0), slice_], [held]).grants == ()


def test_no_more_slices_give_way_than_it_takes() -> None:
    tenants = [_tenant(name, 0, 7_000, idle_for_s=idle_s) for name, idle_s in (("x", 50.0), ("y", 90.0))]
    tenants.append(_tenant("z", 0, 7_000))
    idle = [replace(_claimant(t.endpoint, 7_000), needed=0) for t in tenants[:2]]
    answer = _allocate([*idle, _claimant("z", 7_000), _claimant("a", 9_000)], tenants)
    assert [reclaim.worker_id for reclaim in answer.reclaims] == ["wk_y_0"], "the longest idle suffices"


def test_a_whole_worker_has_all_slices_give_way_at_once_when_the_last_ones_turn_has_ended() -> None:
    early = [_tenant("x", 0, 7_000, ready_for_s=300.0), _tenant("y", 0, 7_000, ready_for_s=30.0)]
    claimants = [_claimant("x", 7_000), _claimant("y", 7_000)]
    seeker = _claimant("whole", 0, oldest_wait_s=50.0)
    memory = AllocationMemory()
    contest = Contest(claimants=(*claimants, seeker), tenants=tuple(early), gpus=gpus(1), now_s=NOW_S)
    # It has had the least GPU time, so it is its turn.
    first = allocate(contest, memory)
    had = {c.name: 100.0 for c in claimants}
    memory = replace(first.memory, fairness=replace(first.memory.fairness, gpu_s=had | {seeker.name: 0.0}))
    waiting = allocate(contest, memory)
    assert waiting.reclaims == ()
    assert waiting.waits[seeker.name].facts["until_in_s"] == 30.0
    later = replace(contest, tenants=(early[0], replace(early[1], ready_s=NOW_S - 60.0)))
    assert {reclaim.worker_id for reclaim in allocate(later, memory).reclaims} == {"wk_x_0", "wk_y_0"}


def test_virtual_time_counts_a_slice_as_the_part_of_a_gpu_that_it_is() -> None:
    tenants = [_tenant("half", 0, TOTAL_MIB // 2), _tenant("whole", 1, 0)]
    claimants = (_claimant("half", TOTAL_MIB // 2), _claimant("whole", 0))
    contest = Contest(claimants=claimants, tenants=tuple(tenants), gpus=gpus(2), now_s=NOW_S)
    first = allocate(contest, AllocationMemory())
    later = allocate(replace(contest, now_s=NOW_S + 10.0), first.memory)
    assert later.memory.fairness.gpu_s == {"half": 5.0, "whole": 10.0}


def test_placing_outside_of_the_sharing_takes_what_it_left() -> None:
    needs, left = GpuNeeds(memory_mib=8_000), {GpuUuid("GPU-0"): 9_000, GpuUuid("GPU-1"): 8_500}
    taken = {GpuUuid("GPU-0"): EndpointName("x"), GpuUuid("GPU-1"): EndpointName("y")}
    answer = place(needs, gpus(2), taken, left)
    assert answer == Placement(
        gpu_uuids=(GpuUuid("GPU-1"),), gpu_slice=GpuSlice(memory_mib=8_000, of_mib=TOTAL_MIB)
    )
    assert not isinstance(place(needs, gpus(2), taken, {}), Placement)


_KINDS = (
    GpuNeeds(),
    GpuNeeds(count=2),
    *(GpuNeeds(memory_mib=mib) for mib in (3_000, 8_000, 12_000, 23_000)),
)


@st.composite
def contests(draw: st.DrawFn) -> Contest:
    count = draw(st.integers(2, 5))
    kinds = {f"e{i}": draw(st.sampled_from(_KINDS)) for i in range(draw(st.integers(1, 8)))}
    claimants = [
        _claimant(
            name,
            0,
            needed := draw(st.integers(0, 3)),
            desired=needed + draw(st.integers(0, 2)),
            priority=draw(st.integers(-1, 1)),
            gpus=needs,
            cold_start_s=draw(st.sampled_from([5.0, 40.0])),
        )
        for name, needs in kinds.items()
    ]
    left_mib = dict.fromkeys(range(count), TOTAL_MIB - HEADROOM_MIB)
    tenants = []
    for name in draw(st.permutations(sorted(kinds))):
        needs = kinds[name]
        asked = needs.memory_mib or TOTAL_MIB - HEADROOM_MIB
        free = [gpu for gpu, mib in left_mib.items() if mib >= asked]
        if len(free) < needs.count or draw(st.booleans()):
            continue
        held = free[: needs.count]
        for gpu in held:
            left_mib[gpu] -= asked
        idle_for_s = draw(st.none() | st.floats(0.0, 200.0))
        tenant = _tenant(
            name, held[0], needs.memory_mib, ready_for_s=draw(st.floats(0.0, 300.0)), idle_for_s=idle_for_s
        )
        uuids = tuple(GpuUuid(f"GPU-{gpu}") for gpu in held)
        tenants.append(replace(tenant, gpu_uuids=uuids, phase=draw(st.sampled_from(TenantPhase))))
    return Contest(
        claimants=tuple(claimants),
        tenants=tuple(tenants),
        gpus=gpus(count),
        now_s=NOW_S,
        withheld_mib={GpuUuid(f"GPU-{i}"): HEADROOM_MIB for i in range(count)},
    )


def _amounts(contest: Contest, answer: Allocation) -> Mapping[GpuUuid, list[int]]:
    """What is held and granted of each GPU; 0 for all of it."""
    needs = {c.name: c.gpus for c in contest.claimants}
    amounts: defaultdict[GpuUuid, list[int]] = defaultdict(list)
    for tenant in contest.tenants:
        for uuid in tenant.gpu_uuids:
            amounts[uuid].append(tenant.memory_mib)
    for grant in answer.grants:
        for uuid in grant.gpu_uuids:
            amounts[uuid].append(needs[grant.endpoint].memory_mib)
    return amounts


@given(contests())
def test_a_gpu_is_held_by_one_or_by_slices_that_fit_with_the_headroom(contest: Contest) -> None:
    answer = allocate(contest, AllocationMemory())
    for uuid, amounts in _amounts(contest, answer).items():
        if 0 in amounts:
            assert amounts == [0], uuid
        else:
            assert sum(amounts) + HEADROOM_MIB <= TOTAL_MIB, uuid
        left = answer.left_mib[uuid]
        assert left <= (0 if 0 in amounts else TOTAL_MIB - HEADROOM_MIB - sum(amounts))


@given(contests())
def test_only_those_may_be_victims_whose_time_has_come(contest: Contest) -> None:
    known = {c.name: c for c in contest.claimants}
    tenants = {t.worker_id: t for t in contest.tenants}
    answer = allocate(contest, AllocationMemory())
    assert len({reclaim.worker_id for reclaim in answer.reclaims}) == len(answer.reclaims)
    for reclaim in answer.reclaims:
        victim, seeker = tenants[reclaim.worker_id], known[reclaim.endpoint]
        holder = known[victim.endpoint]
        assert victim.phase in (TenantPhase.STARTING, TenantPhase.READY)
        assert victim.worker_id not in answer.kept
        if victim.busy:
            assert seeker.priority >= holder.priority
        if victim.busy and seeker.priority == holder.priority:
            assert NOW_S - victim.ready_s >= holder.turn_s


@given(contests())
def test_every_unmet_need_has_its_reason_and_nobody_has_more_than_it_desires(contest: Contest) -> None:
    answer = allocate(contest, AllocationMemory())
    victims = {r.worker_id for r in answer.reclaims}
    staying = [t for t in contest.tenants if t.phase in (TenantPhase.STARTING, TenantPhase.READY)]
    for claimant in contest.claimants:
        granted = sum(g.endpoint == claimant.name for g in answer.grants)
        kept = sum(t.endpoint == claimant.name and t.worker_id in answer.kept for t in contest.tenants)
        assert granted + kept <= claimant.desired
        have = sum(t.endpoint == claimant.name and t.worker_id not in victims for t in staying)
        if claimant.needed > granted + have:
            assert claimant.name in answer.waits

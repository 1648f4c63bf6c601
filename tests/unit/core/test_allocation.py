from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.allocation import Allocation, AllocationMemory, Contest, allocate
from gpud.core.endpoint import GpuNeeds
from gpud.core.gpu import GpuHealth
from gpud.core.ids import EndpointName, GpuUuid, WorkerId
from gpud.core.reclaim import Claimant, Fairness, Hold, Tenant, TenantPhase
from tests.unit.core.sharing_box import gpus

NOW_S = 10_000.0


def _claimant(name: str, needed: int = 1, **facts: object) -> Claimant:
    known: dict[str, object] = {"desired": needed, "cold_start_s": 20.0, **facts}
    if "count" in known:
        known["gpus"] = GpuNeeds(count=int(str(known.pop("count"))))
    return Claimant(name=EndpointName(name), needed=needed, **known)  # type: ignore[arg-type]


def _tenant(
    endpoint: str, *held: int, ready_for_s: float = 1000.0, idle_for_s: float | None = None
) -> Tenant:
    """A READY worker, busy unless told for how long it has been idle."""
    return Tenant(
        worker_id=WorkerId(f"wk_{endpoint}_{held[0]}"),
        endpoint=EndpointName(endpoint),
        gpu_uuids=tuple(GpuUuid(f"GPU-{i}") for i in held),
        phase=TenantPhase.READY,
        busy=idle_for_s is None,
        held_since_s=NOW_S - ready_for_s - 20.0,
        ready_s=NOW_S - ready_for_s,
        idle_since_s=NOW_S - (idle_for_s or 0.0),
    )


def _allocate(
    claimants: list[Claimant],
    tenants: list[Tenant] | None = None,
    *,
    count: int = 1,
    memory: AllocationMemory | None = None,
) -> Allocation:
    contest = Contest(
        claimants=tuple(claimants),
        tenants=tuple(tenants or ()),
        gpus=gpus(count),
        now_s=NOW_S,
    )
    return allocate(contest, memory or AllocationMemory())


def _victims(answer: Allocation) -> list[str]:
    return [reclaim.worker_id for reclaim in answer.reclaims]


def test_a_free_gpu_goes_to_who_needs_it() -> None:
    answer = _allocate([_claimant("a")])
    assert [(g.endpoint, g.gpu_uuids) for g in answer.grants] == [("a", ("GPU-0",))]
    assert not answer.reclaims
    assert not answer.waits


def test_nobody_moves_while_everyone_keeps_a_worker() -> None:
    tenants = [_tenant("a", 0), _tenant("b", 1)]
    answer = _allocate([_claimant("a", 3), _claimant("b", 3)], tenants, count=2)
    assert not answer.grants
    assert not answer.reclaims
    assert answer.kept == {t.worker_id for t in tenants}


def test_an_idle_worker_gives_way_to_a_need_after_five_idle_seconds() -> None:
    claimants = [_claimant("a"), _claimant("b", 0)]
    assert _victims(_allocate(claimants, [_tenant("b", 0, idle_for_s=6.0)])) == ["wk_b_0"]
    fresh = _allocate(claimants, [_tenant("b", 0, idle_for_s=2.0)])
    assert not fresh.reclaims
    assert fresh.ask_again_at_s == NOW_S + 3.0
    assert fresh.waits[EndpointName("a")].facts["held_by"] == ["b"]


def test_an_idle_worker_that_came_just_now_stays_unless_it_is_outranked() -> None:
    newcomer = _tenant("b", 0, ready_for_s=6.0, idle_for_s=6.0)
    newcomer = replace(newcomer, held_since_s=NOW_S - 8.0)
    assert not _allocate([_claimant("a"), _claimant("b", 0)], [newcomer]).reclaims
    outranked = _allocate([_claimant("a", priority=1), _claimant("b", 0)], [newcomer])
    assert _victims(outranked) == ["wk_b_0"]


def test_a_busy_equal_gives_way_only_after_its_quantum() -> None:
    claimants = [_claimant("a"), _claimant("b")]
    behind = AllocationMemory(fairness=Fairness(gpu_s={EndpointName("b"): 50.0}, at_s=NOW_S))
    within = _allocate(claimants, [_tenant("b", 0, ready_for_s=59.0)], memory=behind)
    assert not within.reclaims
    assert within.waits[EndpointName("a")].facts == {"held_by": ["b"], "needed": 1, "until_in_s": 1.0}
    over = _allocate(claimants, [_tenant("b", 0, ready_for_s=61.0)], memory=behind)
    assert [(r.worker_id, r.hold) for r in over.reclaims] == [("wk_b_0", Hold.EQUAL)]


def test_a_busy_worker_of_a_higher_priority_never_gives_way() -> None:
    answer = _allocate([_claimant("a"), _claimant("b", priority=1)], [_tenant("b", 0)])
    assert not answer.reclaims
    assert answer.waits[EndpointName("a")].reason == "waiting_for_gpu"


def test_a_busy_worker_of_a_lower_priority_gives_way_at_once() -> None:
    answer = _allocate([_claimant("a", priority=1), _claimant("b")], [_tenant("b", 0, ready_for_s=1.0)])
    assert [(r.worker_id, r.hold) for r in answer.reclaims] == [("wk_b_0", Hold.LOWER)]


def test_victims_go_idle_first_lowest_priority_first_longest_idle_first() -> None:
    tenants = [
        _tenant("busy", 0),
        _tenant("low", 1, idle_for_s=10.0),
        _tenant("long", 2, idle_for_s=90.0),
        _tenant("short", 3, idle_for_s=10.0),
        _tenant("busy", 4, ready_for_s=10.0),
    ]
    holders = [
        _claimant("busy", 2, priority=-2),
        _claimant("low", 0, priority=-1),
        _claimant("long", 0),
        _claimant("short", 0),
    ]
    for wanted, expected in enumerate(
        [["wk_low_1"], ["wk_low_1", "wk_long_2"], ["wk_low_1", "wk_long_2", "wk_short_3"]], start=1
    ):
        answer = _allocate([*holders, _claimant("seeker", wanted)], tenants, count=5)
        assert _victims(answer) == expected
    answer = _allocate([*holders, _claimant("seeker", 4)], tenants, count=5)
    assert _victims(answer)[-1] == "wk_busy_4", (
        "its first worker stays: everyone has one before anyone has two"
    )


def test_who_has_had_less_gpu_time_goes_first() -> None:
    memory = AllocationMemory(
        fairness=Fairness(gpu_s={EndpointName("a"): 30.0, EndpointName("b"): 10.0}, at_s=NOW_S)
    )
    answer = _allocate([_claimant("a"), _claimant("b")], memory=memory)
    assert [g.endpoint for g in answer.grants] == ["b"]


def test_weight_and_priority_order_before_fairness() -> None:
    memory = AllocationMemory(fairness=Fairness(gpu_s={EndpointName("a"): 900.0}, at_s=NOW_S))
    answer = _allocate([_claimant("a", priority=1), _claimant("b")], memory=memory)
    assert [g.endpoint for g in answer.grants] == ["a"]


def test_a_guaranteed_worker_comes_before_any_need_and_is_not_taken() -> None:
    answer = _allocate([_claimant("a", 5), _claimant("b", 0, desired=1, guaranteed=1)], count=2)
    assert [g.endpoint for g in answer.grants] == ["b", "a"]
    kept = _allocate(
        [_claimant("a", 5, priority=0), _claimant("b", 0, desired=1, guaranteed=1)],
        [_tenant("b", 0, idle_for_s=900.0)],
    )
    assert not kept.reclaims
    assert kept.kept == {"wk_b_0"}


def test_a_worker_of_many_gpus_keeps_what_comes_free_from_smaller_ones() -> None:
    tenants = [_tenant("small", 0, ready_for_s=10.0)]
    memory = AllocationMemory(
        fairness=Fairness(
            gpu_s={EndpointName("small"): 40.0, EndpointName("tiny"): 40.0, EndpointName("big"): 0.0},
            needy=frozenset(map(EndpointName, ("small", "tiny", "big"))),
            at_s=NOW_S,
        )
    )
    claimants = [_claimant("small"), _claimant("tiny"), _claimant("big", count=2)]
    answer = _allocate(claimants, tenants, count=2, memory=memory)
    assert not answer.grants, "GPU-1 is free, and kept for the big one"
    assert not answer.reclaims, "the small one has its turn; nobody is drained in vain"
    assert answer.ask_again_at_s == NOW_S + 50.0
    later = replace(tenants[0], ready_s=NOW_S - 61.0)
    assert _victims(_allocate(claimants, [later], count=2, memory=memory)) == ["wk_small_0"]


def test_a_missing_gpu_costs_one_victim_only() -> None:
    leaving = replace(_tenant("b", 0), phase=TenantPhase.DRAINING)
    memory = AllocationMemory(promises={leaving.worker_id: EndpointName("a")})
    claimants = [_claimant("a"), _claimant("b", 0), _claimant("c", 0)]
    answer = _allocate(claimants, [leaving, _tenant("c", 1, idle_for_s=90.0)], count=2, memory=memory)
    assert not answer.reclaims
    assert answer.memory.promises == {leaving.worker_id: "a"}


def test_a_worker_the_engine_lost_is_not_waited_for() -> None:
    stuck = replace(_tenant("b", 0), phase=TenantPhase.STUCK)
    answer = _allocate([_claimant("a"), _claimant("b", 0)], [stuck])
    assert not answer.reclaims
    assert answer.waits[EndpointName("a")].reason == "waiting_for_gpu"


def test_sick_gpus_are_named_when_they_are_what_is_missing() -> None:
    sick = tuple(replace(s, health=GpuHealth.UNHEALTHY, reason="Xid 79") for s in gpus(1))
    contest = Contest(claimants=(_claimant("a"),), tenants=(), gpus=sick, now_s=NOW_S)
    wait = allocate(contest, AllocationMemory()).waits[EndpointName("a")]
    assert wait.reason == "gpu_unhealthy"
    assert "Xid 79" in wait.detail


def test_warmth_gets_free_gpus_but_takes_none() -> None:
    free = _allocate([_claimant("a", 0, desired=1)])
    assert len(free.grants) == 1
    taken = _allocate([_claimant("a", 0, desired=1), _claimant("b", 0)], [_tenant("b", 0, idle_for_s=900.0)])
    assert not taken.grants
    assert not taken.reclaims


def test_a_light_endpoint_that_comes_back_is_at_most_a_quantum_ahead() -> None:
    memory = AllocationMemory(
        fairness=Fairness(
            gpu_s={EndpointName("a"): 5000.0, EndpointName("b"): 0.0},
            needy=frozenset({EndpointName("a")}),
            at_s=NOW_S,
        )
    )
    answer = _allocate([_claimant("a"), _claimant("b")], memory=memory)
    assert answer.memory.fairness.gpu_s == {"a": 5000.0, "b": 4940.0}


def test_whoever_loses_a_worker_that_was_to_serve_out_its_turn_is_told_why() -> None:
    """One claimant waits for the end of the turn; a higher one takes another of the GPUs at once."""
    wide = _claimant("wide", count=4)
    answer = _allocate(
        [wide, _claimant("equal"), _claimant("higher", needed=2, priority=1)],
        [_tenant("wide", 0, 1, 2, 3, ready_for_s=0.0)],
        count=5,
    )
    assert "wk_wide_0" in _victims(answer)
    assert "wide" in answer.waits


@st.composite
def contests(draw: st.DrawFn) -> Contest:
    count = draw(st.integers(1, 8))
    names = [f"e{i}" for i in range(draw(st.integers(1, 10)))]
    sizes = {name: min(draw(st.sampled_from([1, 1, 2, 4])), count) for name in names}
    claimants = [
        _claimant(
            name,
            needed := draw(st.integers(0, 3)),
            desired=needed + draw(st.integers(0, 2)),
            guaranteed=0,
            priority=draw(st.integers(-1, 1)),
            count=sizes[name],
            cold_start_s=draw(st.sampled_from([5.0, 40.0])),
        )
        for name in names
    ]
    tenants, free = [], list(range(count))
    for name in draw(st.permutations(names)):
        if len(free) < sizes[name] or draw(st.booleans()):
            continue
        held, free = free[: sizes[name]], free[sizes[name] :]
        idle_for_s = draw(st.none() | st.floats(0.0, 200.0))
        tenant = _tenant(name, *held, ready_for_s=draw(st.floats(0.0, 300.0)), idle_for_s=idle_for_s)
        tenants.append(replace(tenant, phase=draw(st.sampled_from(TenantPhase))))
    return Contest(claimants=tuple(claimants), tenants=tuple(tenants), gpus=gpus(count), now_s=NOW_S)


@given(contests())
def test_no_gpu_is_granted_twice_or_while_it_is_held(contest: Contest) -> None:
    answer = allocate(contest, AllocationMemory())
    held = {uuid for tenant in contest.tenants for uuid in tenant.gpu_uuids}
    granted = [uuid for grant in answer.grants for uuid in grant.gpu_uuids]
    assert len(granted) == len(set(granted))
    assert not held & set(granted)
    for grant in answer.grants:
        needs = next(c for c in contest.claimants if c.name == grant.endpoint).gpus
        assert len(grant.gpu_uuids) == needs.count


@given(contests())
def test_only_those_may_be_victims_whose_time_has_come(contest: Contest) -> None:
    known = {c.name: c for c in contest.claimants}
    tenants = {t.worker_id: t for t in contest.tenants}
    for reclaim in allocate(contest, AllocationMemory()).reclaims:
        victim, seeker = tenants[reclaim.worker_id], known[reclaim.endpoint]
        holder = known[victim.endpoint]
        assert victim.phase in (TenantPhase.STARTING, TenantPhase.READY)
        if victim.busy:
            assert seeker.priority >= holder.priority
        if victim.busy and seeker.priority == holder.priority:
            assert NOW_S - victim.ready_s >= holder.turn_s


@given(contests())
def test_nobody_has_more_than_it_desires_granted(contest: Contest) -> None:
    answer = allocate(contest, AllocationMemory())
    for claimant in contest.claimants:
        granted = sum(g.endpoint == claimant.name for g in answer.grants)
        kept = sum(t.endpoint == claimant.name and t.worker_id in answer.kept for t in contest.tenants)
        assert granted + kept <= max(claimant.desired, 0)


@given(contests())
def test_every_unmet_need_has_its_reason(contest: Contest) -> None:
    answer = allocate(contest, AllocationMemory())
    staying = [t for t in contest.tenants if t.phase in (TenantPhase.STARTING, TenantPhase.READY)]
    staying = [t for t in staying if t.worker_id not in {r.worker_id for r in answer.reclaims}]
    for claimant in contest.claimants:
        granted = sum(g.endpoint == claimant.name for g in answer.grants)
        have = sum(t.endpoint == claimant.name for t in staying)
        if claimant.needed > granted + have:
            assert claimant.name in answer.waits


@given(contests(), st.randoms(use_true_random=False))
def test_the_answer_does_not_depend_on_the_order_of_the_question(contest: Contest, order: object) -> None:
    claimants, tenants = list(contest.claimants), list(contest.tenants)
    order.shuffle(claimants)  # type: ignore[attr-defined]
    order.shuffle(tenants)  # type: ignore[attr-defined]
    other = replace(contest, claimants=tuple(claimants), tenants=tuple(tenants))
    one, two = allocate(contest, AllocationMemory()), allocate(other, AllocationMemory())
    assert (one.grants, one.reclaims, one.kept) == (two.grants, two.reclaims, two.kept)

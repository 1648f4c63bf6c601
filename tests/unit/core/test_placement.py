from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import EndpointSpec, GpuNeeds, PolicyName, ScalePolicy
from gpud.core.gpu import GpuHealth, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid
from gpud.core.placement import Placement, fits, impossible, overbooked, place
from gpud.core.waiting import WaitReason
from tests.unit.core.making import gpu, gpu_statuses, gpu_uuid, spec

_OTHER = EndpointName("other")


@st.composite
def boxes(draw: st.DrawFn) -> tuple[GpuStatus, ...]:
    count = draw(st.integers(0, 8))
    return tuple(
        GpuStatus(
            gpu=gpu(
                number,
                memory_mib=draw(st.sampled_from([16_384, 24_576, 81_920])),
                numa_node=draw(st.integers(-1, 1)),
                name=draw(st.sampled_from(["NVIDIA L4", "NVIDIA H100 80GB HBM3"])),
            ),
            health=draw(st.sampled_from(list(GpuHealth))),
            reason="as drawn",
        )
        for number in range(count)
    )


needs_of = st.builds(
    GpuNeeds,
    count=st.integers(0, 4),
    least_memory_mib=st.sampled_from([0, 20_000, 80_000]),
    model=st.sampled_from(["", "h100", "L4"]),
)
held = st.sets(st.integers(0, 7))


@given(needs_of, boxes(), held)
def test_a_worker_gets_as_many_as_it_needs_all_healthy_free_and_fitting(
    needs: GpuNeeds, box: tuple[GpuStatus, ...], taken: set[int]
) -> None:
    held_by = {gpu_uuid(number): _OTHER for number in taken}
    answer = place(needs, box, held_by)
    by_uuid = {status.gpu.uuid: status for status in box}
    usable = {
        uuid
        for uuid, status in by_uuid.items()
        if status.health is GpuHealth.HEALTHY and uuid not in held_by and fits(needs, status.gpu)
    }
    if isinstance(answer, Placement):
        assert len(set(answer.gpu_uuids)) == needs.count
        assert set(answer.gpu_uuids) <= usable
    else:
        assert len(usable) < needs.count
        assert answer.reason in ("waiting_for_gpu", "gpu_unhealthy")
        assert answer.detail


@given(needs_of, boxes(), held)
def test_the_answer_is_the_same_each_time(
    needs: GpuNeeds, box: tuple[GpuStatus, ...], taken: set[int]
) -> None:
    held_by = {gpu_uuid(number): _OTHER for number in taken}
    assert place(needs, box, held_by) == place(needs, box, held_by)


@given(needs_of, boxes())
def test_what_is_impossible_is_never_placed_and_the_rest_is_on_a_healthy_empty_box(
    needs: GpuNeeds, box: tuple[GpuStatus, ...]
) -> None:
    well = tuple(replace(status, health=GpuHealth.HEALTHY) for status in box)
    assert isinstance(place(needs, well, {}), Placement) is not bool(impossible(needs, well))


def test_the_smallest_gpu_that_will_do_is_taken() -> None:
    box = tuple(GpuStatus(gpu=gpu(n, memory_mib=mib)) for n, mib in enumerate((81_920, 16_384, 24_576)))
    assert place(GpuNeeds(least_memory_mib=20_000), box, {}) == Placement(gpu_uuids=(gpu_uuid(2),))


def test_several_gpus_come_from_one_node_where_one_has_enough() -> None:
    box = tuple(GpuStatus(gpu=gpu(n, numa_node=node)) for n, node in enumerate((0, 1, 1, 0)))
    answer = place(GpuNeeds(count=2), box, {gpu_uuid(0): _OTHER})
    assert answer == Placement(gpu_uuids=(gpu_uuid(1), gpu_uuid(2)))


def test_a_cpu_worker_needs_no_gpu() -> None:
    assert place(GpuNeeds(count=0), (), {}) == Placement(gpu_uuids=())


def test_who_waits_is_told_who_holds_the_gpus() -> None:
    answer = place(GpuNeeds(), gpu_statuses(1), {gpu_uuid(0): _OTHER})
    assert isinstance(answer, WaitReason)
    assert answer.reason == "waiting_for_gpu"
    assert answer.facts == {"held_by": ["other"], "free": 0, "needed": 1}


def test_who_waits_for_a_sick_gpu_is_told_what_ails_it() -> None:
    sick = gpu_statuses(1, health=GpuHealth.UNHEALTHY)
    answer = place(GpuNeeds(), sick, {})
    assert isinstance(answer, WaitReason)
    assert answer.reason == "gpu_unhealthy"
    assert "GPU-0 is unhealthy (as told)" in answer.detail


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (GpuNeeds(count=3), "3 GPUs; this box has 2 such of 2 in all"),
        (GpuNeeds(model="H200"), "whose name contains 'H200'"),
        (GpuNeeds(least_memory_mib=99_999), "with at least 99999 MiB"),
    ],
)
def test_what_can_never_be_is_said_in_words(needs: GpuNeeds, words: str) -> None:
    assert words in impossible(needs, gpu_statuses(2))


def test_a_model_is_found_whatever_its_case() -> None:
    assert fits(GpuNeeds(model="TEST"), gpu())
    assert GpuUuid("GPU-0") == gpu().uuid


@pytest.mark.parametrize(
    ("guarantees", "gpu_count", "fault"),
    [
        ([], 1, ""),
        ([("a", 1, 1), ("b", 1, 1)], 2, ""),
        ([("a", 1, 1), ("b", 1, 1)], 1, "2 GPUs would be promised for good (a 1, b 1) and 1 suit"),
        ([("a", 2, 2)], 3, "4 GPUs would be promised for good (a 4) and 3 suit"),
        ([("a", 3, 0), ("b", 0, 1)], 0, ""),
    ],
)
def test_guarantees_that_cannot_hold_together_are_told(
    guarantees: list[tuple[str, int, int]], gpu_count: int, fault: str
) -> None:
    specs = [
        spec(name, ScalePolicy(min_workers=least, max_workers=9), gpus=each)
        for name, least, each in guarantees
    ]
    assert overbooked(specs, gpu_statuses(gpu_count)) == fault


def test_a_fixed_policy_promises_its_largest_number() -> None:
    fixed = spec("a", ScalePolicy(max_workers=2, policy=PolicyName.FIXED))
    assert overbooked([fixed], gpu_statuses(1)) != ""
    assert overbooked([fixed], gpu_statuses(2)) == ""


def test_only_those_who_suit_no_other_gpus_are_weighed_against_each_other() -> None:
    large = replace(gpu_statuses(1)[0], gpu=gpu(7, memory_mib=80_000))
    picky = EndpointSpec(
        name=EndpointName("picky"),
        image="a/b",
        gpus=GpuNeeds(least_memory_mib=40_000),
        scale=ScalePolicy(min_workers=1, max_workers=1),
    )
    easy = spec("easy", ScalePolicy(min_workers=1, max_workers=1))
    assert overbooked([picky, easy], (*gpu_statuses(1), large)) == ""
    second = replace(picky, name=EndpointName("second"))
    assert "picky 1, second 1" in overbooked([picky, second], (*gpu_statuses(1), large))

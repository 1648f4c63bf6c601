from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.endpoint import GpuNeeds
from gpud.core.gpu import Gpu, GpuStatus
from gpud.core.ids import EndpointName, GpuUuid
from gpud.core.ledger import Ledger, nearest_ways
from gpud.core.placement import Placement, nearest, place
from gpud.core.reclaim import FREE, Hold, Offer
from gpud.core.topology import Distance, distance
from tests.unit.core.making import gpu, gpu_uuid
from tests.unit.core.test_ledger import _tenant

if TYPE_CHECKING:
    from collections.abc import Sequence


def _linked(*pairs: tuple[int, int], count: int) -> list[Gpu]:
    """GPUs of which some are joined by NVLink, told from one side only."""
    return [
        gpu(n, near=tuple((gpu_uuid(b), int(Distance.NVLINK)) for a, b in pairs if a == n))
        for n in range(count)
    ]


def _indices(chosen: object) -> list[int]:
    return sorted(each.index for each in chosen)  # type: ignore[attr-defined]


def test_distance_is_the_same_from_both_sides_and_falls_back_to_nodes() -> None:
    one, two, three = (gpu(n, numa_node=node) for n, node in enumerate((0, 0, -1)))
    assert distance(one, two) == distance(two, one) == Distance.NODE
    assert distance(one, three) == distance(three, three) == Distance.SYSTEM
    switched = replace(one, near=((three.uuid, 10),))
    assert distance(switched, three) == distance(three, switched) == Distance.SWITCH
    parts = [gpu(n, mig_parent=GpuUuid("GPU-p")) for n in range(2)]
    assert distance(*parts) == Distance.BOARD


def test_linked_gpus_are_taken_together_though_others_come_first() -> None:
    gpus = _linked((1, 3), count=4)
    assert _indices(nearest(gpus, 2)) == [1, 3]
    assert _indices(nearest(gpus[:3], 2)) == [0, 1], "without the link the first two"


def test_neighbours_count_more_than_best_fit_and_best_fit_more_than_order() -> None:
    large = [replace(each, memory_mib=80_000) for each in _linked((0, 1), count=2)]
    small = [gpu(n) for n in (2, 3)]
    assert _indices(nearest([*large, *small], 2)) == [0, 1]
    assert _indices(nearest([*large, *small], 1)) == [2]
    assert _indices(nearest([replace(each, near=()) for each in (*large, *small)], 2)) == [2, 3]


def test_four_gpus_are_one_linked_island_and_not_two_halves() -> None:
    islands = ((0, 2, 4, 6), (1, 3, 5, 7))
    pairs = [pair for island in islands for pair in combinations(island, 2)]
    gpus = _linked(*pairs, count=8)
    assert _indices(nearest(gpus, 4)) == [0, 2, 4, 6]
    assert _indices(nearest([each for each in gpus if each.index != 4], 4)) == [1, 3, 5, 7]


@st.composite
def grouped(draw: st.DrawFn) -> list[Gpu]:
    """Boards of links within switches within nodes."""
    nodes = [draw(st.integers(0, 1)) for _ in range(draw(st.integers(1, 7)))]
    islands = [draw(st.integers(0, 2)) + 10 * node for node in nodes]
    return [
        gpu(
            n,
            numa_node=nodes[n],
            memory_mib=draw(st.sampled_from([16_384, 81_920])),
            near=tuple(
                (gpu_uuid(m), int(Distance.NVLINK))
                for m in range(len(nodes))
                if m != n and islands[m] == islands[n]
            ),
        )
        for n in range(len(nodes))
    ]


@given(grouped(), st.integers(2, 4), st.randoms(use_true_random=False))
def test_no_other_choice_is_nearer_and_the_order_of_the_question_does_not_matter(
    gpus: list[Gpu], count: int, order: object
) -> None:
    if len(gpus) < count:
        return

    def spread(chosen: Sequence[Gpu]) -> int:
        return sum(distance(a, b) for a, b in combinations(chosen, 2))

    chosen = list(nearest(gpus, count))
    assert len({each.uuid for each in chosen}) == count
    if count == 2:
        assert all(spread(chosen) <= spread(pair) for pair in combinations(gpus, 2))
    shuffled = list(gpus)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert nearest(shuffled, count) == chosen


def test_a_worker_of_two_is_placed_on_linked_gpus() -> None:
    box = tuple(GpuStatus(gpu=each) for each in _linked((0, 1), (2, 3), count=4))
    answer = place(GpuNeeds(count=2), box, {gpu_uuid(0): EndpointName("other")})
    assert answer == Placement(gpu_uuids=(gpu_uuid(2), gpu_uuid(3)))


def test_of_gpus_to_be_had_alike_neighbours_are_taken_and_an_easier_one_first() -> None:
    box = tuple(GpuStatus(gpu=each) for each in _linked((1, 3), count=4))
    held = _tenant("x", 0, 0)
    ledger = Ledger(box, [held], {})

    def offer(_tenant: object) -> Offer | None:
        return Offer(5.0, Hold.EQUAL, (), held.worker_id)

    ways = ledger.ways(GpuNeeds(count=2), offer)
    assert [way.offer == FREE for way in ways] == [True, True, True, False]
    assert _indices(way.account.gpu for way in nearest_ways(ways, 2)) == [1, 3]
    assert _indices(way.account.gpu for way in nearest_ways(ways, 4)) == [0, 1, 2, 3]

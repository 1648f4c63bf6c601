"""The bound of waiting for a GPU, in simulated hours of the worst load."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gpud.core.ids import EndpointName
from tests.unit.core.sharing_box import TOTAL_MIB, Party, SharingBox


def _turn_s(party: Party) -> float:
    """What one turn of one endpoint takes: start, quantum, and leaving."""
    return max(60.0, 3 * party.cold_start_s) + party.cold_start_s + party.drain_s + 3.0


def _party(dice: random.Random, number: int, gpu_count: int) -> Party:
    name = EndpointName(f"e{number:02}")
    size = min(dice.choice([1, 1, 1, 2, 4]), gpu_count)
    cold_start_s, drain_s = dice.choice([2.0, 20.0, 40.0, 90.0]), dice.choice([1.0, 5.0, 20.0])
    if dice.random() < 0.4:
        return Party(
            name=name,
            gpus=size,
            cold_start_s=cold_start_s,
            drain_s=drain_s,
            from_s=dice.randint(0, 600),
            for_s=dice.randint(5, 60),
            period_s=dice.randint(150, 900),
        )
    workers = dice.randint(1, 3)
    return Party(name=name, gpus=size, cold_start_s=cold_start_s, drain_s=drain_s, workers=workers)


@pytest.mark.parametrize("seed", range(10))
def test_nobody_waits_longer_than_a_turn_of_everyone_else(seed: int) -> None:
    dice = random.Random(seed)
    gpu_count = dice.choice([1, 2, 3, 4, 6, 8])
    parties = [_party(dice, i, gpu_count) for i in range(dice.randint(2, 20))]
    box = SharingBox(parties, gpu_count)
    box.run(3600)
    longest_turn_s = max(map(_turn_s, parties))
    for party in parties:
        gpu_s = sum(other.gpus * _turn_s(other) for other in parties if other is not party)
        # While a worker of many GPUs gathers them, all but one may lie idle for somebody's turn.
        gpu_s += sum((each.gpus - 1) * longest_turn_s for each in parties)
        bound_s = gpu_s / gpu_count + longest_turn_s + party.cold_start_s
        assert box.wait_s_max.get(party.name, 0.0) <= bound_s, party


@pytest.mark.parametrize("seed", range(7000, 7004))
def test_the_bound_holds_where_some_share_gpus_by_memory(seed: int) -> None:
    dice = random.Random(seed)
    gpu_count = dice.choice([1, 2, 3, 4, 5, 6, 7, 8])
    parties = [_party(dice, i, gpu_count) for i in range(dice.randint(2, 20))]
    parties = [_sliced(dice, party) if dice.random() < 0.5 else party for party in parties]
    box = SharingBox(parties, gpu_count)
    box.run(3600)
    longest_turn_s = max(map(_turn_s, parties))
    for party in parties:
        gpu_s = sum(_width(other) * _turn_s(other) for other in parties if other is not party)
        gpu_s += sum((each.gpus - 1) * longest_turn_s for each in parties)
        bound_s = gpu_s / gpu_count + longest_turn_s + party.cold_start_s
        assert box.wait_s_max.get(party.name, 0.0) <= bound_s, party


def _sliced(dice: random.Random, party: Party) -> Party:
    return replace(party, gpus=1, slice_mib=dice.choice([3000, 6000, 8000, 12_000, 16_000]))


def _width(party: Party) -> float:
    return party.slice_mib / TOTAL_MIB if party.slice_mib else float(party.gpus)


def test_a_worker_of_all_gpus_gets_them_while_small_ones_keep_asking() -> None:
    small = [Party(name=EndpointName(f"s{i}"), workers=2) for i in range(4)]
    box = SharingBox([Party(name=EndpointName("big"), gpus=4), *small], 4)
    box.run(7200)
    assert box.wait_s_max["big"] <= 2 * _turn_s(small[0]) + 20.0
    assert box.gpu_s["big"] >= 7200 * 4 / 5 * 0.8, "a fifth of the box, less what turns cost"


def test_equals_have_equal_shares_of_the_time_within_a_turn() -> None:
    parties = [Party(name=EndpointName(name)) for name in "abc"]
    box = SharingBox(parties, 1)
    box.run(7200)
    assert max(box.gpu_s.values()) - min(box.gpu_s.values()) <= _turn_s(parties[0]) + 1.0


def test_an_endpoint_with_a_guarantee_is_never_without_a_worker_once_it_has_one() -> None:
    sure = Party(name=EndpointName("sure"), guaranteed=1)
    box = SharingBox([sure, *(Party(name=EndpointName(f"x{i}"), workers=3) for i in range(6))], 2)
    box.run(60)
    box.wait_s_max.clear()
    box.run(3600)
    assert "sure" not in box.wait_s_max


def test_without_scarcity_nobody_is_ever_told_to_leave() -> None:
    box = SharingBox([Party(name=EndpointName(name), workers=2) for name in "abcd"], 8)
    for _ in range(600):
        box.step()
        assert box.last is not None
        assert not box.last.reclaims
    assert len(box.guests) == 8


def test_the_higher_priority_is_served_and_the_lower_gets_what_is_left() -> None:
    high = Party(name=EndpointName("high"), priority=1, from_s=300.0, for_s=600.0)
    box = SharingBox([Party(name=EndpointName("low"), workers=2), high], 1)
    box.run(1800)
    assert box.wait_s_max["high"] <= high.drain_s + high.cold_start_s + 3.0
    assert box.of("low"), "it has the GPU back"

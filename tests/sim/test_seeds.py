"""Boxes on which everything goes wrong, by seed. A seed that fails is replayed by the line it prints."""

from __future__ import annotations

import pytest

from tests.sim.chaos import TROUBLES, Chaos, Plot
from tests.sim.final import check_calm

pytestmark = pytest.mark.long

_SEEDS = 50
_LIFE_S = 4 * 60.0
_DAY_S = 24 * 3600.0


def _live(chaos: Chaos, *, for_s: float, replay: str) -> None:
    try:
        chaos.live(for_s=for_s)
        chaos.calm()
        check_calm(chaos.sim, late_ns=chaos.late_ns, answers_lost=chaos.answers_lost)
    except BaseException as error:
        error.add_note(f"{chaos.plot} at {chaos.sim.now_s} s. Replay: python -m pytest '{replay}'")
        raise
    finally:
        chaos.sim.close()


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_whatever_goes_wrong_all_is_well_in_the_end(seed: int) -> None:
    replay = f"{__file__}::test_whatever_goes_wrong_all_is_well_in_the_end[{seed}]"
    _live(Chaos(seed), for_s=_LIFE_S, replay=replay)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [101])
def test_two_endpoints_on_one_gpu_never_overlap_on_it_in_a_day_of_faults(seed: int) -> None:
    replay = f"{__file__}::test_two_endpoints_on_one_gpu_never_overlap_on_it_in_a_day_of_faults[{seed}]"
    plot = Plot(
        gpus=1,
        endpoints=2,
        call_faults=0.02,
        bad_starts=0.1,
        mean_s=3600.0,
        crash_mean_s=7200.0,
        troubles=frozenset(TROUBLES),
        pause_s=1200.0,
    )
    chaos = Chaos(seed, plot=plot)
    _live(chaos, for_s=_DAY_S, replay=replay)
    started = {each.endpoint for each in chaos.sim.box.lifetimes if each.gpu_uuids}
    assert len(started) == 2, "Both must have had the GPU, or nothing was shown."

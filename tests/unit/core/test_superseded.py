from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.energy import NOBODY, Holder
from gpud.core.ids import GpuUuid
from gpud.core.records import BudgetTold, EnergyDrawn, GpuWatched, HeartbeatWritten
from gpud.core.superseded import without_superseded
from gpud.core.unleased import Watch

if TYPE_CHECKING:
    from gpud.core.records import FleetChange

_GPUS = st.sampled_from(["GPU-a", "GPU-b"]).map(GpuUuid)
_BEAT = st.integers(0, 9).map(lambda n: HeartbeatWritten(boot_id="b", boot_ns=n, wall_ms=n))
_WATCHED = st.builds(
    lambda uuid, start, end: GpuWatched(
        watch=Watch(
            gpu_uuid=uuid, boot_id="b", start_boot_ns=start, end_boot_ns=start + end, start_wall_ms=start
        )
    ),
    _GPUS,
    st.integers(0, 1),
    st.integers(0, 9),
)
_DRAWN = st.builds(
    EnergyDrawn,
    gpu_uuid=_GPUS,
    holder=st.sampled_from([NOBODY, Holder("wk_1", "llm")]),
    hour=st.integers(0, 1),
    minute=st.none() | st.integers(0, 1),
    mj=st.integers(1, 9),
    sampled_mj=st.integers(0, 9),
)
_OTHER = st.integers(0, 9).map(lambda n: BudgetTold(budget="b", since_ms=0, percent=n))


def _written(
    changes: list[FleetChange],
) -> tuple[dict[object, object], Counter[object], Counter[object], list[BudgetTold]]:
    """What the store has of them in the end."""
    newest: dict[object, object] = {}
    mj: Counter[object] = Counter()
    sampled_mj: Counter[object] = Counter()
    for change in changes:
        match change:
            case HeartbeatWritten():
                newest["beat"] = change
            case GpuWatched(watch=watch):
                newest[watch.gpu_uuid, watch.start_boot_ns] = watch.end_boot_ns
            case EnergyDrawn():
                key = change.gpu_uuid, change.holder, change.hour, change.minute
                mj[key] += change.mj
                sampled_mj[key] += change.sampled_mj
            case _:
                pass
    return newest, mj, sampled_mj, [change for change in changes if isinstance(change, BudgetTold)]


@given(st.lists(st.one_of(_BEAT, _WATCHED, _DRAWN, _OTHER), max_size=60))
def test_what_is_left_says_the_same_in_a_few_rows(changes: list[FleetChange]) -> None:
    left = without_superseded(changes)
    assert _written(left) == _written(changes)
    others = sum(isinstance(change, BudgetTold) for change in changes)
    assert len(left) <= others + 1 + 4 + 8
    assert without_superseded(left) == left

"""Which changes that wait for the disk need not be written one by one, since later ones say all of it?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.records import EnergyDrawn, GpuWatched, HeartbeatWritten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpud.core.records import FleetChange


def without_superseded(changes: Iterable[FleetChange]) -> list[FleetChange]:
    """Keep of what the daemon says again every few seconds the newest, and of sums their sum.

    Whole, these changes say the same: they are written in one transaction, and none of the others
    depends on them. All others are kept, in order.
    """
    kept: dict[object, FleetChange] = {}
    for number, change in enumerate(changes):
        match change:
            case HeartbeatWritten():
                kept[HeartbeatWritten] = change
            case GpuWatched(watch=watch):
                kept[watch.gpu_uuid, watch.boot_id, watch.start_boot_ns] = change
            case EnergyDrawn():
                key = change.gpu_uuid, change.holder, change.hour, change.minute
                before = kept.get(key)
                if isinstance(before, EnergyDrawn):
                    mj, sampled_mj = before.mj + change.mj, before.sampled_mj + change.sampled_mj
                    kept[key] = replace(change, mj=mj, sampled_mj=sampled_mj)
                else:
                    kept[key] = change
            case _:
                kept[number] = change
    return list(kept.values())

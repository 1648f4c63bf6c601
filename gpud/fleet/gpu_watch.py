"""Writes down when the daemon ran and saw which GPUs, so that time in which nobody had one is known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.records import GpuWatched
from gpud.core.unleased import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.ids import GpuUuid
    from gpud.core.records import FleetChange
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock

_JUMP_MS = 500


class GpuWatch:
    """One stretch for each GPU, longer with each look; another one after the wall clock was set.

    Args:
        state: The fleet, to read.
        clock: CLOCK_BOOTTIME measures; wall time only labels.
        add: Takes the rows into the next round's transaction.
    """

    def __init__(self, state: FleetState, clock: Clock, add: Callable[[FleetChange], None]) -> None:
        self._state = state
        self._clock = clock
        self._add = add
        self._watches: dict[GpuUuid, Watch] = {}

    def look(self) -> None:
        """Every GPU of the inventory was there until now."""
        boot_ns, wall_ms = self._clock.boot_ns(), self._clock.at_ms()
        before, self._watches = self._watches, {}
        for uuid in self._state.gpus:
            watch = before.get(uuid)
            if watch is not None:
                # Time goes on without a gap; only what it is called changes.
                watch = replace(watch, end_boot_ns=max(boot_ns, watch.end_boot_ns))
                self._add(GpuWatched(watch=watch))
            if watch is None or self._has_jumped(watch, boot_ns, wall_ms):
                watch = Watch(
                    gpu_uuid=uuid,
                    boot_id=self._clock.boot_id,
                    start_boot_ns=boot_ns,
                    end_boot_ns=boot_ns,
                    start_wall_ms=wall_ms,
                )
            self._watches[uuid] = watch

    @staticmethod
    def _has_jumped(watch: Watch, boot_ns: int, wall_ms: int) -> bool:
        expected_ms = watch.start_wall_ms + (boot_ns - watch.start_boot_ns) // 1_000_000
        return abs(wall_ms - expected_ms) > _JUMP_MS

"""Changes on their way to the store: written in order, and kept while the disk is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gpud.core.superseded import without_superseded
from gpud.errors import StorageFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.records import FleetChange
    from gpud.ports.store import FleetStore
    from gpud.ports.time import Clock

log = structlog.get_logger(__name__)


class Journal:
    """Collects changes of fleet state and writes them, whole and in order.

    State moves on in memory at once; effects wait until `flush` says that everything is on
    disk. With a full disk nothing is lost: the changes stay here and are tried again.
    """

    def __init__(self, store: FleetStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._pending: list[FleetChange] = []
        self.full_since_s: float | None = None
        self.listeners: list[Callable[[FleetChange], None]] = []
        """Told of each change as it is made; must return at once."""

    def add(self, change: FleetChange) -> None:
        """Append one change."""
        self._pending.append(change)
        for listen in self.listeners:
            listen(change)

    async def flush(self) -> bool:
        """Write what was collected; False when the disk is full and it must be tried again.

        Raises:
            InvariantBroken: The store refused a change: a bug, which ends the daemon.
        """
        if not self._pending:
            return True
        batch = self._pending
        self._pending = []
        try:
            await self._store.record(batch)
        except StorageFull as error:
            # The disk may be full for days, and each try writes all of this.
            self._pending = without_superseded((*batch, *self._pending))
            if self.full_since_s is None:
                self.full_since_s = self._clock.now_s()
                waiting = len(self._pending)
                log.error("store.filled_up", error=error.detail, changes_waiting=waiting)  # noqa: TRY400 - foreseen
            return False
        if self.full_since_s is not None:
            log.warning("store.recovered", full_for_s=self._clock.now_s() - self.full_since_s)
            self.full_since_s = None
        return True

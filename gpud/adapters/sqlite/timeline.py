"""What time is it for the store's decisions? One timeline, which no step of the wall clock moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.adapters.sqlite.statements import SQL
from gpud.core.timeline import Anchor, anchored

if TYPE_CHECKING:
    import sqlite3

    from gpud.ports.time import Clock


class StoreTimeline:
    """The timeline of a store that is open; may be asked from any thread."""

    def __init__(self, anchor: Anchor, clock: Clock) -> None:
        self._anchor = anchor
        self._clock = clock

    def now_ms(self) -> int:
        """The timeline now."""
        return self._anchor.now_ms(self._clock.boot_ns())


def fix_anchor(connection: sqlite3.Connection, *, boot_id: str, boot_ns: int, wall_ms: int) -> Anchor:
    """This boot's anchor, written if it is new.

    A boot begins no earlier than the one before it was last seen alive, whatever its wall clock says.
    """
    row = connection.execute(SQL["job_timeline_read"]).fetchone()
    known = None if row is None else Anchor(**dict(row))
    newest = connection.execute(SQL["job_newest"]).fetchone()
    newest_ms = 0 if newest is None else newest[0]
    beat = connection.execute(SQL["heartbeat_read"]).fetchone()
    if known is not None and beat is not None and beat["boot_id"] == known.boot_id:
        newest_ms = max(newest_ms, known.now_ms(beat["boot_ns"]))
    anchor = anchored(known, boot_id=boot_id, boot_ns=boot_ns, wall_ms=wall_ms, newest_ms=newest_ms)
    if anchor != known:
        values = {"boot_id": anchor.boot_id, "boot_ns": anchor.boot_ns, "at_ms": anchor.at_ms}
        connection.execute(SQL["job_timeline_write"], values)
    return anchor


def begin(connection: sqlite3.Connection, *, boot_id: str, boot_ns: int, wall_ms: int) -> Anchor:
    """Fix the timeline when a store opens, and bound what was to be done later by what was decided.

    What an earlier boot, or an earlier gpud, left further ahead than that waits no longer from now on.
    """
    anchor = fix_anchor(connection, boot_id=boot_id, boot_ns=boot_ns, wall_ms=wall_ms)
    now = {"now_ms": anchor.now_ms(boot_ns)}
    for statement in ("webhook_waits_bound", "webhook_ends_bound", "idempotency_bound"):
        connection.execute(SQL[statement], now)
    return anchor

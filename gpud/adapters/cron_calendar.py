"""Cron expressions with cronsim, time zones with the standard library.

cronsim does at the change of summer time what Debian's cron does: a time that the clocks jump over
comes right after the jump, one that they show twice comes once; steps such as `*/30` follow the hours
that pass. It does so backwards too, which tells whether a window is open after a restart.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from gpud.ports.calendar import WindowSpan

if TYPE_CHECKING:
    from gpud.core.windows import WarmWindow

_MS = timedelta(milliseconds=1)
_CLOCKS_CHANGE_BY = timedelta(hours=2)
"""More than any clock is set forward or back in one night."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CronCalendar:
    """The `Calendar` of this machine's time zone database, or of the tzdata package without one."""

    def faults(self, window: WarmWindow) -> dict[str, str]:
        """Say what is wrong with a window's expressions and zone, by field; empty when it is usable."""
        try:
            zone = _zone(window.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return {"time_zone": "must be the IANA name of a time zone, such as Europe/Berlin or UTC"}
        found = {"start": _fault(window.start, zone)}
        if window.end:
            found["end"] = _fault(window.end, zone)
        return {field: fault for field, fault in found.items() if fault}

    def span(self, window: WarmWindow, at_ms: int) -> WindowSpan:
        """Look at a usable window at a moment of Unix wall time.

        Where a start and an end fall on one moment, the end counts.
        """
        now = (_EPOCH + at_ms * _MS).astimezone(_zone(window.time_zone))
        started = _last(window.start, now)
        opens = _next(window.start, now)
        if window.end:
            ended = _last(window.end, now)
            is_open = started is not None and (ended is None or started > ended)
            edge = _next(window.end, now) if is_open else opens
        else:
            closes = started and started + timedelta(seconds=window.duration_s)
            is_open = closes is not None and closes > now.astimezone(UTC)
            edge = closes if is_open else opens
        return WindowSpan(is_open=is_open, edge_ms=None if edge is None else -(-(edge - _EPOCH) // _MS))


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _fault(expression: str, zone: ZoneInfo) -> str:
    if len(expression.split()) != 5:  # cronsim takes a sixth field, of seconds, which Debian's cron does not
        return "must be a cron expression of five fields, such as 0 8 * * MON-FRI"
    try:
        next(CronSim(expression, datetime.now(zone)))
    except CronSimError as error:
        return f"must be a cron expression of five fields, such as 0 8 * * MON-FRI: {error}"
    except StopIteration:
        return "names a moment that never comes"
    return ""


def _next(expression: str, now: datetime) -> datetime | None:
    """The first moment after `now`, in UTC.

    cronsim forgets which of the two hours it is in while the clocks show one twice, so it is asked from a
    little earlier, and what lies behind is passed over.
    """
    found = (moment.astimezone(UTC) for moment in CronSim(expression, now - _CLOCKS_CHANGE_BY))
    return next((moment for moment in found if moment > now), None)


def _last(expression: str, now: datetime) -> datetime | None:
    """The last moment up to and including `now`, in UTC."""
    from_later = CronSim(expression, now + _CLOCKS_CHANGE_BY, reverse=True)
    found = (moment.astimezone(UTC) for moment in from_later)
    return next((moment for moment in found if moment <= now), None)

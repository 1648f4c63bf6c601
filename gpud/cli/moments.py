"""Turns what users write about time into RFC 3339: `24h` means 24 hours ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gpud.cli.exits import BadUsage
from gpud.cli.parsing import duration_s


def moment(text: str, option: str, *, ahead: bool = False) -> str:
    """Spell a moment for the API; an empty text stays empty.

    Args:
        text: A duration (`24h`, `30d`), a date (`2026-11-21`, its first moment in UTC) or an RFC 3339 time.
        option: Its option, for messages.
        ahead: Durations reach into the future instead of the past.

    Raises:
        BadUsage: It is none of these.
    """
    if not text:
        return ""
    seconds = duration_s(text)
    try:
        if seconds is not None:
            now = datetime.now(UTC)
            found = now + timedelta(seconds=seconds if ahead else -seconds)
        else:
            found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise BadUsage(
            f"--{option}: {text!r} is not a time.",
            todo="Say a length such as 24h or 30d, a date such as 2026-11-21, or 2026-11-21T14:00:00Z.",
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return found.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

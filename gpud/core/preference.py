"""What does a caller prefer? Reads the field `Prefer` (RFC 7240)."""

from __future__ import annotations

import re
from typing import NamedTuple

JOB_BYTES_MAX = 10 << 20
"""Longest body of a request that becomes a job."""
PATH_CHARS_MAX = 2000
"""Longest path of one, query included."""
WAIT_S_MAX = 300.0
_DIGITS_MAX = 10
_PART = re.compile(r'(?:[^,"]|"[^"]*")+')
"""One preference with its parameters; a comma between quotes separates nothing."""


class Preference(NamedTuple):
    """What of it is heard here.

    Args:
        respond_async: Rather a 202 now than the answer later.
        wait_s: How long the caller would wait for the answer before that; None when it does not say.
    """

    respond_async: bool = False
    wait_s: float | None = None


def preference_of(field: str) -> Preference:
    """Read a field's value; of a preference that stands twice the first counts, and what is unknown does not.

    Args:
        field: Several fields are joined by commas.
    """
    found: dict[str, str] = {}
    for part in _PART.findall(field):
        name, _, value = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    seconds = wait.isascii() and wait.isdigit() and len(wait) < _DIGITS_MAX
    return Preference(
        respond_async=found.get("respond-async") == "",
        wait_s=min(float(wait), WAIT_S_MAX) if seconds else None,
    )

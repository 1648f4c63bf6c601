"""Who used a worker's time: shares of a segment among API keys, whole nanoseconds that sum to it.

While n requests run, each has the n-th part of every nanosecond. The gateway measures that; here it is
made whole numbers: of an `active` segment the keys have all, in the proportion that was measured, and of
one in which requests may run as well (`unready`, `drain`) what was measured. The rest of a worker's time
is nobody's and has lines of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.metering import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpud.core.metering import Segment

Shares = tuple[tuple[str, int], ...]
"""Nanoseconds by key, in the order of the keys."""

PUBLIC = "(public)"
"""Requests to public endpoints, for which no key is needed."""

_SHARED = frozenset({Phase.ACTIVE, Phase.UNREADY, Phase.DRAIN})
_NOBODYS = {
    Phase.SETUP: "(starting)",
    Phase.START: "(starting)",
    Phase.ACTIVE: "(unknown)",
    Phase.IDLE: "(idle)",
    Phase.UNREADY: "(unready)",
    Phase.DRAIN: "(draining)",
    Phase.STOP: "(stopping)",
    Phase.RELEASE: "(stopping)",
    Phase.UNSUPERVISED: "(unsupervised)",
    Phase.UNLEASED: "(unleased)",
}


def line_of(phase: Phase) -> str:
    """The line of time that no key used."""
    return _NOBODYS[phase]


def shares_of(phase: Phase, duration_ns: int, measured_ns: Mapping[str, int]) -> Shares:
    """Share a stretch out among the keys whose requests ran in it.

    Args:
        phase: Of the stretch.
        duration_ns: Its length.
        measured_ns: What each key had as far as the gateway saw; what is not more than 0 is left out.

    Returns:
        Sums to the length for an `active` stretch in which anything was measured; never to more.
    """
    if phase not in _SHARED or not duration_ns:
        return ()
    measured = sorted((key, ns) for key, ns in measured_ns.items() if ns > 0)
    total_ns = sum(ns for _key, ns in measured)
    if phase is not Phase.ACTIVE and total_ns <= duration_ns:
        return tuple(measured)
    shares: list[tuple[str, int]] = []
    left_ns, weight_left_ns = duration_ns, total_ns
    for key, ns in measured:
        share_ns = left_ns * ns // weight_left_ns
        left_ns, weight_left_ns = left_ns - share_ns, weight_left_ns - ns
        if share_ns:
            shares.append((key, share_ns))
    return tuple(shares)


def shares_until(shares: Shares, duration_ns: int, passed_ns: int) -> dict[str, int]:
    """What each key had of the first `passed_ns` of a stretch, evenly over it.

    What is left after a key is shared out among those behind it, so that all rise with `passed_ns`
    and never make more than it: pieces of a stretch have whole parts, none below 0, that sum to its
    shares.
    """
    found: dict[str, int] = {}
    for key, share_ns in shares:
        if not duration_ns:
            break
        had_ns = passed_ns * share_ns // duration_ns
        found[key] = had_ns
        passed_ns, duration_ns = passed_ns - had_ns, duration_ns - share_ns
    return found


def pieces(shares: Shares, duration_ns: int, start_ns: int, ns: int) -> Iterator[tuple[str, int]]:
    """Share a piece of a stretch out.

    Args:
        shares: Of the whole stretch.
        duration_ns: Its length.
        start_ns: Where in it the piece begins.
        ns: How long the piece is.

    Yields:
        Keys with what they had; the empty key with what nobody had. All sum to `ns`.
    """
    before = shares_until(shares, duration_ns, start_ns)
    after = shares_until(shares, duration_ns, start_ns + ns)
    left_ns = ns
    for key, until_ns in after.items():
        had_ns = until_ns - before[key]
        left_ns -= had_ns
        if had_ns:
            yield key, had_ns
    if left_ns:
        yield "", left_ns


def with_shares(segment: Segment, measured_ns: Mapping[str, int]) -> Segment:
    """A segment that has an end, with what each key had of it."""
    return replace(segment, keys=shares_of(segment.phase, segment.duration_ns, measured_ns))

"""Usage by API key: what keys had of segments, hour by hour, and whose the rest was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.core.key_shares import pieces
from gpud.core.usage import HOUR_NS, Period, stretches_of, wall_span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpud.core.metering import Segment
    from gpud.core.usage import Stretch


def key_hours_of(segment: Segment) -> Iterator[tuple[int, str, int]]:
    """Share what keys had of a closed segment out to hours.

    Yields:
        `(hours since 1970, key, nanoseconds)`.
    """
    if segment.keys:
        for stretch in by_key(segment, stretches_of(segment, Period())):
            if stretch.key:
                yield stretch.at_ns // HOUR_NS, stretch.key, stretch.ns


def by_key(segment: Segment, stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """Share stretches of a closed segment, each the next part of it, out among keys."""
    start_ns, _end_ns = wall_span(segment)
    for stretch in stretches:
        for key, ns in pieces(segment.keys, segment.duration_ns, stretch.begins_ns - start_ns, stretch.ns):
            yield replace(stretch, ns=ns, key=key)


def with_the_rest(whole: Iterable[Stretch], used: Iterable[Stretch]) -> Iterator[Stretch]:
    """What keys had of workers' time, and what is left of it.

    Args:
        whole: All of it, one for each worker, phase and bucket.
        used: By key.
    """
    had_ns: Counter[tuple[str, str, int]] = Counter()
    for stretch in used:
        had_ns[stretch.worker_id, stretch.phase, stretch.at_ns] += stretch.ns
        yield stretch
    for stretch in whole:
        rest_ns = stretch.ns - had_ns[stretch.worker_id, stretch.phase, stretch.at_ns]
        if rest_ns:
            yield replace(stretch, ns=rest_ns)

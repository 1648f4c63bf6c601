"""Documents of cold starts: where their time went, and what was slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.schemas.base import Document, PageLimit, Query, Timestamp, timestamp
from gpud.core.cold_start import COMPARED_MAX, StartPhase, slowdown_of, told, usual_total_ns
from gpud.core.wanted import told as told_why

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpud.core.cold_start import ColdStart, Slowdown

_MS_NS = 1_000_000
_BEFORE_READY = tuple(phase for phase in StartPhase if phase is not StartPhase.FIRST_BYTE)


class StartsQuery(Query):
    """How many starts are asked for."""

    limit: PageLimit = 20
    """Most starts in the answer; the newest 500 of an endpoint are kept."""


class SlowdownDocument(Document):
    """What made a start slower than usual."""

    culprit: StartPhase
    """The phase that grew most."""
    culprit_ms: float
    """How long it took."""
    culprit_usual_ms: float
    """Its median of the twenty starts before."""
    detail: str
    """The same in a sentence."""


class StartDocument(Document):
    """One start that ended well. The phases but `first_byte` add up to `total_ms`."""

    worker_id: str
    revision: str
    ready_at: Timestamp
    woken: str
    """The rung that the worker was woken from, `paused` or `sleeping`; empty for a start from nothing."""
    why: str
    """What woke it, in a word: the scale reason such as `concurrency`, `min_workers` or `warm_window`, or
    `rollout`; empty for starts of earlier versions."""
    wanted: str
    """The same in words, with how many requests and jobs waited then."""
    total_ms: float
    """From the wish for a worker to its first good answer."""
    usual_ms: float | None
    """Median of the twenty starts before; null for the first."""
    wait_ms: float
    """Until a GPU was free and no image was missing, without `evict` and `pull`."""
    evict_ms: float
    """Another worker leaving the GPU."""
    pull_ms: float
    """Pulling the image."""
    reserve_ms: float
    """Leasing the GPU and seeing that it is idle."""
    create_ms: float
    """The engine creating the container."""
    engine_start_ms: float
    """The engine starting it."""
    wake_ms: float
    """Thawing the program, or its own way out of sleep."""
    listen_ms: float
    """The program until it took connections."""
    ready_ms: float
    """The program until it answered well."""
    first_byte_ms: float | None
    """The first request that waited, from its dispatch to the first byte; null when none waited."""
    slower: SlowdownDocument | None
    """Set when it took half as long again as usual; fewer than five earlier starts prove nothing."""


class StartList(Document):
    """An endpoint's starts, newest first."""

    items: tuple[StartDocument, ...]
    next: str | None
    """Always null: ask for more with `limit`."""


def start_documents(newest_first: Sequence[ColdStart], limit: int) -> tuple[StartDocument, ...]:
    """Show starts, each beside those before it.

    Args:
        newest_first: Those to show, and after them enough to compare the last one with.
        limit: How many to show.
    """
    shown = []
    for place, start in enumerate(newest_first[:limit], start=1):
        alike = [other for other in newest_first[place:] if other.woken == start.woken]
        shown.append(_start_document(start, alike[:COMPARED_MAX][::-1]))
    return tuple(shown)


def _start_document(start: ColdStart, earlier: Sequence[ColdStart]) -> StartDocument:
    slowdown = slowdown_of(start, earlier)
    phases_ms = {f"{phase}_ms": _ms(start.phases_ns.get(phase, 0)) for phase in _BEFORE_READY}
    first_byte_ns = start.phases_ns.get(StartPhase.FIRST_BYTE)
    return StartDocument(
        worker_id=start.worker_id,
        woken=start.woken,
        why=start.wanted.why,
        wanted=told_why(start.wanted),
        revision=start.revision,
        ready_at=timestamp(start.at_ms),
        total_ms=_ms(start.total_ns),
        usual_ms=_ms(usual_total_ns(earlier)) if earlier else None,
        **phases_ms,
        first_byte_ms=None if first_byte_ns is None else _ms(first_byte_ns),
        slower=_slowdown_document(slowdown) if slowdown else None,
    )


def _slowdown_document(slowdown: Slowdown) -> SlowdownDocument:
    return SlowdownDocument(
        culprit=slowdown.culprit,
        culprit_ms=_ms(slowdown.culprit_ns),
        culprit_usual_ms=_ms(slowdown.culprit_usual_ns),
        detail=told(slowdown),
    )


def _ms(ns: int) -> float:
    return round(ns / _MS_NS, 3)

"""Where did a start's time go, and was it slower than this endpoint's starts are?"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING

from gpud.core.wanted import UNKNOWN, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpud.core.ids import EndpointName, Revision, WorkerId

COMPARED_MAX = 20
"""Earlier starts of an endpoint that a start is compared with."""

_COMPARED_LEAST = 5
_SLOWER_RATIO = 1.5
_SLOWER_LEAST_NS = 50_000_000
"""Below this nobody waits noticeably longer, whatever the ratio."""


class StartPhase(StrEnum):
    """A part of a start, in the order in which they come; FIRST_BYTE comes after readiness."""

    WAIT = "wait"
    EVICT = "evict"
    PULL = "pull"
    RESERVE = "reserve"
    CREATE = "create"
    ENGINE_START = "engine_start"
    WAKE = "wake"
    LISTEN = "listen"
    READY = "ready"
    FIRST_BYTE = "first_byte"


MEANING: Mapping[StartPhase, str] = {
    StartPhase.WAIT: "waiting for a free GPU, a start slot or the next round",
    StartPhase.EVICT: "another endpoint's worker leaving the GPU",
    StartPhase.PULL: "pulling the image",
    StartPhase.RESERVE: "leasing the GPU and seeing that it is idle",
    StartPhase.CREATE: "the engine creating the container",
    StartPhase.ENGINE_START: "the engine starting the container",
    StartPhase.WAKE: "thawing the program, or its own way out of sleep",
    StartPhase.LISTEN: "the program until it took connections",
    StartPhase.READY: "the program until it answered well",
    StartPhase.FIRST_BYTE: "the first request until the first byte of its answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """When a start reached each step, in nanoseconds of CLOCK_BOOTTIME; 0 for a step it did not take.

    Args:
        asked_ns: The worker was wanted.
        evicting_ns: A worker was sent away from the GPU it got.
        pulling_ns: It began to wait for its image.
        pulled_ns: The image was here.
        reserved_ns: Its GPUs were leased.
        creating_ns: They were seen to be idle; the engine was asked.
        started_ns: The engine answered that the container runs.
        listening_ns: The first connection was taken.
        ready_ns: The first good answer.
        create_ns: A duration: how long the engine took to create the container.
    """

    asked_ns: int
    evicting_ns: int = 0
    pulling_ns: int = 0
    pulled_ns: int = 0
    reserved_ns: int = 0
    creating_ns: int = 0
    started_ns: int = 0
    listening_ns: int = 0
    ready_ns: int
    create_ns: int = 0


def phases_of(marks: Marks) -> dict[StartPhase, int]:
    """Split a start into its phases, in nanoseconds; they add up to its whole time exactly.

    What overlaps counts once: an eviction during a pull is the pull's, since the pull would have
    been waited for anyway. FIRST_BYTE is not among them.
    """
    asked_ns = marks.asked_ns
    ready_ns = max(marks.ready_ns, asked_ns)
    reserved_ns = min(max(marks.reserved_ns or asked_ns, asked_ns), ready_ns)
    creating_ns = min(max(marks.creating_ns, reserved_ns), ready_ns)
    started_ns = min(max(marks.started_ns, creating_ns), ready_ns)
    listening_ns = min(max(marks.listening_ns or ready_ns, started_ns), ready_ns)
    pulling_ns = min(max(marks.pulling_ns, asked_ns), reserved_ns) if marks.pulling_ns else reserved_ns
    pulled_ns = min(max(marks.pulled_ns or reserved_ns, pulling_ns), reserved_ns)
    evict_ns = 0
    if marks.evicting_ns:
        begun_ns = min(max(marks.evicting_ns, asked_ns), reserved_ns)
        before_pull_ns = max(min(pulling_ns, reserved_ns) - begun_ns, 0)
        evict_ns = before_pull_ns + reserved_ns - max(begun_ns, pulled_ns)
    pull_ns = pulled_ns - pulling_ns
    create_ns = min(marks.create_ns, started_ns - creating_ns)
    return {
        StartPhase.WAIT: reserved_ns - asked_ns - pull_ns - evict_ns,
        StartPhase.EVICT: evict_ns,
        StartPhase.PULL: pull_ns,
        StartPhase.RESERVE: creating_ns - reserved_ns,
        StartPhase.CREATE: create_ns,
        StartPhase.ENGINE_START: started_ns - creating_ns - create_ns,
        StartPhase.LISTEN: listening_ns - started_ns,
        StartPhase.READY: ready_ns - listening_ns,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """One start that ended well.

    Args:
        at_ms: Unix wall time at which the worker was ready.
        woken: The rung that it was woken from; empty for a start from nothing.
        phases_ns: By phase; FIRST_BYTE once a request that waited was answered.
        wanted: What it was for.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    revision: Revision
    at_ms: int
    woken: str = ""
    phases_ns: Mapping[StartPhase, int] = field(default_factory=dict)
    wanted: Wanted = UNKNOWN

    @property
    def total_ns(self) -> int:
        """From the wish to the first good answer of the health check."""
        return sum(ns for phase, ns in self.phases_ns.items() if phase is not StartPhase.FIRST_BYTE)

    @property
    def from_gpus_ns(self) -> int:
        """From the lease of its GPUs, which waits for nothing any more."""
        waits = (StartPhase.WAIT, StartPhase.EVICT, StartPhase.PULL)
        return self.total_ns - sum(self.phases_ns.get(phase, 0) for phase in waits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """A start took longer than usual.

    Args:
        usual_ns: Median of the starts before.
        culprit: The phase that grew most.
        culprit_ns: How long it took.
        culprit_usual_ns: Its median before.
    """

    usual_ns: int
    culprit: StartPhase
    culprit_ns: int
    culprit_usual_ns: int


def usual_total_ns(earlier: Sequence[ColdStart]) -> int:
    """Median time of some starts; 0 without any."""
    return int(median(start.total_ns for start in earlier)) if earlier else 0


def slowdown_of(start: ColdStart, earlier: Sequence[ColdStart]) -> Slowdown | None:
    """Say whether a start was slower than those before it, and which phase is to blame.

    Slower means: half as long again as the median of the last 20, at least 50 ms longer, and
    longer than three quarters of them. Fewer than five to compare with prove nothing.
    """
    compared = earlier[-COMPARED_MAX:]
    if len(compared) < _COMPARED_LEAST:
        return None
    usual_ns = usual_total_ns(compared)
    excess_ns = start.total_ns - usual_ns
    quicker = sum(other.total_ns < start.total_ns for other in compared)
    if start.total_ns < _SLOWER_RATIO * usual_ns or excess_ns < _SLOWER_LEAST_NS:
        return None
    if quicker * 4 < len(compared) * 3:
        return None
    growth = {
        phase: ns - int(median(other.phases_ns.get(phase, 0) for other in compared))
        for phase, ns in start.phases_ns.items()
        if phase is not StartPhase.FIRST_BYTE
    }
    culprit = max(growth, key=lambda phase: growth[phase])
    took_ns = start.phases_ns[culprit]
    return Slowdown(
        usual_ns=usual_ns, culprit=culprit, culprit_ns=took_ns, culprit_usual_ns=took_ns - growth[culprit]
    )


def told(slowdown: Slowdown) -> str:
    """Name the culprit in a sentence."""
    took_s, usual_s = slowdown.culprit_ns / 1e9, slowdown.culprit_usual_ns / 1e9
    return (
        f"Slower than usual ({slowdown.usual_ns / 1e9:.2f} s): {slowdown.culprit} took {took_s:.2f} s "
        f"instead of {usual_s:.2f} s ({MEANING[slowdown.culprit]})."
    )


def server_timing(phases_ns: Mapping[StartPhase, int]) -> str:
    """Spell the phases as metrics of a Server-Timing field, those that took any time."""
    shown = ((phase, ns) for phase, ns in phases_ns.items() if ns > 0 and phase is not StartPhase.FIRST_BYTE)
    return ", ".join(f"start_{phase};dur={ns / 1e6:.1f}" for phase, ns in shown)

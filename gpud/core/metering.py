"""Lifetimes into billable time: phases of a worker's lease, and what a sum of them costs.

The meter follows the GPU lease. Time is integer nanoseconds of CLOCK_BOOTTIME, multiplied by
the number of GPUs when it is summed; billing is a view over phases (semantics, section 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from gpud.core.gpu import WHOLE_PPM
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
    from gpud.core.worker import Worker


class Phase(StrEnum):
    """What a worker did with its GPUs during a segment."""

    SETUP = "setup"
    START = "start"
    ACTIVE = "active"
    IDLE = "idle"
    UNREADY = "unready"
    DRAIN = "drain"
    STOP = "stop"
    RELEASE = "release"
    UNSUPERVISED = "unsupervised"
    UNLEASED = "unleased"
    """Of a GPU that no worker had while the daemon ran; never of a segment."""


BILLABLE = frozenset({Phase.START, Phase.ACTIVE, Phase.IDLE, Phase.DRAIN, Phase.UNREADY, Phase.UNSUPERVISED})
"""Phases on the bill by default; all are recorded."""

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a worker's life in one phase, on one boot clock.

    Args:
        seq: Counts a worker's segments from 0 without gaps.
        gpu_uuids: Of the lease; empty for a CPU worker.
        boot_id: Which boot `start_boot_ns` and `end_boot_ns` belong to.
        start_boot_ns: CLOCK_BOOTTIME.
        end_boot_ns: CLOCK_BOOTTIME; None while open.
        start_wall_ms: Unix wall time: a label that says which hour, never a duration.
        estimated: The end was not observed but taken from the last heartbeat.
        share_ppm: The part of each GPU that is the worker's, in millionths.
        keys: Of a closed one, nanoseconds of it by the API key whose requests ran (`core.key_shares`).
    """

    worker_id: WorkerId
    seq: int
    phase: Phase
    endpoint: EndpointName
    revision: Revision
    gpu_uuids: tuple[GpuUuid, ...]
    boot_id: str
    start_boot_ns: int
    start_wall_ms: int
    end_boot_ns: int | None = None
    close_reason: str = ""
    estimated: bool = False
    share_ppm: int = WHOLE_PPM
    keys: tuple[tuple[str, int], ...] = ()

    @property
    def duration_ns(self) -> int:
        """Length of a closed segment; 0 while open."""
        return 0 if self.end_boot_ns is None else self.end_boot_ns - self.start_boot_ns


def phase_of(worker: Worker, *, in_flight: int) -> Phase | None:  # noqa: C901 - one arm a phase
    """Which phase a worker accrues, or None when it holds no lease."""
    match worker.state:
        case WorkerState.PENDING | WorkerState.PULLING | WorkerState.GONE:
            return None
        case WorkerState.SLEEPING | WorkerState.DISCARDING:
            return None
        case WorkerState.RESERVED | WorkerState.CREATING:
            return Phase.SETUP
        case WorkerState.STARTING | WorkerState.WAKING:
            return Phase.START
        case WorkerState.READY:
            return Phase.ACTIVE if in_flight else Phase.IDLE
        case WorkerState.PAUSED | WorkerState.DOZING:
            return Phase.IDLE
        case WorkerState.NOT_READY:
            return Phase.UNREADY
        case WorkerState.DRAINING:
            return Phase.DRAIN
        case WorkerState.STOPPING | WorkerState.LOST:
            # Told to stop before its start was told: whether it ever ran is known at its end.
            return Phase.STOP if worker.container_started_ns else Phase.SETUP
        case WorkerState.FAILED:
            still_running = worker.container_started_ns and not worker.container_finished_ns
            return Phase.STOP if still_running else Phase.RELEASE
        case WorkerState.RELEASING:
            return Phase.RELEASE
        case _:
            assert_never(worker.state)


def billed_seconds(billable_ns: int) -> int:
    """Round one worker session up to whole seconds, once."""
    return -(-billable_ns // _NS_PER_S)


def cost_micros(billable_gpu_ns: int, *, price_micros_per_gpu_hour: int) -> int:
    """Price GPU time in micro-units of money, rounded half to even, once per report line."""
    return half_even(billable_gpu_ns * price_micros_per_gpu_hour, 3600 * _NS_PER_S)


def half_even(numerator: int, denominator: int) -> int:
    """Divide, and round half to even."""
    quotient, remainder = divmod(numerator, denominator)
    doubled = remainder * 2
    if doubled > denominator or (doubled == denominator and quotient % 2):
        quotient += 1
    return quotient


def whole_ms(ns: int) -> int:
    """Show nanoseconds as whole milliseconds, rounded down: never over-billed."""
    return ns // _NS_PER_MS


def gpu_ns(segments: Iterable[Segment], *, billable_only: bool) -> int:
    """Sum closed segments' durations times their number of GPUs, slices as parts of one; rounded down."""
    counted = (s for s in segments if not billable_only or s.phase in BILLABLE)
    return sum(s.duration_ns * len(s.gpu_uuids) * s.share_ppm for s in counted) // WHOLE_PPM

"""What the store is asked to write: changes of fleet state, each one row's worth.

A sequence of changes is one transaction, applied in order, whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.cold_start import ColdStart
    from gpud.core.endpoint import Endpoint
    from gpud.core.energy import Holder
    from gpud.core.gpu import GpuSlice, GpuStatus
    from gpud.core.history import ArrivalBatch
    from gpud.core.ids import EndpointName, GpuUuid, WorkerId
    from gpud.core.metering import Segment
    from gpud.core.prediction import Prediction
    from gpud.core.revision import RevisionRecord
    from gpud.core.rollout import Rollout
    from gpud.core.standby import Standby
    from gpud.core.unleased import Watch
    from gpud.core.worker import Worker, WorkerState


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSaved:
    """An endpoint was made or changed; its revision is kept for good."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointDeleted:
    """An endpoint is gone; its usage and events stay."""

    name: EndpointName


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionSaved:
    """A revision was made, or something became of it."""

    record: RevisionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSaved:
    """A rollout began or moved on."""

    rollout: Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInserted:
    """A worker was decided on; the row comes before any effect."""

    worker: Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMoved:
    """A worker changed state; refused unless the row still is at `from_state` and `from_generation`."""

    worker: Worker
    from_state: WorkerState
    from_generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbySaved:
    """A standby was made or changed."""

    standby: Standby


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyForgotten:
    """A standby became a worker that runs, or is gone."""

    standby_id: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOpened:
    """A GPU was leased, whole or a slice of it; the store refuses what does not fit beside the others."""

    gpu_uuid: GpuUuid
    worker_id: WorkerId
    boot_id: str
    at_boot_ns: int
    gpu_slice: GpuSlice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseClosed:
    """A GPU was given back."""

    gpu_uuid: GpuUuid
    worker_id: WorkerId
    at_boot_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOpened:
    """A metering segment began."""

    segment: Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentClosed:
    """A metering segment ended; `segment` carries the end."""

    segment: Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHealthSaved:
    """A GPU's health changed."""

    status: GpuStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecorded:
    """Something a person may want to know later.

    Args:
        kind: `noun.past_tense`, listed in `docs/reference/events.md`.
        at_ms: Unix wall time.
        endpoint: Empty when none is concerned.
        worker_id: Empty when none is concerned.
        facts: JSON-ready values; units end their names.
    """

    kind: str
    at_ms: int
    endpoint: str = ""
    worker_id: str = ""
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatWritten:
    """The daemon was alive at this moment; bounds what a crash can lose."""

    boot_id: str
    boot_ns: int
    wall_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalsRecorded:
    """A stretch of an endpoint's record of requests."""

    endpoint: EndpointName
    batch: ArrivalBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalsForgotten:
    """Records of requests that ended before a moment of Unix wall time are given up."""

    before_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSaved:
    """What is known of an endpoint's gaps changed."""

    endpoint: EndpointName
    prediction: Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartSaved:
    """A start ended well, or a request that waited for it was answered; the newest of each endpoint stay."""

    start: ColdStart


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWatched:
    """The daemon ran and saw a GPU, until now."""

    watch: Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyDrawn:
    """A GPU drew energy.

    Args:
        gpu_uuid: The GPU; one in MIG mode for all of its devices.
        holder: Whose it was.
        hour: Since 1970.
        minute: Since 1970, in that hour; None where the looks were too far apart to tell.
        mj: Millijoules.
        sampled_mj: What of it was reckoned from power, not counted by the driver.
    """

    gpu_uuid: GpuUuid
    holder: Holder
    hour: int
    mj: int
    sampled_mj: int = 0
    minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetTold:
    """People were told of a budget's threshold, the highest so far in its period.

    Args:
        budget: Its id.
        since_ms: Unix wall time of the period's beginning.
        percent: The threshold.
    """

    budget: str
    since_ms: int
    percent: int


FleetChange = (
    EndpointSaved
    | EndpointDeleted
    | RevisionSaved
    | RolloutSaved
    | WorkerInserted
    | WorkerMoved
    | StandbySaved
    | StandbyForgotten
    | LeaseOpened
    | LeaseClosed
    | SegmentOpened
    | SegmentClosed
    | GpuHealthSaved
    | EventRecorded
    | HeartbeatWritten
    | ArrivalsRecorded
    | ArrivalsForgotten
    | PredictionSaved
    | ColdStartSaved
    | GpuWatched
    | EnergyDrawn
    | BudgetTold
)

"""What the core decides on: one frozen picture of the box, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.allocation import AllocationMemory
from gpud.core.averages import ArrivalCount, LoadAverage
from gpud.core.demand import LoadWindow
from gpud.core.pacing import PaceMemory
from gpud.core.patience import last_patience_s, patience_s
from gpud.core.standby import StandbySeen
from gpud.core.starts import StartRecord
from gpud.core.wake_times import UNMEASURED, WakeTimes
from gpud.core.windows import NO_WINDOW, OpenWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.budget import BudgetSpent
    from gpud.core.endpoint import Endpoint, EndpointSpec
    from gpud.core.gpu import GpuStatus
    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
    from gpud.core.pacing import ScaleDecision
    from gpud.core.rollout import Rollout, RolloutSeen
    from gpud.core.stalls import StartProgress
    from gpud.core.standby import StandbyChange
    from gpud.core.waiting import WaitReason
    from gpud.core.worker import Worker, WorkerEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSeen:
    """An endpoint with its load and its luck.

    Args:
        endpoint: Of the revision that serves; `rollout` has the one to come.
        window: Load remembered over the idle timeout.
        load: Waiting plus in flight now.
        waiting: Of the load, requests held.
        oldest_wait_s: Age of the oldest held request; 0 without one.
        average: Load over the last minute.
        arrivals: Over as long as the scale policy looks back.
        service_s: Usual duration of a request.
        cold_start_s: Usual time from a worker's GPUs to its readiness.
        pace: Left by the last scale decision.
        starts: Of the present revision.
        image_present: The engine has exactly its image.
        window_open: What its warm windows ask for now.
        spent: Its budget, when nothing is left of it.
        rollout: The way to another revision, while there is one; also the last one that ended.
        wake_times: What coming back from each rung took lately.
        resting: `core.resting.rests` holds for it, which is asked once and not in each plan.
    """

    endpoint: Endpoint
    window: LoadWindow = field(default_factory=LoadWindow)
    load: int = 0
    waiting: int = 0
    oldest_wait_s: float = 0.0
    average: LoadAverage = field(default_factory=LoadAverage)
    arrivals: ArrivalCount = field(default_factory=ArrivalCount)
    service_s: float = 10.0
    cold_start_s: float = 60.0
    pace: PaceMemory = field(default_factory=PaceMemory)
    starts: StartRecord = field(default_factory=StartRecord)
    image_present: bool = False
    window_open: OpenWindow = NO_WINDOW
    spent: BudgetSpent | None = None
    rollout: RolloutSeen | None = None
    wake_times: WakeTimes = UNMEASURED
    resting: bool = False

    @property
    def patience_s(self) -> float:
        """How long its busiest recent moment keeps workers."""
        return patience_s(self.endpoint.spec.scale, self.cold_start_s)

    @property
    def last_patience_s(self) -> float:
        """How long any load keeps the last worker."""
        return last_patience_s(self.endpoint.spec.scale, self.cold_start_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One consistent picture.

    Args:
        now_s: Loop time.
        endpoints: Deployed ones, by name.
        workers: Not GONE, by id.
        specs: What each worker was made from, if that is known; its endpoint may have another
            spec by now, or none.
        in_flight: Requests at each worker; absent means none.
        gpus: All of the box.
        verify_gpus: The inventory can tell whether a GPU is idle, so it is asked before a start.
        engine_up: The container engine answers.
        idle_since_s: Loop time at which a worker's last request ended; absent for one that had none.
        progress: Of workers that are STARTING, as far as they were looked at.
        sharing: Left by the last sharing of GPUs.
        starts_max: Workers of the box that may be starting at once.
        endpoint_starts_max: Workers of one endpoint that may be starting at once.
        headroom_mib: Of every shared GPU, reserved for nobody.
        used_mib: Memory in use on GPUs that are shared, as last read.
        no_shrink_until_s: Nothing is scaled down before, so that a restarted daemon does not
            take a moment of silence for the end of demand.
        standing: Standbys, and what limits them.
    """

    now_s: float
    endpoints: Mapping[EndpointName, EndpointSeen]
    workers: Mapping[WorkerId, Worker]
    in_flight: Mapping[WorkerId, int]
    gpus: tuple[GpuStatus, ...]
    specs: Mapping[WorkerId, EndpointSpec] = field(default_factory=dict)
    verify_gpus: bool = False
    engine_up: bool = True
    no_shrink_until_s: float = 0.0
    idle_since_s: Mapping[WorkerId, float] = field(default_factory=dict)
    progress: Mapping[WorkerId, StartProgress] = field(default_factory=dict)
    sharing: AllocationMemory = field(default_factory=AllocationMemory)
    starts_max: int = 4
    endpoint_starts_max: int = 2
    standing: StandbySeen = field(default_factory=StandbySeen)
    headroom_mib: int = 0
    used_mib: Mapping[GpuUuid, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWorker:
    """Make a worker of an endpoint: of the revision that serves, unless another is named."""

    endpoint: EndpointName
    revision: Revision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What closes the gap between what should be and what is.

    Args:
        changes: To be applied in order; a plan of the resulting world may hold more.
        decisions: How many workers each endpoint should have.
        waits: Why wishes are unmet, by endpoint.
        paces: What each scale decision leaves for the next.
        sharing: What the sharing of GPUs leaves for the next.
        rollouts: Those that moved on.
        ask_again_at_s: Loop time at which the answer may differ though nothing happens;
            None when only an event can change it.
    """

    changes: tuple[NewWorker | WorkerEvent | StandbyChange, ...]
    decisions: Mapping[EndpointName, ScaleDecision]
    waits: Mapping[EndpointName, tuple[WaitReason, ...]]
    ask_again_at_s: float | None
    paces: Mapping[EndpointName, PaceMemory] = field(default_factory=dict)
    sharing: AllocationMemory = field(default_factory=AllocationMemory)
    rollouts: Mapping[EndpointName, Rollout] = field(default_factory=dict)

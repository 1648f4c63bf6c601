"""What the reconciler owns: the fleet in memory. No other task writes it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from gpud.core.allocation import AllocationMemory
from gpud.core.averages import ArrivalCount, LoadAverage, usual_service_s
from gpud.core.cold_start import COMPARED_MAX, ColdStart, Marks, Slowdown, slowdown_of, usual_total_ns
from gpud.core.demand import LoadWindow
from gpud.core.pacing import PaceMemory
from gpud.core.patience import last_patience_s, patience_s
from gpud.core.pieces import PIECE, at_once
from gpud.core.policies import STABLE_WINDOW_S, arrival_window_s
from gpud.core.prediction import Prediction
from gpud.core.revision import at_present
from gpud.core.standby import Rung
from gpud.core.starts import StartRecord
from gpud.core.tallying import tallied
from gpud.core.wake_times import UNMEASURED, WakeTimes
from gpud.core.wanted import UNKNOWN, Wanted
from gpud.core.worker import HOLDS_GPUS, WorkerState
from gpud.core.world import World
from gpud.fleet.pictures import Pictures
from gpud.fleet.revisions import RevisionBook
from gpud.ports.traffic import AT_REST, EndpointLoad

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.budget import BudgetSpent
    from gpud.core.endpoint import Endpoint, PinnedImage
    from gpud.core.gpu import GpuStatus, GpuUse
    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
    from gpud.core.pacing import ScaleDecision
    from gpud.core.pieces import Pieces
    from gpud.core.rollout import Rollout, Tally
    from gpud.core.stalls import StartProgress
    from gpud.core.standby import Standby, StandbyFault, StandbySeen
    from gpud.core.waiting import WaitReason
    from gpud.core.windows import OpenWindow
    from gpud.core.worker import Worker
    from gpud.core.world import EndpointSeen, Plan
    from gpud.ports.containers import EngineInfo
    from gpud.ports.traffic import Traffic


@dataclass(slots=True)
class StartTimeline:
    """When one worker reached each step of its start; what is noted first stays.

    Args:
        reached_ns: CLOCK_BOOTTIME, which is finer than the event loop's own time.
        create_s: Time the engine took to create the container, of the launch as a whole.
        evicting_ns: When a worker was sent away from the GPUs it got; 0 if none was.
        pulled_ns: When its image was here; 0 if it was from the start.
        listening_ns: When it took a connection; 0 until then.
        stood_by: The rung it began from; None for a start from nothing.
        wanted: What it is for.
    """

    reached_ns: dict[WorkerState, int] = field(default_factory=dict)
    create_s: float = 0.0
    evicting_ns: int = 0
    pulled_ns: int = 0
    listening_ns: int = 0
    stood_by: Rung | None = None
    wanted: Wanted = UNKNOWN

    def marks(self, *, ready_ns: int) -> Marks:
        """The timeline of a worker that is ready now."""
        reached_ns = self.reached_ns
        return Marks(
            asked_ns=reached_ns[WorkerState.PENDING],
            evicting_ns=self.evicting_ns,
            pulling_ns=reached_ns.get(WorkerState.PULLING, 0),
            pulled_ns=self.pulled_ns,
            reserved_ns=reached_ns.get(WorkerState.RESERVED, 0),
            creating_ns=reached_ns.get(WorkerState.CREATING, 0),
            started_ns=reached_ns.get(WorkerState.STARTING, 0),
            listening_ns=self.listening_ns,
            ready_ns=ready_ns,
            create_ns=int(self.create_s * 1e9),
        )


@dataclass(slots=True)
class WakeMarks:
    """When a worker's way back began, and when it had left its rung, in nanoseconds of CLOCK_BOOTTIME.

    Attributes:
        rung: Where it was.
        asked_ns: The request that it is for came; when it was decided on, without one.
        begun_ns: It was decided on.
        wanted: What it is for.
    """

    rung: str
    asked_ns: int
    begun_ns: int
    left_ns: int = 0
    wanted: Wanted = UNKNOWN


_COLD_START_DEFAULT_S = 60.0
_COLD_START_LEAST_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLimits:
    """How many workers may be on their way from their GPUs to readiness at once.

    Args:
        box: Of all endpoints.
        endpoint: Of one endpoint.
    """

    box: int = 4
    endpoint: int = 2


@dataclass(slots=True)
class EndpointMemory:
    """What is remembered of an endpoint between rounds, and need not survive a restart."""

    window: LoadWindow = field(default_factory=LoadWindow)
    starts: StartRecord = field(default_factory=StartRecord)
    cold_starts: deque[ColdStart] = field(default_factory=lambda: deque(maxlen=COMPARED_MAX))
    average: LoadAverage = field(default_factory=LoadAverage)
    arrivals: ArrivalCount = field(default_factory=ArrivalCount)
    services_s: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    service_s: float = usual_service_s(())
    cold_start_s: float = _COLD_START_DEFAULT_S
    wake_times: WakeTimes = UNMEASURED
    pace: PaceMemory = field(default_factory=PaceMemory)
    answers: dict[Revision, Tally] = field(default_factory=dict)
    prediction: Prediction = field(default_factory=Prediction)
    _expected: tuple[ColdStart | None, float] = (None, 0.0)

    @property
    def expected_start_s(self) -> float:
        """Median of the recent cold starts; 0 when there was none."""
        starts = self.cold_starts
        newest = starts[-1] if starts else None
        if self._expected[0] is not newest:
            self._expected = newest, usual_total_ns(starts) / 1e9
        return self._expected[1]

    @property
    def calm(self) -> bool:
        """A load of nothing would change nothing here."""
        entries = self.window.entries
        return (
            len(entries) == 1
            and not entries[0][1]
            and not self.average.load
            and self.arrivals.since_s is not None
        )

    def recollect(self, start: ColdStart) -> None:
        """An earlier daemon noted this start, or this way back from a rung."""
        if start.woken:
            self.note_wake(start.revision, Rung(start.woken), start.from_gpus_ns)
        else:
            self.note_start(start)

    def note_wake(self, revision: Revision, rung: Rung, took_ns: int) -> None:
        """A worker came back from a rung."""
        self.wake_times = self.wake_times.noted(revision, rung, took_ns / 1e9)

    def note_start(self, start: ColdStart) -> Slowdown | None:
        """A start ended well; says whether it was slower than usual."""
        slowdown = slowdown_of(start, tuple(self.cold_starts))
        self.cold_starts.append(start)
        self.cold_start_s = max(
            median(known.from_gpus_ns for known in self.cold_starts) / 1e9, _COLD_START_LEAST_S
        )
        return slowdown

    def note_load(self, load: EndpointLoad, *, now_s: float) -> None:
        """Take in what the gateway counted since the last look."""
        total = load.waiting + load.in_flight
        self.average = self.average.observed(total, at_s=now_s, span_s=STABLE_WINDOW_S)
        span_s = arrival_window_s(self.cold_start_s)
        self.arrivals = self.arrivals.observed(load.arrivals, at_s=now_s, span_s=span_s)
        if load.services_s:
            self.services_s.extend(load.services_s)
            self.service_s = usual_service_s(self.services_s)


class FleetState:
    """Endpoints, workers, GPUs and what is remembered about them."""

    def __init__(self, *, headroom_mib: int = 0) -> None:
        self.endpoints: dict[EndpointName, Endpoint] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.made_for: dict[WorkerId, Endpoint] = {}
        self.memory: dict[EndpointName, EndpointMemory] = {}
        self.revisions = RevisionBook()
        self.rollouts: dict[EndpointName, Rollout] = {}
        self.timelines: dict[WorkerId, StartTimeline] = {}
        self.wakes: dict[WorkerId, WakeMarks] = {}
        self.started: dict[WorkerId, ColdStart] = {}
        self.start_timings: dict[WorkerId, str] = {}
        self.evicted_ns: dict[GpuUuid, int] = {}
        self.gpus: dict[GpuUuid, GpuStatus] = {}
        self.images_present: set[str] = set()
        self.decisions: Mapping[EndpointName, ScaleDecision] = {}
        self.waits: Mapping[EndpointName, tuple[WaitReason, ...]] = {}
        self.loads: dict[EndpointName, EndpointLoad] = {}
        self.idle_since_s: dict[WorkerId, float] = {}
        self.progress: dict[WorkerId, StartProgress] = {}
        self.standbys: dict[WorkerId, Standby] = {}
        self.standby_faults: dict[tuple[EndpointName, Rung], StandbyFault] = {}
        self.rungs_unavailable: Mapping[Rung, str] = {}
        self.sharing = AllocationMemory()
        self.windows_open: Mapping[EndpointName, OpenWindow] = {}
        self.budgets_spent: Mapping[str, BudgetSpent] = {}
        """By endpoint."""
        self.keys_spent: Mapping[str, BudgetSpent] = {}
        self.looked_s = float("-inf")
        """When the loads were last taken."""
        self.loaded = False
        """Something waited or was in flight then."""
        self._pictures = Pictures(self)
        self.headroom_mib = headroom_mib
        self.used_mib: dict[GpuUuid, int] = {}
        # Nothing is started before the engine was asked what runs.
        self.engine_up = False
        self.engine_down_since_s: float | None = None
        self.engine: EngineInfo | None = None
        self.engine_error = "The Docker Engine has not answered yet; gpud asks again every second."

    def recall(self, name: EndpointName) -> EndpointMemory:
        """What is remembered of an endpoint; new when nothing is."""
        memory = self.memory.get(name)
        if memory is None:
            memory = self.memory[name] = EndpointMemory()
        return memory

    def observe_load(self, traffic: Traffic, *, now_s: float) -> None:
        """Take every endpoint's load into its window."""
        at_once(self.observing(traffic, now_s=now_s))

    def observing(self, traffic: Traffic, *, now_s: float) -> Pieces[None]:
        """Take it some endpoints at a time."""
        looked_s, self.looked_s = self.looked_s, now_s
        loads, self.loaded = self.loads, False
        for number, (name, endpoint) in enumerate(self.endpoints.items()):
            if not number % PIECE:
                yield
            load = traffic.take_load(name)
            loads[name] = load
            memory = self.recall(name)
            if load is AT_REST and memory.calm:
                continue
            self._observe(endpoint, load, memory, now_s, looked_s)

    def _observe(
        self, endpoint: Endpoint, load: EndpointLoad, memory: EndpointMemory, now_s: float, looked_s: float
    ) -> None:
        """Take one endpoint's load into its window; `looked_s` is the loop time of the look before."""
        memory.note_load(load, now_s=now_s)
        if load.answers:
            memory.answers = tallied(memory.answers, load.answers, self.workers)
        scale, cold_start_s = endpoint.spec.scale, memory.cold_start_s
        span_s = max(patience_s(scale, cold_start_s), last_patience_s(scale, cold_start_s))
        current = load.waiting + load.in_flight
        self.loaded |= current > 0
        # The busy moment lies between two looks: it is dated to when the load was last seen
        # above zero, so that an idle timeout counts from the last request's end.
        if load.peak > current:
            before_s = looked_s if memory.window.entries else memory.window.newest_s
            at_s = min(max(load.last_busy_s, before_s), now_s)
            memory.window = memory.window.observed(load.peak, at_s=at_s, span_s=span_s)
        memory.window = memory.window.observed(current, at_s=now_s, span_s=span_s)

    def seeing(self, *, now_s: float) -> Pieces[Mapping[EndpointName, EndpointSeen]]:
        """Every endpoint for the core, some at a time."""
        return self._pictures.taking(now_s=now_s)

    def world(
        self,
        endpoints: Mapping[EndpointName, EndpointSeen] | None = None,
        *,
        now_s: float,
        in_flight: Mapping[WorkerId, int],
        verify_gpus: bool,
        no_shrink_until_s: float,
        starts: StartLimits,
        standing: StandbySeen,
    ) -> World:
        """One frozen picture for the core; `endpoints` as just seen, else they are looked at now."""
        return World(
            now_s=now_s,
            endpoints=at_once(self.seeing(now_s=now_s)) if endpoints is None else endpoints,
            workers=dict(self.workers),
            in_flight=in_flight,
            specs={worker_id: endpoint.spec for worker_id, endpoint in self.made_for.items()},
            gpus=tuple(self.gpus.values()),
            verify_gpus=verify_gpus,
            engine_up=self.engine_up,
            no_shrink_until_s=no_shrink_until_s,
            idle_since_s=dict(self.idle_since_s),
            progress=dict(self.progress),
            sharing=self.sharing,
            starts_max=starts.box,
            endpoint_starts_max=starts.endpoint,
            standing=standing,
            headroom_mib=self.headroom_mib,
            used_mib=dict(self.used_mib),
        )

    def serving(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint at the revision that serves, which is an earlier one during a rollout."""
        rollout = self.rollouts.get(endpoint.name)
        if rollout is None or not rollout.active or rollout.serving == endpoint.revision:
            return endpoint
        record = self.revisions.get(endpoint.name, rollout.serving)
        return endpoint if record is None else at_present(record, endpoint)

    def images_wanted(self) -> set[PinnedImage]:
        """Images that workers may be made from: of what is deployed, and of what serves meanwhile."""
        endpoints = self.endpoints.values()
        return {each.image for each in endpoints} | {self.serving(each).image for each in endpoints}

    def remember(self, plan: Plan) -> None:
        """Keep what a plan leaves for the next one."""
        for name, pace in plan.paces.items():
            self.memory[name].pace = pace
        self.sharing = plan.sharing

    def forget(self, worker_id: WorkerId) -> None:
        """A worker is GONE: so is all that was known of it."""
        del self.workers[worker_id]
        known: tuple[dict[WorkerId, Any], ...] = (
            self.made_for,
            self.idle_since_s,
            self.timelines,
            self.wakes,
            self.started,
            self.start_timings,
            self.progress,
        )
        for about in known:
            about.pop(worker_id, None)

    def holders_of(self, uuid: GpuUuid, *, but: WorkerId | None = None) -> tuple[Worker, ...]:
        """The workers that hold a GPU: one, or those that share it.

        Args:
            uuid: Of the GPU.
            but: Not this one.
        """
        return tuple(
            worker
            for worker in self.workers.values()
            if uuid in worker.gpu_uuids and worker.state in HOLDS_GPUS and worker.id != but
        )

    def note_use(self, use: GpuUse) -> None:
        """Keep how much of a shared GPU is in use; forget it of one that nobody shares."""
        if any(worker.gpu_slice for worker in self.holders_of(use.uuid)):
            self.used_mib[use.uuid] = use.used_mib
        else:
            self.used_mib.pop(use.uuid, None)

"""What carries plans out in a replay: standbys as the plan makes and claims them, and how long all takes."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from statistics import median
from typing import TYPE_CHECKING

from gpud.core.standby import Rung, Standby, StandbySeen, StandbyState
from gpud.core.stepping import FALLS_ASLEEP_S
from gpud.core.wake_times import KEPT_MAX, WakeTimes
from gpud.core.whatif_rungs import NOTHING, ways_up
from gpud.core.worker import Cause, WorkerState

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint
    from gpud.core.ids import WorkerId
    from gpud.core.standby import NewStandby
    from gpud.core.whatif import StartSample, WhatIf
    from gpud.core.worker import Worker


_STOP_S = 1.0


class ReplayedStarts:
    """Of one endpoint in one replay: what the executor would do, and how long it would take."""

    def __init__(self, question: WhatIf, endpoint: Endpoint) -> None:
        self._question = question
        self._endpoint = endpoint
        self._standbys: dict[WorkerId, Standby] = {}
        self._began: dict[WorkerId, Rung] = {}
        self._launches: dict[WorkerId, StartSample] = {}
        ways = ways_up(question.starts)
        self.cold = ways[NOTHING]
        self.prepared_in_s = median(start.setup_s for start in self.cold)
        self._ways = {rung: cycle(starts) for rung, starts in ways.items()}

    def wake_times(self) -> WakeTimes:
        """What the daemon remembers of what is on record."""
        seconds: dict[Rung, tuple[float, ...]] = {}
        for start in self._question.starts:
            if start.rung:
                before = seconds.get(Rung(start.rung), ())
                seconds[Rung(start.rung)] = (*before, start.setup_s + start.start_s)[-KEPT_MAX:]
        return WakeTimes(revision=self._endpoint.revision, seconds=seconds)

    def seen(self) -> StandbySeen:
        """All standbys, for the core."""
        question = self._question
        return StandbySeen(
            standbys=dict(self._standbys), budget=question.standbys, unavailable=question.unavailable
        )

    def make(self, change: NewStandby, standby_id: WorkerId, *, now_s: float) -> None:
        """Begin to prepare one."""
        self._standbys[standby_id] = Standby(
            id=standby_id,
            endpoint=self._endpoint.name,
            revision=self._endpoint.revision,
            rung=change.rung,
            state=StandbyState.PREPARING,
            since_s=now_s,
            created_at_ms=0,
            gpu_uuids=change.gpu_uuids,
            ram_mib=change.ram_mib,
        )

    def prepared(self, standby_id: WorkerId, *, now_s: float) -> bool:
        """One is where it should be; False when there is none of that id."""
        standby = self._standbys.get(standby_id)
        if standby is None:
            return False
        self._standbys[standby_id] = replace(standby, state=StandbyState.READY, since_s=now_s)
        return True

    def drop(self, standby_id: WorkerId) -> bool:
        """Destroy one, at once."""
        return self._standbys.pop(standby_id, None) is not None

    def claim(self, standby_id: WorkerId) -> Standby | None:
        """Give one away to become a worker; None when it is not there to be claimed."""
        standby = self._standbys.get(standby_id)
        if standby is None or standby.state is not StandbyState.READY:
            return None
        self._began[standby_id] = standby.rung
        return self._standbys.pop(standby_id)

    def rung_of(self, worker: Worker) -> Rung | None:
        """Where a worker that starts began, or comes back from; None for nothing."""
        if worker.state is not WorkerState.WAKING:
            return self._began.get(worker.id)
        return Rung.SLEEPING if worker.cause is Cause.GPUS_RESERVED else Rung.PAUSED

    def effort(self, worker: Worker) -> tuple[float, Cause] | None:
        """What comes of the effort that a worker's state asks for, and after how long; None without one."""
        match worker.state:
            case WorkerState.CREATING:
                start = self._launches[worker.id] = self._start_of(worker)
                return start.setup_s, Cause.CONTAINER_STARTED
            case WorkerState.STARTING:
                return self._launches[worker.id].start_s, Cause.PROBE_PASSED
            case WorkerState.DOZING:
                return FALLS_ASLEEP_S, Cause.FELL_ASLEEP
            case WorkerState.WAKING:
                return self._start_of(worker).start_s, Cause.PROBE_PASSED
            case WorkerState.STOPPING:
                return _STOP_S, Cause.CONTAINER_STOPPED
            case WorkerState.FAILED:
                return 0.0, Cause.CONTAINER_STOPPED
            case WorkerState.RELEASING | WorkerState.DISCARDING:
                return 0.0, Cause.RELEASED
            case _:
                return None

    def setup_s(self, worker_id: WorkerId) -> float:
        """How long its container took that has just become ready."""
        return self._launches[worker_id].setup_s

    def forget(self, worker_id: WorkerId) -> None:
        """It is ready, or gone: what it began from says nothing about its next way back."""
        self._began.pop(worker_id, None)
        self._launches.pop(worker_id, None)

    def _start_of(self, worker: Worker) -> StartSample:
        return next(self._ways[self.rung_of(worker) or NOTHING])

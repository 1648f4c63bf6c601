"""A box in steps of a tenth of a second: queues, workers, cold starts. Who decides is handed in."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

STEP_S = 0.1
DECISION_STEPS = 10
SPREAD = 0.4
COLD_SPREAD = 0.2
TAIL_S = 20_000.0


@dataclass(slots=True, eq=False)
class SimWorker:
    """One worker: starting until `ready_s`, then serving one request at a time."""

    number: int
    endpoint: str
    gpus: tuple[int, ...]
    started_s: float
    ready_s: float
    free_s: float = 0.0
    idle_since_s: float = 0.0
    draining: bool = False

    def ready(self, now_s: float) -> bool:
        return now_s >= self.ready_s

    def busy(self, now_s: float) -> bool:
        return self.free_s > now_s


@dataclass(slots=True, kw_only=True)
class Load:
    """An endpoint and when its requests come.

    Args:
        arrivals_s: In order.
        service_s: Mean duration of a request.
        cold_start_s: Mean time of a start.
        gpus: Per worker.
    """

    name: str
    arrivals_s: list[float]
    service_s: float = 5.0
    cold_start_s: float = 90.0
    gpus: int = 1
    priority: int = 0
    max_workers: int = 8


@dataclass(slots=True)
class Line:
    """One endpoint as it runs."""

    load: Load
    queue: deque[float] = field(default_factory=deque)
    next_arrival: int = 0
    waits_s: list[float] = field(default_factory=list)
    service_samples_s: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    cold_samples_s: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    @property
    def cold_start_s(self) -> float:
        return median(self.cold_samples_s)


class Brain(Protocol):
    """Decides once a second: starts and drains workers of the box."""

    def decide(self, box: Box) -> None: ...


class Box:
    """GPUs, endpoints and workers in steps.

    Args:
        gpus: How many.
        loads: One for each endpoint.
        seed: Of durations.
        brain: Who decides.
        shared: The part of a cold start for which starts stand in line, as for a disk; 0 for none.
    """

    def __init__(self, gpus: int, loads: list[Load], *, seed: int, brain: Brain, shared: float = 0.0) -> None:
        self.shared = shared
        self.rng = random.Random(seed)  # noqa: S311 - a simulation's dice
        self.now_s = 0.0
        self.free = set(range(gpus))
        self.gpus = gpus
        self.lines = {load.name: Line(load) for load in loads}
        for line in self.lines.values():
            # The endpoint is known: it has run before.
            line.service_samples_s.extend([line.load.service_s] * 5)
            line.cold_samples_s.append(line.load.cold_start_s)
        self.workers: list[SimWorker] = []
        self.brain = brain
        self.starts = 0
        self.reclaims = 0
        self.held_s: dict[str, float] = dict.fromkeys(self.lines, 0.0)
        self.served_s = 0.0

    # -- what a brain may do -------------------------------------------------------------------

    def start(self, endpoint: str, gpus: tuple[int, ...] | None = None) -> None:
        load = self.lines[endpoint].load
        taken = gpus if gpus is not None else tuple(sorted(self.free)[: load.gpus])
        assert len(taken) == load.gpus, "a start needs its GPUs free"
        assert self.free >= set(taken), "a GPU was granted twice"
        self.free -= set(taken)
        took_s = load.cold_start_s * self.rng.uniform(1 - COLD_SPREAD, 1 + COLD_SPREAD)
        ready_s = self.now_s + took_s
        worker = SimWorker(self.starts, endpoint, taken, self.now_s, ready_s, idle_since_s=ready_s)
        self.starts += 1
        self.workers.append(worker)

    def drain(self, worker: SimWorker) -> None:
        worker.draining = True

    def of(self, endpoint: str) -> list[SimWorker]:
        return [w for w in self.workers if w.endpoint == endpoint and not w.draining]

    def in_flight(self, endpoint: str) -> int:
        return sum(w.endpoint == endpoint and w.busy(self.now_s) for w in self.workers)

    # -- the run -------------------------------------------------------------------------------

    def run(self, until_s: float = math.inf) -> None:
        """Go on until `until_s`, or until every request is served and every worker is gone."""
        last_s = min(until_s, max(line.load.arrivals_s[-1] for line in self.lines.values()) + TAIL_S)
        step = 0
        while self._open() and self.now_s < last_s:
            self._arrive()
            self._slow_starts()
            self._serve()
            if step % DECISION_STEPS == 0:
                self.brain.decide(self)
                self._leave()
            for worker in self.workers:
                self.held_s[worker.endpoint] += STEP_S
            step += 1
            self.now_s = step * STEP_S

    def wait_s_max(self, endpoint: str) -> float:
        """Longest wait of an endpoint, of those that still wait too."""
        line = self.lines[endpoint]
        waiting = [self.now_s - arrived_s for arrived_s in line.queue]
        return max([*line.waits_s, *waiting], default=0.0)

    def _open(self) -> bool:
        return bool(self.workers) or any(
            line.queue or line.next_arrival < len(line.load.arrivals_s) for line in self.lines.values()
        )

    def _arrive(self) -> None:
        for line in self.lines.values():
            arrivals_s = line.load.arrivals_s
            while line.next_arrival < len(arrivals_s) and arrivals_s[line.next_arrival] <= self.now_s:
                line.queue.append(arrivals_s[line.next_arrival])
                line.next_arrival += 1

    def _slow_starts(self) -> None:
        """Let each start of several take longer, by the part that they share."""
        starting = [w for w in self.workers if not w.ready(self.now_s)]
        if not self.shared or len(starting) < 2:
            return
        slower = 1 + self.shared * (len(starting) - 1)
        for worker in starting:
            worker.ready_s += STEP_S * (1 - 1 / slower)
            worker.idle_since_s = worker.ready_s

    def _serve(self) -> None:
        now_s = self.now_s
        self._leave()
        for worker in self.workers:
            if now_s < worker.ready_s or worker.draining or worker.free_s > now_s:
                continue
            line = self.lines[worker.endpoint]
            if worker.free_s == 0.0 and worker.idle_since_s == worker.ready_s:
                line.cold_samples_s.append(worker.ready_s - worker.started_s)
                worker.idle_since_s = now_s
            if line.queue:
                line.waits_s.append(now_s - line.queue.popleft())
                took_s = line.load.service_s * self.rng.uniform(1 - SPREAD, 1 + SPREAD)
                worker.free_s = worker.idle_since_s = now_s + took_s
                line.service_samples_s.append(took_s)
                self.served_s += took_s * len(worker.gpus)

    def _leave(self) -> None:
        leaving = [w for w in self.workers if w.draining and not w.busy(self.now_s)]
        for worker in leaving:
            self.free |= set(worker.gpus)
            self.workers.remove(worker)

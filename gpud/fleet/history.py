"""Keeps the record of every endpoint's requests and gaps, and writes it a few bytes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.history import Stretch
from gpud.core.prediction import gap_ended
from gpud.core.records import ArrivalsForgotten, ArrivalsRecorded, PredictionSaved
from gpud.core.worker import WorkerState

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName
    from gpud.fleet.journal import Journal
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock
    from gpud.ports.traffic import EndpointLoad

WRITE_EVERY_S = 60.0
"""A daemon that is killed loses what came in this time, of the record and not of the requests."""

_FORGET_EVERY_S = 3600.0
_DAY_MS = 86_400_000


@dataclass(slots=True)
class _Idle:
    """A gap that goes on.

    Args:
        since_s: Loop time of the last request's end.
        kept_s: For how long of it a worker was there.
    """

    since_s: float
    kept_s: float = 0.0


class History:
    """Part of the reconciler: called in its task, once a round.

    Args:
        state: The fleet; its loads have just been taken.
        journal: Takes the rows into the round's transaction.
        clock: Its wall time dates arrivals.
        keep_days: How long arrivals are kept; 0 records none.
    """

    def __init__(self, state: FleetState, journal: Journal, clock: Clock, *, keep_days: float) -> None:
        self._state = state
        self._journal = journal
        self._clock = clock
        self._keep_days = keep_days
        self._stretches: dict[EndpointName, Stretch] = {}
        self._idle: dict[EndpointName, _Idle] = {}
        self._changed: set[EndpointName] = set()
        self._ready: frozenset[EndpointName] = frozenset()
        self._write_due_s = clock.now_s() + WRITE_EVERY_S
        self._forget_due_s = clock.now_s()

    def observe(self, now_s: float) -> None:
        """Take down what the loads of this round tell."""
        ahead_ms = self._clock.at_ms() - now_s * 1000
        ready = [w.endpoint for w in self._state.workers.values() if w.state is WorkerState.READY]
        self._ready = frozenset(ready)
        for name in self._state.endpoints:
            load = self._state.loads[name]
            if load.exchanges and self._keep_days:
                self._take_down(name, load, ahead_ms)
            if load.peak or name in self._idle:
                self._note_gap(name, load, now_s)
        for name in self._idle.keys() - self._state.endpoints.keys():
            del self._idle[name]
        if now_s >= self._write_due_s:
            self.write(now_s)
        if now_s >= self._forget_due_s:
            self._forget_due_s = now_s + _FORGET_EVERY_S
            before_ms = self._clock.at_ms() - round(self._keep_days * _DAY_MS)
            self._journal.add(ArrivalsForgotten(before_ms=before_ms))

    def write(self, now_s: float) -> None:
        """Hand over what was taken down since the last time; also at the daemon's end."""
        self._write_due_s = now_s + WRITE_EVERY_S
        for name, stretch in self._stretches.items():
            if name in self._state.endpoints:
                self._journal.add(ArrivalsRecorded(endpoint=name, batch=stretch.batch()))
        self._stretches.clear()
        for name in self._changed:
            if name in self._state.endpoints:
                prediction = self._state.recall(name).prediction
                self._journal.add(PredictionSaved(endpoint=name, prediction=prediction))
        self._changed.clear()

    def _take_down(self, name: EndpointName, load: EndpointLoad, ahead_ms: float) -> None:
        stretch = self._stretches.get(name)
        if stretch is None:
            stretch = self._stretches[name] = Stretch()
        for arrived_s, since_s, ended_s in load.exchanges:
            served = since_s >= 0
            waited_s = (since_s if served else ended_s) - arrived_s
            stretch.add(
                round(arrived_s * 1000 + ahead_ms),
                max(0, round(waited_s * 1000)),
                max(0, round((ended_s - since_s) * 1000)) if served else None,
            )

    def _note_gap(self, name: EndpointName, load: EndpointLoad, now_s: float) -> None:
        """Follow the stretches in which nobody calls; the one before the first call is not known."""
        idle = self._idle.get(name)
        if idle is not None and load.peak:
            self._end_gap(name, idle, now_s)
            del self._idle[name]
            idle = None
        if load.waiting or load.in_flight:
            return
        if idle is None:
            idle = self._idle[name] = _Idle(min(load.last_busy_s, now_s))
        if name in self._ready:
            idle.kept_s = now_s - idle.since_s

    def _end_gap(self, name: EndpointName, idle: _Idle, now_s: float) -> None:
        endpoint, memory = self._state.endpoints[name], self._state.recall(name)
        gap_s = max(0.0, now_s - idle.since_s)
        warm = name in self._ready
        memory.prediction = gap_ended(
            memory.prediction,
            gap_s,
            kept_s=gap_s if warm else min(idle.kept_s, gap_s * 0.999),
            gpus=endpoint.spec.gpus.count,
            cold_start_s=memory.cold_start_s,
        )
        self._changed.add(name)

"""Those who watch the fleet and change nothing: counts, samples, and the workers' output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.fleet_tally import FleetTally
from gpud.core.stats_history import StatsHistory
from gpud.fleet.energy_meter import EnergyMeter
from gpud.fleet.gpu_watch import GpuWatch
from gpud.fleet.log_keeper import LogKeeper
from gpud.fleet.sampler import Sampler
from gpud.ports.readings import Readings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from gpud.fleet.hands import Hands
    from gpud.fleet.journal import Journal
    from gpud.ports.readings import CommitReading
    from gpud.ports.stats import UseReader


class Observers:
    """Hangs every observer where it is told what it needs.

    Args:
        hands: Of the fleet.
        journal: Tells of each change.
        reader: Of what containers use; None takes no samples.
        tasks: Owns what they start.
    """

    def __init__(
        self, hands: Hands, journal: Journal, reader: UseReader | None, tasks: asyncio.TaskGroup
    ) -> None:
        self._hands = hands
        self.tally = FleetTally()
        journal.listeners.append(self.tally.note)
        reconciler = hands.reconciler
        keeper = LogKeeper(hands, hands.logs, tasks)
        reconciler.listeners.append(keeper.note)
        reconciler.senses += [keeper.observe, self._note_traffic]
        self.sampler = self._sampler_of(reader) if reader is not None else None
        self.energy = EnergyMeter(hands.state, journal, hands.clock)
        if self.sampler is not None:
            self.sampler.energy = self.energy
        self.gpu_watch = GpuWatch(hands.state, hands.clock, journal.add)

    def _sampler_of(self, reader: UseReader) -> Sampler:
        hands = self._hands
        return Sampler(
            state=hands.state,
            gpus=hands.gpus,
            reader=reader,
            clock=hands.clock,
            step_s=hands.settings.stats_step_s,
        )

    def _note_traffic(self, _now_s: float) -> None:
        for name, load in self._hands.state.loads.items():
            if load.exchanges:
                self.tally.note_exchanges(name, load.exchanges)
            if load.arrivals:
                self.tally.arrivals[name] += load.arrivals

    def readings(self, commits: Callable[[], CommitReading], actions: Mapping[str, int]) -> Readings:
        """Where a scrape reads.

        Args:
            commits: Of the store.
            actions: Efforts begun, by kind.
        """
        sampler, state = self.sampler, self._hands.state
        return Readings(
            tally=self.tally,
            history=sampler.history if sampler else StatsHistory(self._hands.settings.stats_step_s),
            uses=lambda: sampler.uses if sampler else {},
            gpu_readings=lambda: sampler.gpu_readings if sampler else {},
            gpus=lambda: state.gpus,
            loads=lambda: state.loads,
            actions=lambda: actions,
            boot_ns=self._hands.clock.boot_ns,
            commits=commits,
            rounds=self._hands.reconciler.rounds.reading,
            log_counts=self._hands.logs.counts,
        )

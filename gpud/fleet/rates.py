"""What the time of the box's GPUs is worth now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpud.core.ids import GpuUuid, WorkerId
    from gpud.core.pricing import Tariff
    from gpud.fleet.energy_meter import EnergyMeter
    from gpud.fleet.state import FleetState
    from gpud.ports.time import Clock


class BoxRates:
    """Prices of the settings for the GPUs there are (port `jobs.metering.Rates`).

    Args:
        tariff: The prices.
        state: The fleet, for the names of GPUs.
        clock: Says which price is in force.
        energy: Knows what workers drew.
    """

    def __init__(self, tariff: Tariff, state: FleetState, clock: Clock, energy: EnergyMeter) -> None:
        self._energy = energy
        self._tariff = tariff
        self._state = state
        self._clock = clock

    def price_micros(self, gpu: GpuUuid) -> int:
        """An hour of a GPU, now."""
        if not self._tariff.prices:
            return self._tariff.gpu_hour_micros
        known = self._state.gpus.get(gpu)
        models = {} if known is None else {gpu: known.gpu.name}
        return replace(self._tariff, models=models).micros(gpu, self._clock.wall_ns())

    def energy_mj(self, worker_id: WorkerId, ns: int) -> int:
        """What a worker drew in so much of its time, as far as that is known."""
        return self._energy.drawn_mj(worker_id, ns)

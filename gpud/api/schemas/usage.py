"""Usage reports as the API gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from gpud.api.schemas.base import Document, Query, Timestamp
from gpud.core.metering import whole_ms
from gpud.core.usage import FINER_NS
from gpud.ports.store import UsageBy

if TYPE_CHECKING:
    from gpud.core.energy import EnergyTariff
    from gpud.ports.store import UsageRow


class UsageQuery(Query):
    """What a usage report is about."""

    by: UsageBy = UsageBy.ENDPOINT
    """What it has one line for."""
    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only this endpoint's."""
    since: Timestamp | None = None
    """Only time after this."""
    until: Timestamp | None = None
    """Only time before this; leave it out for now."""

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.since and self.until and self.until < self.since:
            raise ValueError("until must not be before since")
        if self.by in FINER_NS and self.since is None:
            raise ValueError(f"a report by {self.by.value} needs since")
        return self


class UsageLine(Document):
    """One line of a usage report."""

    key: str
    """The endpoint, worker, API key, GPU, phase, day (`2026-11-21`), hour (`2026-11-21T14`), minute
    (`2026-11-21T14:05`) or second (`2026-11-21T14:05:09`), UTC. Names in brackets are of what is nobody's,
    such as `(idle)` by key. `(untimed)` is energy that cannot be told by so short a time."""
    label: str
    """Of an API key."""
    gpu_ms: int
    """Billable GPU milliseconds: time times GPUs, rounded down."""
    wall_ms: int
    """Billable milliseconds, however many GPUs; what CPU workers have."""
    billed_s: int
    """Seconds of worker sessions, each rounded up once."""
    sessions: int
    phases_ms: dict[str, int]
    """GPU milliseconds by phase, those that are not billed included."""
    cost_micros: int
    """Price of the billable GPU time in millionths of `currency`."""
    energy_mj: int
    """Millijoules that GPUs drew, whatever the phase, as their drivers counted; 0 where none tells. By minute
    as far as GPUs were read every minute, by second not at all: the rest is on the line `(untimed)`."""
    sampled_mj: int
    """What of `energy_mj` was reckoned from power, where a driver counts no energy."""
    energy_cost_micros: int
    """Price of the energy at `kwh_micros`."""
    co2_mg: int
    """Milligrams of CO2 at `co2_g_per_kwh`."""


class UsageTotal(Document):
    """The sums over all lines."""

    gpu_ms: int
    wall_ms: int
    billed_s: int
    sessions: int
    cost_micros: int
    energy_mj: int
    sampled_mj: int
    energy_cost_micros: int
    co2_mg: int


class UsageDocument(Document):
    """A usage report; running workers count up to now."""

    by: UsageBy
    since: Timestamp | None
    until: Timestamp
    currency: str
    gpu_hour_micros: int
    """Price of one GPU for one hour where no other applies, in millionths of `currency`."""
    kwh_micros: int
    """Price of a kilowatt-hour, in millionths of `currency`."""
    co2_g_per_kwh: int
    items: tuple[UsageLine, ...]
    total: UsageTotal


def usage_line(row: UsageRow, tariff: EnergyTariff, *, label: str = "") -> UsageLine:
    """Show a line of a usage report, with its price."""
    return UsageLine(
        key=row.key,
        label=label,
        gpu_ms=whole_ms(row.gpu_ns),
        wall_ms=whole_ms(row.wall_ns),
        billed_s=row.billed_seconds,
        sessions=row.sessions,
        phases_ms={phase: whole_ms(ns) for phase, ns in sorted(row.phases_ns.items())},
        cost_micros=row.cost_micros,
        energy_mj=row.energy_mj,
        sampled_mj=row.sampled_mj,
        energy_cost_micros=tariff.cost_micros(row.energy_mj),
        co2_mg=tariff.co2_mg(row.energy_mj),
    )

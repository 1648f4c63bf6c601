"""Sections of gpud.toml about what is paid, and what all sections have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of gpud.toml: refuses what it does not know, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class GpuPriceSettings(Section):
    """A price of some GPUs, for some time."""

    gpu: Annotated[str, Field(min_length=1, max_length=100)]
    """Whose: a part of the product name such as `H100`, in any case, or the UUID of one GPU."""
    gpu_hour_micros: Annotated[int, Field(ge=0)]
    """Price of one hour, in millionths of the currency."""
    since: AwareDatetime | None = None
    """When it begins, with its zone; without, it always was."""
    until: AwareDatetime | None = None
    """When it ends; without, it does not."""


class PriceSettings(Section):
    """What GPU time costs."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """ISO 4217 code, for display."""
    gpu_hour_micros: Annotated[int, Field(ge=0)] = 0
    """Price of one GPU for one hour, in millionths of the currency, where no other applies."""
    gpus: tuple[GpuPriceSettings, ...] = ()
    """Prices by model or GPU, each for its time; the first that fits applies."""


class EnergySettings(Section):
    """What the energy of GPUs costs, as their drivers count it."""

    kwh_micros: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Price of a kilowatt-hour, in millionths of the currency of `prices`."""
    co2_g_per_kwh: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Grams of CO2 that a kilowatt-hour emits where you are; 0 tells none."""

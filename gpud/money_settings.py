"""The sections of gpud.toml about what is paid."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, model_validator

from gpud.core.budget import Budget, BudgetPeriod
from gpud.section import Section


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


class BudgetSettings(Section):
    """What an endpoint or a key may use in a day or a month (UTC)."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Whose: an endpoint, or else `key`."""
    key: Annotated[str, Field(max_length=40)] = ""
    """Whose: the id of an API key, such as `key_abcdefghijkl`, or else `endpoint`."""
    per: BudgetPeriod = BudgetPeriod.MONTH
    """When it begins anew: `day` or `month`."""
    micros: Annotated[int, Field(ge=0, le=10**15)] = 0
    """How much money, in millionths of the currency of `prices`; or else `gpu_s`."""
    gpu_s: Annotated[int, Field(ge=0, le=10**9)] = 0
    """How many billable GPU seconds; or else `micros`."""
    warn_percent: Annotated[tuple[Annotated[int, Field(ge=1, le=99)], ...], Field(max_length=10)] = (50, 80)
    """Parts of it at which an event and webhooks tell, apart from the whole."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if bool(self.endpoint) == bool(self.key):
            raise ValueError("set one of endpoint and key")
        if bool(self.micros) == bool(self.gpu_s):
            raise ValueError("set one of micros and gpu_s")
        return self


class BudgetsSettings(Section):
    """Budgets: when one is spent no further worker is started for whose it is; those that run go on."""

    check_s: Annotated[float, Field(ge=1, le=600)] = 15.0
    """Between two looks at what was used."""
    limits: Annotated[tuple[BudgetSettings, ...], Field(max_length=1000)] = ()
    """For each endpoint or key one of money and one of GPU time a day and a month; each holds."""

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> Self:
        """What was told of a budget is kept under its id."""
        kinds = Counter(Budget(**limit.model_dump()).id for limit in self.limits)
        twice = [kind for kind, times in kinds.items() if times > 1]
        if twice:
            raise ValueError(
                f"limits: more than one budget of {', '.join(twice)}; keep the smaller, which decides"
            )
        return self

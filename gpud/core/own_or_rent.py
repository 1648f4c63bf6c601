"""Does the box pay? The time its GPUs were used, at the price of owning them and at that of renting."""

from __future__ import annotations

from dataclasses import dataclass

from gpud.core.metering import half_even

HOUR_NS = 3600 * 1_000_000_000
YEAR_NS = 8760 * HOUR_NS
_WATTS_PER_KILOWATT = 1000
_PERCENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What GPUs of one model cost, owned and rented; money in millionths.

    Args:
        gpu: A part of the model's name, in any case; empty fits all.
        life_years: Years over which the purchase is written off, evenly.
        watts_busy: Drawn in use.
        watts_idle: Drawn otherwise.
        rent_used_micros: An hour in use, where only use is billed.
        rent_always_micros: An hour, used or not.
        kwh_micros: A kilowatt-hour.
        overhead_percent: Of the GPU's draw, for the machine around it.
    """

    gpu: str
    purchase_micros: int
    life_years: int
    watts_busy: int
    watts_idle: int
    rent_used_micros: int
    rent_always_micros: int
    kwh_micros: int = 0
    overhead_percent: int = 0

    def fits(self, model: str) -> bool:
        """Whether it is an offer for GPUs of a model."""
        return self.gpu.casefold() in model.casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The same period owned and rented, in millionths.

    Args:
        break_even_percent: Of the time, in hundredths of it, from which on owning costs less than renting by
            use; None when it never does.
    """

    depreciation_micros: int
    electricity_micros: int
    rent_used_micros: int
    rent_always_micros: int
    break_even_percent: int | None

    @property
    def own_micros(self) -> int:
        """Owning: purchase written off, and electricity."""
        return self.depreciation_micros + self.electricity_micros

    @property
    def cheapest(self) -> str:
        """`own`, `rent used` or `rent always`; owning where all cost the same."""
        choices = {
            "own": self.own_micros,
            "rent used": self.rent_used_micros,
            "rent always": self.rent_always_micros,
        }
        return min(choices, key=lambda name: choices[name])


def compare(offer: Offer, *, gpus: int, period_ns: int, used_ns: int) -> Comparison:
    """Price a period both ways.

    Args:
        offer: Of the GPUs' model.
        gpus: How many there are.
        period_ns: How long.
        used_ns: GPU time in use, summed over them.
    """
    owned_ns = gpus * period_ns
    used_ns = min(used_ns, owned_ns)
    watt_ns = offer.watts_busy * used_ns + offer.watts_idle * (owned_ns - used_ns)
    percent = _PERCENT + offer.overhead_percent
    return Comparison(
        depreciation_micros=half_even(offer.purchase_micros * owned_ns, offer.life_years * YEAR_NS),
        electricity_micros=half_even(
            watt_ns * percent * offer.kwh_micros, _PERCENT * _WATTS_PER_KILOWATT * HOUR_NS
        ),
        rent_used_micros=half_even(offer.rent_used_micros * used_ns, HOUR_NS),
        rent_always_micros=half_even(offer.rent_always_micros * owned_ns, HOUR_NS),
        break_even_percent=_break_even_percent(offer),
    )


def _break_even_percent(offer: Offer) -> int | None:
    """Where an hour owned costs as much as the used part of an hour rented; exact, rounded up.

    All in millionths for an hour, times `scale`.
    """
    scale = _PERCENT * _WATTS_PER_KILOWATT * offer.life_years * 8760
    per_watt = (_PERCENT + offer.overhead_percent) * offer.kwh_micros * offer.life_years * 8760
    standing = offer.purchase_micros * _PERCENT * _WATTS_PER_KILOWATT + offer.watts_idle * per_watt
    saved = offer.rent_used_micros * scale - (offer.watts_busy - offer.watts_idle) * per_watt
    if saved <= 0 or standing > saved:
        return None
    return -(-standing * _PERCENT // saved)

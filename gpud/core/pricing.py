"""What an hour of a GPU costs: by model or by the GPU itself, each price for as long as it is in force."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from gpud.core.usage import Period

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpud.core.ids import GpuUuid


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPrice:
    """A price of some GPUs for some time.

    Args:
        gpu: Whose: a part of the model's name, in any case, or the UUID of one GPU.
        since_ns: First Unix nanosecond of its validity; None for always before.
        until_ns: First after it; None for always after.
    """

    gpu: str
    gpu_hour_micros: int
    since_ns: int | None = None
    until_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What each GPU costs at each moment.

    Args:
        gpu_hour_micros: Where no other price applies.
        prices: The first that fits a GPU and a moment applies.
        models: Product names by GPU; what is missing fits no model.
    """

    gpu_hour_micros: int = 0
    prices: tuple[GpuPrice, ...] = ()
    models: Mapping[GpuUuid, str] = field(default_factory=dict)

    def micros(self, uuid: GpuUuid, at_ns: int) -> int:
        """The price of an hour of a GPU at a Unix nanosecond."""
        model = self.models.get(uuid, "").casefold()
        for price in self.prices:
            named = price.gpu == uuid or price.gpu.casefold() in model
            if named and Period(since_ns=price.since_ns, until_ns=price.until_ns).holds(at_ns):
                return price.gpu_hour_micros
        return self.gpu_hour_micros

    def pieces(self, period: Period) -> Iterator[tuple[Period, int]]:
        """Cut a period where a price begins or ends.

        Yields:
            Pieces that make up the period, each with a Unix nanosecond whose prices hold in all of it.
        """
        told = {at_ns for price in self.prices for at_ns in (price.since_ns, price.until_ns)}
        inside = sorted(at_ns for at_ns in told if at_ns is not None and _is_within(at_ns, period))
        for since_ns, until_ns in pairwise((period.since_ns, *inside, period.until_ns)):
            at_ns = since_ns if since_ns is not None else 0 if until_ns is None else until_ns - 1
            yield Period(since_ns=since_ns, until_ns=until_ns), at_ns


def _is_within(at_ns: int, period: Period) -> bool:
    after_start = period.since_ns is None or at_ns > period.since_ns
    return after_start and (period.until_ns is None or at_ns < period.until_ns)

"""What GPUs drew, and whose it was: whole millijoules that sum to what the driver counted.

NVML counts the energy of each GPU since its driver was loaded. Between two looks a GPU drew the difference; a
counter that has fallen began anew in between, and what it shows since was drawn since, no more. GPUs without
such a counter are asked for their power, and the mean of two looks counts for the time between them. What a
GPU drew belongs to whoever leased it, by time and share, and the rest to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from gpud.core.gpu import WHOLE_PPM
from gpud.core.metering import Phase, half_even
from gpud.core.usage import HOUR_NS, MINUTE_NS, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gpud.core.gpu import GpuReading
    from gpud.core.metering import Segment

Key = TypeVar("Key")

PLAUSIBLE_W = 5_000
"""More than any GPU draws: a counter that says so is not believed."""
SAMPLED_NS_MAX = 60_000_000_000
"""Power is the mean of two looks that are at most this far apart."""
MINUTES_KEPT = 14 * 1440
"""For so many minutes it is kept what was drawn in each of them; by the hour it is kept for good."""
MJ_PER_KWH = 3_600_000_000
_SLACK_NS = 1_000_000_000
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyLook:
    """What a GPU told at one moment.

    Args:
        at_ns: CLOCK_BOOTTIME.
        counter_mj: Since its driver was loaded; None when it does not tell.
        power_mw: Drawn then; None when it does not tell.
    """

    at_ns: int
    counter_mj: int | None = None
    power_mw: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What was drawn between two looks.

    Args:
        sampled: Reckoned from power, not counted.
        refused: More than is believed was counted; none of it counts.
    """

    mj: int = 0
    sampled: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose energy it is; without a worker, nobody's."""

    worker_id: str = ""
    endpoint: str = ""
    phase: Phase = Phase.UNLEASED


NOBODY = Holder()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyTariff:
    """What a kilowatt-hour costs, and emits.

    Args:
        kwh_micros: In millionths of the currency.
        co2_g_per_kwh: Grams.
    """

    kwh_micros: int = 0
    co2_g_per_kwh: int = 0

    def cost_micros(self, mj: int) -> int:
        """The price of some energy, rounded half to even."""
        return half_even(mj * self.kwh_micros, MJ_PER_KWH)

    def co2_mg(self, mj: int) -> int:
        """Milligrams of CO2 of some energy, rounded half to even."""
        return half_even(mj * self.co2_g_per_kwh * 1000, MJ_PER_KWH)


def look_of(reading: GpuReading, at_ns: int) -> EnergyLook:
    """What a reading says of energy."""
    power_mw = None if reading.power_w is None else round(reading.power_w * 1000)
    return EnergyLook(at_ns=at_ns, counter_mj=reading.energy_mj, power_mw=power_mw)


def drawn(before: EnergyLook, after: EnergyLook) -> Drawn:
    """What a GPU drew between two looks."""
    passed_ns = max(0, after.at_ns - before.at_ns)
    if before.counter_mj is not None and after.counter_mj is not None:
        fell = after.counter_mj < before.counter_mj
        mj = after.counter_mj if fell else after.counter_mj - before.counter_mj
        if mj > PLAUSIBLE_W * 1000 * (passed_ns + _SLACK_NS) // _NS_PER_S:
            return Drawn(refused=True)
        return Drawn(mj=mj)
    if before.power_mw is None or after.power_mw is None or passed_ns > SAMPLED_NS_MAX:
        return Drawn()
    mean_mw = min((before.power_mw + after.power_mw) // 2, PLAUSIBLE_W * 1000)
    return Drawn(mj=max(0, mean_mw) * passed_ns // _NS_PER_S, sampled=True)


def holders(
    segments: Iterable[Segment], *, start_ns: int, end_ns: int, parts_ppm: dict[str, int]
) -> dict[Holder, int]:
    """Who had a GPU between two looks, weighed by time and share.

    Args:
        segments: Those that may reach into it; open ones go on.
        start_ns: CLOCK_BOOTTIME of the first look.
        end_ns: Of the second.
        parts_ppm: What each leasable device is of the GPU, in millionths: one is all of it but in MIG mode.

    Returns:
        Sums to `(end_ns - start_ns) * 1_000_000`, unless shares say more than there is.
    """
    found: dict[Holder, int] = {}
    for segment in segments:
        until_ns = end_ns if segment.end_boot_ns is None else min(end_ns, segment.end_boot_ns)
        had_ns = until_ns - max(start_ns, segment.start_boot_ns)
        part_ppm = sum(parts_ppm.get(uuid, 0) for uuid in segment.gpu_uuids)
        weight = had_ns * (segment.share_ppm * part_ppm // WHOLE_PPM)
        if had_ns > 0 and weight:
            holder = Holder(segment.worker_id, segment.endpoint, segment.phase)
            found[holder] = found.get(holder, 0) + weight
    rest = (end_ns - start_ns) * WHOLE_PPM - sum(found.values())
    if rest > 0 or not found:
        found[NOBODY] = max(rest, 1)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the time between two looks.

    Args:
        start_ns: CLOCK_BOOTTIME.
        end_ns: The first nanosecond after it.
        hour: Since 1970.
        minute: Since 1970; None for time of which only the hour is told.
    """

    start_ns: int
    end_ns: int
    hour: int
    minute: int | None


def parts_of(start_ns: int, end_ns: int, *, ahead_ns: int) -> tuple[Part, ...]:
    """Cut the time between two looks at each full minute of the wall clock.

    What a GPU drew between two looks is shared out evenly over the time between them. That is told of a
    minute only if they are a minute apart at most: of a longer time the hour of its end is told, no more.

    Args:
        start_ns: CLOCK_BOOTTIME of the first look.
        end_ns: Of the second, which is later.
        ahead_ns: By how much the wall clock is ahead of CLOCK_BOOTTIME.
    """
    if end_ns - start_ns > MINUTE_NS:
        return (Part(start_ns=start_ns, end_ns=end_ns, hour=(end_ns + ahead_ns - 1) // HOUR_NS, minute=None),)
    found: list[Part] = []
    for bucket_ns, ns in split(start_ns + ahead_ns, end_ns + ahead_ns, MINUTE_NS):
        minute = bucket_ns // MINUTE_NS
        found.append(Part(start_ns=start_ns, end_ns=start_ns + ns, hour=minute // 60, minute=minute))
        start_ns += ns
    return tuple(found)


def active_ns(segments: Iterable[Segment], *, start_ns: int, end_ns: int) -> int:
    """How long requests ran between two looks, in segments that do not overlap."""
    found_ns = 0
    for segment in segments:
        if segment.phase is Phase.ACTIVE:
            until_ns = end_ns if segment.end_boot_ns is None else min(end_ns, segment.end_boot_ns)
            found_ns += max(0, until_ns - max(start_ns, segment.start_boot_ns))
    return found_ns


def shared_out(whole: int, weights: Sequence[tuple[Key, int]]) -> Iterator[tuple[Key, int]]:
    """Share a whole number out by weights above 0; the parts sum to it.

    Yields:
        Keys with their parts, in order; none of 0.
    """
    left, weight_left = whole, sum(weight for _key, weight in weights)
    for key, weight in weights:
        part = left * weight // weight_left
        left, weight_left = left - part, weight_left - weight
        if part:
            yield key, part

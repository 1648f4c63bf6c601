"""When was a GPU nobody's? What was watched of it, less what workers leased, to the nanosecond."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpud.core.gpu import WHOLE_PPM
from gpud.core.ids import EndpointName, WorkerId
from gpud.core.metering import Phase
from gpud.core.usage import NS_PER_MS, Stretch, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gpud.core.ids import GpuUuid
    from gpud.core.usage import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A stretch in which the daemon ran and saw a GPU.

    Args:
        boot_id: Which boot the times belong to.
        start_boot_ns: CLOCK_BOOTTIME.
        end_boot_ns: CLOCK_BOOTTIME, of the last beat so far.
        start_wall_ms: Unix wall time of its beginning: a label.
    """

    gpu_uuid: GpuUuid
    boot_id: str
    start_boot_ns: int
    end_boot_ns: int
    start_wall_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A lease, as far as time goes.

    Args:
        end_boot_ns: None while it lasts.
        share_ppm: The part of the GPU, in millionths.
    """

    gpu_uuid: GpuUuid
    boot_id: str
    start_boot_ns: int
    end_boot_ns: int | None
    share_ppm: int = WHOLE_PPM


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of a watch in which the same part of the GPU was leased.

    Args:
        start_ns: Unix nanosecond.
        ns: How long.
        leased_ppm: In millionths.
    """

    gpu_uuid: GpuUuid
    start_ns: int
    ns: int
    leased_ppm: int


def spans(watches: Iterable[Watch], period: Period) -> dict[str, tuple[int, int]]:
    """Of each boot the first and last moment that matters in a period; leases beyond change nothing in it."""
    found: dict[str, tuple[int, int]] = {}
    for watch in watches:
        ahead_ns = watch.start_wall_ms * NS_PER_MS - watch.start_boot_ns
        begins_ns, ends_ns = period.clip(watch.start_boot_ns + ahead_ns, watch.end_boot_ns + ahead_ns)
        first_ns, last_ns = found.get(watch.boot_id, (begins_ns - ahead_ns, ends_ns - ahead_ns))
        found[watch.boot_id] = min(first_ns, begins_ns - ahead_ns), max(last_ns, ends_ns - ahead_ns)
    return found


def parts(watches: Iterable[Watch], holds: Iterable[Hold]) -> Iterator[Part]:
    """Cut what was watched of GPUs where a lease begins or ends; the parts of a watch sum to it."""
    of_gpu: defaultdict[tuple[str, str], list[Hold]] = defaultdict(list)
    for hold in holds:
        of_gpu[hold.gpu_uuid, hold.boot_id].append(hold)
    for watch in watches:
        yield from _parts(watch, of_gpu[watch.gpu_uuid, watch.boot_id])


def _parts(watch: Watch, holds: Sequence[Hold]) -> Iterator[Part]:
    changes: defaultdict[int, int] = defaultdict(int)
    for hold in holds:
        end_ns = watch.end_boot_ns if hold.end_boot_ns is None else min(hold.end_boot_ns, watch.end_boot_ns)
        start_ns = max(hold.start_boot_ns, watch.start_boot_ns)
        if start_ns < end_ns:
            changes[start_ns] += hold.share_ppm
            changes[end_ns] -= hold.share_ppm
    at_ns, leased_ppm = watch.start_boot_ns, 0
    for change_ns in (*sorted(changes), watch.end_boot_ns):
        if change_ns > at_ns:
            yield Part(
                gpu_uuid=watch.gpu_uuid,
                start_ns=watch.start_wall_ms * NS_PER_MS + at_ns - watch.start_boot_ns,
                ns=change_ns - at_ns,
                leased_ppm=min(leased_ppm, WHOLE_PPM),
            )
            at_ns = change_ns
        leased_ppm += changes.get(change_ns, 0)


def unleased(found: Iterable[Part], period: Period, *, every_ns: int) -> Iterator[Stretch]:
    """What nobody leased in a period, hour by hour or finer."""
    for part in found:
        if part.leased_ppm >= WHOLE_PPM:
            continue
        begins_ns, end_ns = period.clip(part.start_ns, part.start_ns + part.ns)
        for bucket_ns, ns in split(begins_ns, end_ns, every_ns):
            yield Stretch(
                worker_id=WorkerId(""),
                endpoint=EndpointName(""),
                gpu_uuids=(part.gpu_uuid,),
                phase=Phase.UNLEASED,
                at_ns=bucket_ns,
                ns=ns,
                share_ppm=WHOLE_PPM - part.leased_ppm,
                begins_ns=max(begins_ns, bucket_ns),
            )

"""Which images leave the box when its disk budget is used up? Never one that somebody needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_YOUNG_MS = 3_600_000
"""What came within the last hour may be there for a deploy that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePolicy:
    """What images may take, and when they are looked after.

    Args:
        disk_budget_bytes: For all images that gpud pulled; 0 for no limit.
        free_bytes_least: Of the engine's disk, to be left free; 0 for no limit.
        check_cron: When missing images are pulled and surplus ones removed; five fields.
        time_zone: Of that expression, by its IANA name.
    """

    disk_budget_bytes: int = 0
    free_bytes_least: int = 0
    check_cron: str = "*/10 * * * *"
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledImage:
    """An image on the box that gpud pulled.

    Args:
        id: Of its config.
        pins: Every spelling that a pin of it may have.
        size_bytes: With the layers it shares with others.
        used_at_ms: Unix wall time at which it was last needed, or else came.
        in_use: A container is made of it, running or not.
        named: Somebody gave it a name of their own.
    """

    id: str
    pins: tuple[str, ...]
    size_bytes: int
    used_at_ms: int
    in_use: bool = False
    named: bool = False


class KeptFor(StrEnum):
    """Why an image stays, the strongest reason first."""

    PINNED = "pinned"
    """A deployed revision, or one that an endpoint may go back to, runs it."""
    IN_USE = "in_use"
    """A container is made of it."""
    NAMED = "named"
    """Somebody gave it a name."""
    YOUNG = "young"
    """It was needed, or came, within the last hour."""
    FITS = "fits"
    """There is room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """What to remove, in order, and what stays.

    Args:
        remove: The longest unused first.
        kept: The others, with the reason.
        taken_bytes: What all take now.
        over_bytes: What is still too much after the removals; 0 when all is well.
    """

    remove: tuple[PulledImage, ...]
    kept: tuple[tuple[PulledImage, KeptFor], ...]
    taken_bytes: int
    over_bytes: int


def plan_images(
    images: Iterable[PulledImage],
    *,
    needed_pins: Collection[str],
    policy: ImagePolicy,
    free_bytes: int | None,
    now_ms: int,
    everything: bool = False,
) -> ImagePlan:
    """Choose what to remove so that budget and free space hold, and no more than that.

    Args:
        images: That gpud pulled; others are not its to remove.
        needed_pins: Pins of deployed revisions, of those an endpoint may go back to, and of pulls.
        policy: The limits.
        free_bytes: Of the engine's disk; None when unknown, which asks for nothing.
        now_ms: Unix wall time.
        everything: Remove all that nobody needs, whether there is room or not.
    """
    ordered = sorted(images, key=lambda image: (image.used_at_ms, -image.size_bytes, image.id))
    taken_bytes = sum(image.size_bytes for image in ordered)
    over_bytes = _excess_bytes(policy, taken_bytes=taken_bytes, free_bytes=free_bytes)
    remove: list[PulledImage] = []
    kept: list[tuple[PulledImage, KeptFor]] = []
    for image in ordered:
        why = _needed(image, needed_pins, now_ms=now_ms, everything=everything)
        if why is None and over_bytes <= 0 and not everything:
            why = KeptFor.FITS
        if why is not None:
            kept.append((image, why))
            continue
        remove.append(image)
        over_bytes -= image.size_bytes
    return ImagePlan(
        remove=tuple(remove), kept=tuple(kept), taken_bytes=taken_bytes, over_bytes=max(over_bytes, 0)
    )


def _excess_bytes(policy: ImagePolicy, *, taken_bytes: int, free_bytes: int | None) -> int:
    """How much has to go; 0 when both limits hold."""
    over_budget = taken_bytes - policy.disk_budget_bytes if policy.disk_budget_bytes else 0
    lacking = policy.free_bytes_least - free_bytes if free_bytes is not None else 0
    return max(over_budget, lacking, 0)


def _needed(
    image: PulledImage, needed_pins: Collection[str], *, now_ms: int, everything: bool
) -> KeptFor | None:
    if any(pin in needed_pins for pin in image.pins):
        return KeptFor.PINNED
    if image.in_use:
        return KeptFor.IN_USE
    if image.named:
        return KeptFor.NAMED
    if now_ms - image.used_at_ms < _YOUNG_MS and not everything:
        return KeptFor.YOUNG
    return None

"""What a collection of images removes and keeps, as the API shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpud.api.schemas.base import Document, Timestamp, timestamp
from gpud.core.image_gc import KeptFor

if TYPE_CHECKING:
    from gpud.core.image_gc import PulledImage
    from gpud.ports.images import ImageCollection


class ImageGcBody(Document):
    """How to collect images."""

    dry_run: bool = False
    """Only say what would go."""
    everything: bool = False
    """Remove all that nobody needs, whether there is room or not."""


class RemovedImageDocument(Document):
    """An image that goes."""

    id: str
    pin: str
    size_bytes: int
    """With the layers it shares with others, which stay for as long as those do."""
    used_at: Timestamp
    """When it was last needed, or else came."""


class KeptImageDocument(RemovedImageDocument):
    """An image that stays."""

    why: KeptFor
    """`pinned` and `in_use` by an endpoint or a container, `named` by somebody, `young`, or it `fits`."""


class ImageGcDocument(Document):
    """What a collection did, or would do."""

    dry_run: bool
    removed: tuple[RemovedImageDocument, ...]
    """The longest unused first."""
    kept: tuple[KeptImageDocument, ...]
    taken_bytes: int
    """By all images that gpud pulled, before it."""
    freed_bytes: int
    over_bytes: int
    """What needed images take beyond the limits; 0 when these hold."""
    free_bytes: int | None
    """Of the engine's disk, before it; null when unknown."""


def image_gc_document(collection: ImageCollection, *, dry_run: bool) -> ImageGcDocument:
    """Show a collection."""
    plan, removed = collection.plan, collection.removed
    return ImageGcDocument(
        dry_run=dry_run,
        removed=tuple(RemovedImageDocument(**_fields(image)) for image in removed),
        kept=tuple(KeptImageDocument(**_fields(image), why=why) for image, why in plan.kept),
        taken_bytes=plan.taken_bytes,
        freed_bytes=sum(image.size_bytes for image in removed),
        over_bytes=plan.over_bytes,
        free_bytes=collection.free_bytes,
    )


def _fields(image: PulledImage) -> dict[str, Any]:
    return {
        "id": image.id,
        "pin": image.pins[-1],
        "size_bytes": image.size_bytes,
        "used_at": timestamp(image.used_at_ms),
    }

"""Images on the box, and what a collection of them removes and keeps, as the API shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gpud.api.schemas.base import Document, Timestamp, timestamp, timestamp_or_none
from gpud.core.image_gc import KeptFor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpud.core.image_gc import PulledImage
    from gpud.ports.images import ImageCollection, LocalImage


class ImageDocument(Document):
    """An image on the box."""

    id: str
    pins: tuple[str, ...]
    references: tuple[str, ...]
    size_bytes: int
    created_at: Timestamp | None
    used_at: Timestamp | None
    """When it was last needed, or else came; null for images that gpud did not pull."""
    endpoints: tuple[str, ...]
    """Endpoints that run it; it can be removed when there are none."""


class PrewarmBody(Document):
    """An image to bring to the box before anyone asks."""

    image: Annotated[str, Field(min_length=1, max_length=1000)]
    registry: Annotated[str, Field(max_length=40)] = ""
    """Name of a stored registry credential; empty for none."""


class PrewarmedDocument(Document):
    """A pull that was asked for; `/v1/pulls` shows its progress."""

    image: str
    pin: str


class ImagePage(Document):
    """Images on the box, by id."""

    items: tuple[ImageDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


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


def image_document(image: LocalImage, endpoints_by_pin: Mapping[str, tuple[str, ...]]) -> ImageDocument:
    """Show an image and who runs it."""
    users = {name for pin in image.pins for name in endpoints_by_pin.get(pin, ())}
    return ImageDocument(
        id=image.id,
        pins=image.pins,
        references=image.references,
        size_bytes=image.size_bytes,
        created_at=timestamp_or_none(image.created_at_ms),
        used_at=None if image.used_at_ms is None else timestamp(image.used_at_ms),
        endpoints=tuple(sorted(users)),
    )


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

"""What the fleet needs from image registries and the engine's image store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.core.endpoint import PinnedImage
    from gpud.core.image_gc import ImagePlan, PulledImage


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCredential:
    """What a private registry asks for. Never logged, never stored in the clear."""

    host: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """How far a pull is, over the layers known so far."""

    layers: int
    layers_done: int
    bytes_total: int
    bytes_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImage:
    """An image on the box.

    Args:
        id: `sha256:…` of its config.
        pins: Every spelling a `PinnedImage.pin` of it may have: its id and repo digests.
        used_at_ms: Unix wall time at which it was last needed, or else came; None where gpud did not pull it.
    """

    id: str
    pins: tuple[str, ...]
    references: tuple[str, ...]
    size_bytes: int
    created_at_ms: int
    used_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCollection:
    """What a collection of images removed, or would remove.

    Args:
        plan: As it was decided.
        removed: Of `plan.remove`, those that are gone; all of them where nothing was tried.
        free_bytes: Of the engine's disk before it; None when unknown.
    """

    plan: ImagePlan
    removed: tuple[PulledImage, ...]
    free_bytes: int | None


class ImageStore(Protocol):
    """Images on the box and in registries."""

    async def resolve(self, reference: str, credential: RegistryCredential | None) -> PinnedImage:
        """Pin a reference to a digest, once, at deploy. Pulls nothing.

        An image that was built here and never pushed is pinned by its id without asking a registry.

        Raises:
            ImageNotFound: Neither here nor in the registry.
            RegistryDenied: The registry wants other credentials.
            ImagePullFailed: The registry could not be asked, and the image is not here.
        """
        ...

    async def present(self, image: PinnedImage) -> bool:
        """Whether the engine has exactly this image."""
        ...

    async def pull(
        self,
        image: PinnedImage,
        credential: RegistryCredential | None,
        progress: Callable[[PullProgress], None],
    ) -> None:
        """Bring the image to the box. Several calls for one digest share one pull.

        Fails when there was no progress for the stall limit.

        Raises:
            ImageNotFound: The registry has no such digest.
            RegistryDenied: The registry refused.
            ImagePullFailed: Network, disk or stall; trying again may help.
        """
        ...

    async def exposed_ports(self, image: PinnedImage) -> tuple[int, ...]:
        """TCP ports a present image declares."""
        ...

    async def list_images(self) -> tuple[LocalImage, ...]:
        """Everything on the box that has a name or is pinned."""
        ...

    async def pulled_images(self) -> tuple[PulledImage, ...]:
        """Every image that gpud pulled, with the time it came and whether a container is made of it."""
        ...

    async def free_bytes(self) -> int | None:
        """What is free on the disk of the engine's images; None when this process cannot see it."""
        ...

    async def layer_dirs(self, image: PinnedImage) -> tuple[str, ...]:
        """Host paths of a present image's layers, the uppermost first; empty when the engine tells none."""
        ...

    async def remove(self, pin: str) -> None:
        """Remove an image; absent is fine.

        Raises:
            Conflict: A container uses it.
        """
        ...

"""Brings images to the box: one pull per digest, retried, with progress for whoever asks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gpud.errors import DependencyDown, GpudError, ImageNotFound, ImagePullFailed, NotFound, RegistryDenied

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gpud.core.endpoint import PinnedImage
    from gpud.fleet.reconciler import Reconciler
    from gpud.ports.images import ImageStore, PullProgress, RegistryCredential
    from gpud.ports.store import AccessStore
    from gpud.ports.time import Clock

log = structlog.get_logger(__name__)

_RETRY_S = (5.0, 10.0, 20.0)


class Prewarmer:
    """Owns every pull.

    Args:
        images: Where pulls are made.
        access: Registry credentials, read for each pull and kept nowhere.
        reconciler: Told which images are here.
        tasks: Owns the pulls: a lost caller does not end one.
    """

    def __init__(
        self,
        *,
        images: ImageStore,
        access: AccessStore,
        reconciler: Reconciler,
        clock: Clock,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._images = images
        self._access = access
        self._reconciler = reconciler
        self._clock = clock
        self._tasks = tasks
        self._pulls: dict[str, asyncio.Task[GpudError | None]] = {}
        self.progress: dict[str, PullProgress] = {}
        self.make_room: Callable[[PinnedImage], Awaitable[str]] | None = None
        """Asked before each pull; says why it must not be made, if so."""

    @property
    def pulling(self) -> tuple[str, ...]:
        """Pins of what is being looked for or pulled."""
        return tuple(self._pulls)

    async def credential(self, registry: str) -> RegistryCredential | None:
        """Read a stored credential; an empty name means none.

        Raises:
            NotFound: No credential of that name is stored.
        """
        if not registry:
            return None
        credential = await self._access.registry(registry)
        if credential is None:
            raise NotFound(
                f"No registry credential named {registry!r} is stored. Add it with `gpud registry login`."
            )
        return credential

    async def look(self, image: PinnedImage) -> bool:
        """Ask the engine whether an image is here, and tell the reconciler."""
        present = await self._images.present(image)
        self._reconciler.tell(lambda: self._note(image.pin, present=present))
        return present

    async def ensure(self, image: PinnedImage, registry: str) -> None:
        """Wait until an image is here, pulling it if need be.

        Raises:
            ImageNotFound, RegistryDenied, NotFound: Trying again cannot help.
            ImagePullFailed: It was tried again and again.
            DependencyDown: The engine does not answer.
        """
        fault = await asyncio.shield(self.start(image, registry))
        if fault is not None:
            raise fault

    def start(self, image: PinnedImage, registry: str) -> asyncio.Task[GpudError | None]:
        """Begin a pull, or join the one under way."""
        running = self._pulls.get(image.pin)
        if running is None:
            running = self._tasks.create_task(self._pull(image, registry), name=f"pull:{image.pin}")
            self._pulls[image.pin] = running
            running.add_done_callback(lambda _: self._pulls.pop(image.pin, None))
        return running

    def close(self) -> None:
        """Give every pull up; the engine keeps the layers it has."""
        for running in self._pulls.values():
            running.cancel()

    async def _pull(self, image: PinnedImage, registry: str) -> GpudError | None:
        """Pull; errors are the answer, not raised, so that a failed pull ends no daemon."""
        try:
            if await self.look(image):
                return None
            credential = await self.credential(registry)
            if self.make_room is not None and (why := await self.make_room(image)):
                raise ImagePullFailed(why)
            began_s = self._clock.now_s()
            await self._pull_with_retries(image, credential)
        except GpudError as error:
            if isinstance(error, ImageNotFound | ImagePullFailed):
                self._record("image.pull_failed", image, error=error.detail)
            return error
        else:
            self._record("image.pulled", image, took_s=round(self._clock.now_s() - began_s, 3))
            self._reconciler.tell(lambda: self._note(image.pin, present=True))
            return None
        finally:
            self.progress.pop(image.pin, None)

    async def _pull_with_retries(self, image: PinnedImage, credential: RegistryCredential | None) -> None:
        self._record("image.pull_started", image)
        for wait_s in (*_RETRY_S, None):
            try:
                await self._images.pull(image, credential, lambda p: self._progressed(image, p))
            except (ImageNotFound, RegistryDenied, DependencyDown):
                raise
            except ImagePullFailed as error:
                if wait_s is None:
                    raise
                log.warning("image.pull_postponed", image=image.pin, error=error.detail, retry_in_s=wait_s)
                await asyncio.sleep(wait_s)
            else:
                return

    def _progressed(self, image: PinnedImage, progress: PullProgress) -> None:
        before = self.progress.get(image.pin)
        self.progress[image.pin] = progress
        if before is None or before.layers_done != progress.layers_done:
            self._record(
                "image.pull_progressed",
                image,
                layers=progress.layers,
                layers_done=progress.layers_done,
                bytes_total=progress.bytes_total,
                bytes_done=progress.bytes_done,
            )

    def _note(self, pin: str, *, present: bool) -> None:
        images_present = self._reconciler.state.images_present
        if present:
            images_present.add(pin)
        else:
            images_present.discard(pin)

    def _record(self, kind: str, image: PinnedImage, **facts: object) -> None:
        named = {"image": image.reference, "pin": image.pin, **facts}
        self._reconciler.tell(lambda: self._reconciler.record(kind, named))

"""An image store with a registry in memory, on the running loop's time."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpud.core.endpoint import PinnedImage
from gpud.core.image_gc import PulledImage
from gpud.errors import Conflict, ImageNotFound, ImagePullFailed, RegistryDenied
from gpud.ports.images import LocalImage, PullProgress
from tests.fakes.faults import Fault, FaultKind, Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.ports.images import RegistryCredential


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeImage:
    """An image somewhere; `pin` is what an engine is asked for."""

    pin: str
    ports: tuple[int, ...] = (8000,)
    layer_bytes: tuple[int, ...] = (1_000_000, 2_000_000, 3_000_000)
    credential: RegistryCredential | None = None

    @property
    def id(self) -> str:
        return _digest("id of " + self.pin) if "@" in self.pin else self.pin


@dataclass(slots=True, eq=False)
class _Pull:
    task: asyncio.Task[None] = field(init=False)
    listeners: list[Callable[[PullProgress], None]] = field(default_factory=list)
    latest: PullProgress | None = None

    def tell(self, progress: PullProgress) -> None:
        self.latest = progress
        for listener in tuple(self.listeners):
            listener(progress)


class FakeImages:
    """An `ImageStore` that a test or a simulation steers.

    Attributes:
        pull_s: Time a pull takes, in one step a layer.
        look_s: Time every other call takes.
        stall_timeout_s: When a pull that hangs fails.
        disk_free_bytes: What `free_bytes` tells.
        in_use: Whether a container uses an image, by its pin.
        pulls_begun: Pins, one for each pull that went to the registry.
        faults: Of `resolve`, `pull`, `present`, `exposed_ports`, `list_images` and `remove`.
    """

    def __init__(self) -> None:
        self.pull_s = 0.0
        self.look_s = 0.0
        self.stall_timeout_s = 120.0
        self.in_use: Callable[[str], bool] = lambda _: False
        self.disk_free_bytes: int | None = None
        self.pulls_begun: list[str] = []
        self.faults = Faults()
        self._remote: dict[str, FakeImage] = {}
        self._local: dict[str, FakeImage] = {}
        self._local_names: dict[str, str] = {}
        self._reachable = True
        self._pulls: dict[str, _Pull] = {}

    # What a test does.

    def push(
        self,
        reference: str,
        *,
        content: str = "",
        ports: tuple[int, ...] = (8000,),
        layer_bytes: tuple[int, ...] = (1_000_000, 2_000_000, 3_000_000),
        credential: RegistryCredential | None = None,
    ) -> str:
        """Put an image into the registry; another `content` is another digest. Returns its pin."""
        pin = f"{_repository(reference)}@{_digest(reference + content)}"
        self._remote[reference] = FakeImage(
            pin=pin, ports=ports, layer_bytes=layer_bytes, credential=credential
        )
        return pin

    def unpush(self, reference: str) -> None:
        """Take an image out of the registry."""
        del self._remote[reference]

    def build(self, reference: str, *, content: str = "", ports: tuple[int, ...] = (8000,)) -> str:
        """Make an image on the box that no registry has; returns its pin, an image id."""
        image = FakeImage(pin=_digest("built " + reference + content), ports=ports)
        self._local[image.pin] = image
        self._local_names[reference] = image.pin
        return image.pin

    def fetch(self, reference: str) -> None:
        """Somebody pulls an image by its tag, which names it on the box too."""
        image = self._remote[reference]
        self._local[image.pin] = image
        self._local_names[reference] = image.pin

    def evict(self, pin: str) -> None:
        """Somebody removes an image from the box, as a prune does."""
        self._local.pop(pin, None)
        self._local_names = {name: kept for name, kept in self._local_names.items() if kept != pin}

    def unplug(self) -> None:
        """The registry cannot be reached."""
        self._reachable = False

    def plug(self) -> None:
        """The registry can be reached again."""
        self._reachable = True

    def has(self, pin: str) -> bool:
        """Whether the box has an image."""
        return pin in self._local

    # What the port promises.

    async def resolve(self, reference: str, credential: RegistryCredential | None) -> PinnedImage:
        fault = await self._begin("resolve")
        if reference.startswith("sha256:") and reference not in self._local:
            raise ImageNotFound(f"There is no image with the id {reference} on this box.")
        local = self._local.get(reference) or self._local.get(self._local_names.get(reference, ""))
        if local is not None and ("@" not in local.pin or "@" in reference):
            found = local
        else:
            try:
                found = self._ask_registry(reference, credential)
            except (ImageNotFound, ImagePullFailed) as error:
                refused = isinstance(error, RegistryDenied) and credential is not None
                if local is None or refused:
                    raise
                found = local
        self._end(fault)
        ports = found.ports if found.pin in self._local else ()
        return PinnedImage(reference=reference, pin=found.pin, exposed_ports=ports)

    async def present(self, image: PinnedImage) -> bool:
        fault = await self._begin("present")
        self._end(fault)
        return image.pin in self._local

    async def pull(
        self,
        image: PinnedImage,
        credential: RegistryCredential | None,
        progress: Callable[[PullProgress], None],
    ) -> None:
        pull = self._pulls.get(image.pin)
        if pull is None:
            pull = self._pulls[image.pin] = _Pull()
            pull.task = asyncio.get_running_loop().create_task(self._load(pull, image, credential))
        pull.listeners.append(progress)
        if pull.latest is not None:
            progress(pull.latest)
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.listeners.remove(progress)
            if not pull.listeners and not pull.task.done():
                self._forget(image.pin, pull)
                pull.task.cancel()
                await asyncio.wait([pull.task])

    async def exposed_ports(self, image: PinnedImage) -> tuple[int, ...]:
        fault = await self._begin("exposed_ports")
        self._end(fault)
        if image.pin not in self._local:
            raise ImageNotFound(f"The image {image.pin} is not on this box.")
        return self._local[image.pin].ports

    async def list_images(self) -> tuple[LocalImage, ...]:
        fault = await self._begin("list_images")
        self._end(fault)
        listed = []
        for pin, image in sorted(self._local.items()):
            names = tuple(sorted(name for name, named in self._local_names.items() if named == pin))
            pins = (image.id, pin) if pin != image.id else (image.id,)
            size_bytes = sum(image.layer_bytes)
            listed.append(
                LocalImage(id=image.id, pins=pins, references=names, size_bytes=size_bytes, created_at_ms=0)
            )
        return tuple(listed)

    async def pulled_images(self) -> tuple[PulledImage, ...]:
        fault = await self._begin("pulled_images")
        self._end(fault)
        return tuple(
            PulledImage(
                id=image.id,
                pins=(image.id, pin),
                size_bytes=sum(image.layer_bytes),
                used_at_ms=0,
                in_use=self.in_use(pin),
                named=pin in self._local_names.values(),
            )
            for pin, image in sorted(self._local.items())
            if "@" in pin
        )

    async def layer_dirs(self, image: PinnedImage) -> tuple[str, ...]:  # noqa: ARG002 - the port's signature
        return ()

    async def free_bytes(self) -> int | None:
        return self.disk_free_bytes

    async def remove(self, pin: str) -> None:
        fault = await self._begin("remove")
        if pin in self._local and self.in_use(pin):
            raise Conflict(f"The image {pin} is used by a container.")
        self.evict(pin)
        self._end(fault)

    # How it does it.

    async def _begin(self, call: str) -> Fault | None:
        fault = self.faults.next_for(call)
        await asyncio.sleep(self.look_s + (fault.delay_s if fault else 0.0))
        if fault and fault.kind in (FaultKind.ERROR_BEFORE, FaultKind.HANG_BEFORE):
            raise fault.raised()
        return fault

    def _end(self, fault: Fault | None) -> None:
        if fault and fault.kind in (FaultKind.ERROR_AFTER, FaultKind.HANG_AFTER):
            raise fault.raised()

    def _ask_registry(self, reference: str, credential: RegistryCredential | None) -> FakeImage:
        if not self._reachable:
            raise ImagePullFailed("The registry could not be used. Check that this box reaches it.")
        pinned = (image for image in self._remote.values() if image.pin == reference)
        found = self._remote.get(reference) or next(pinned, None)
        if found is None:
            raise ImageNotFound(f"There is no image {reference} at the registry.")
        if found.credential is not None and found.credential != credential:
            raise RegistryDenied(f"The registry refused access to {reference}.")
        return found

    async def _load(self, pull: _Pull, image: PinnedImage, credential: RegistryCredential | None) -> None:
        try:
            fault = self.faults.next_for("pull")
            if fault and fault.kind is FaultKind.ERROR_BEFORE:
                await asyncio.sleep(fault.delay_s)
                raise fault.raised()
            found = self._ask_registry(image.pin, credential)
            self.pulls_begun.append(image.pin)
            await self._load_layers(pull, found, fault)
            self._local[image.pin] = found
            self._end(fault)
        finally:
            self._forget(image.pin, pull)

    async def _load_layers(self, pull: _Pull, found: FakeImage, fault: Fault | None) -> None:
        layers, total, done = len(found.layer_bytes), sum(found.layer_bytes), 0
        pull.tell(PullProgress(layers=layers, layers_done=0, bytes_total=total, bytes_done=0))
        for number, size in enumerate(found.layer_bytes, start=1):
            await asyncio.sleep((self.pull_s + (fault.delay_s if fault else 0.0)) / layers)
            if fault and fault.kind in (FaultKind.HANG_BEFORE, FaultKind.HALFWAY):
                if fault.kind is FaultKind.HANG_BEFORE:
                    await asyncio.sleep(self.stall_timeout_s)
                raise fault.error or ImagePullFailed("The pull made no progress and was given up.")
            done += size
            pull.tell(PullProgress(layers=layers, layers_done=number, bytes_total=total, bytes_done=done))

    def _forget(self, pin: str, pull: _Pull) -> None:
        if self._pulls.get(pin) is pull:
            del self._pulls[pin]


def _repository(reference: str) -> str:
    name = reference.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

"""Pins, pulls, lists and removes images on a Docker Engine."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import structlog
from docker.errors import APIError, NotFound

from gpud.adapters.docker_client import DockerClients, stream_items
from gpud.adapters.docker_errors import engine_errors, is_version_refused, pull_failed
from gpud.adapters.docker_image_use import free_bytes, layer_dirs, pulled_images
from gpud.adapters.docker_pull import PullMeter
from gpud.adapters.docker_reference import (
    ImageReference,
    familiar_repository,
    is_keep_name,
    keep_name,
    split_reference,
)
from gpud.core.endpoint import PinnedImage
from gpud.core.image_reference import is_image_id, is_image_reference
from gpud.errors import Conflict, ImageNotFound, ImagePullFailed, RegistryDenied
from gpud.ports.images import LocalImage, PullProgress, RegistryCredential

if TYPE_CHECKING:
    from collections.abc import Callable

    import docker

    from gpud.adapters.threads import Threads
    from gpud.core.image_gc import PulledImage
    from gpud.settings import DockerSettings

log = structlog.get_logger()

_AnswerT = TypeVar("_AnswerT")

_PULLS_MAX = 3
"""Pulls at once; the engine loads three layers at a time of each."""
_REGISTRY_TIMEOUT_S = 20.0
"""For one question to a registry, asked while somebody waits for a deploy."""
_SILENCE_EXTRA_S = 5.0


@dataclass(slots=True)
class _Pull:
    """One pull and everybody who waits for it."""

    task: asyncio.Task[None] = field(init=False)
    listeners: list[Callable[[PullProgress], None]] = field(default_factory=list)
    latest: PullProgress | None = None

    def tell(self, progress: PullProgress) -> None:
        """Tell every waiter, if there is anything new."""
        if progress != self.latest:
            self.latest = progress
            for listener in tuple(self.listeners):
                listener(progress)


class DockerImages:
    """The `ImageStore` of a Docker Engine.

    Args:
        settings: The engine.
        threads: For every call but pulls, which have a thread each.
    """

    def __init__(self, settings: DockerSettings, threads: Threads) -> None:
        self._settings = settings
        self._threads = threads
        self._clients = DockerClients(settings.host, call_timeout_s=settings.call_timeout_s)
        self._pulls: dict[str, _Pull] = {}
        self._slots = asyncio.Semaphore(_PULLS_MAX)

    async def close(self) -> None:
        """Cancel every pull."""
        tasks = [pull.task for pull in self._pulls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def resolve(self, reference: str, credential: RegistryCredential | None) -> PinnedImage:
        """Pin a reference to a digest, once, at deploy. Pulls nothing.

        An image here that has no digest of the named repository was built here and never pushed:
        it is pinned by its id. Otherwise the registry is asked; when it cannot be asked, or does
        not know the image, and the image is here, the digest of the one here is the pin.

        Raises:
            ImageNotFound: Neither here nor in the registry.
            RegistryDenied: The registry wants other credentials.
            ImagePullFailed: The registry could not be asked, and the image is not here.
        """
        if is_image_id(reference):
            local = await self._inspect(reference)
            if local is None:
                raise ImageNotFound(f"There is no image with the id {reference} on this box.")
            return _pinned(reference, local["Id"], local)
        named = split_reference(reference)
        local = await self._inspect(named.pin if named.digest else reference)
        here = _own_digest(local, named)
        if local is not None and (named.digest or not here):
            return _pinned(reference, named.pin or local["Id"], local)
        try:
            digest = await self._ask_registry(named, credential)
        except (ImageNotFound, ImagePullFailed) as error:
            refused = isinstance(error, RegistryDenied) and credential is not None
            if local is None or refused:
                raise
            log.warning("image.pinned_locally", image=reference, reason=error.detail)
            digest = here
        return _pinned(reference, f"{named.repository}@{digest}", local if digest == here else None)

    async def present(self, image: PinnedImage) -> bool:
        """Whether the engine has exactly this image."""
        return await self._inspect(image.pin) is not None

    async def pull(
        self,
        image: PinnedImage,
        credential: RegistryCredential | None,
        progress: Callable[[PullProgress], None],
    ) -> None:
        """Bring the image to the box. Several calls for one pin share one pull, the first one's.

        It ends when its last waiter is cancelled. What was loaded gets a name of gpud's own, so
        that `docker image prune` does not take it for refuse; other names are left alone.

        Raises:
            ImageNotFound: The registry has no such digest.
            RegistryDenied: The registry refused.
            ImagePullFailed: Network, disk or stall; trying again may help.
        """
        pull = self._pulls.get(image.pin)
        if pull is None:
            pull = self._pulls[image.pin] = _Pull()
            pull.task = asyncio.create_task(self._load(pull, image, credential), name=f"pull {image.pin}")
        task = pull.task
        pull.listeners.append(progress)
        if pull.latest is not None:
            progress(pull.latest)
        try:
            await asyncio.shield(task)
        finally:
            pull.listeners.remove(progress)
            if not pull.listeners and not task.done():
                self._forget(image.pin, pull)  # Who asks from now on starts anew.
                task.cancel()
                await asyncio.wait([task])

    async def exposed_ports(self, image: PinnedImage) -> tuple[int, ...]:
        """TCP ports a present image declares.

        Raises:
            ImageNotFound: It is not here.
        """
        local = await self._inspect(image.pin)
        if local is None:
            raise ImageNotFound(f"The image {image.reference} ({image.pin}) is not on this box.")
        return _exposed_ports(local)

    async def list_images(self) -> tuple[LocalImage, ...]:
        """Everything on the box that has a name or is pinned, by its first name."""
        with engine_errors(self._clients):
            rows = await self._threads.run(
                lambda: self._clients.get().images(), timeout_s=self._settings.call_timeout_s
            )
        images = [image for row in rows if (image := _local_image(row)) is not None]
        return tuple(sorted(images, key=lambda image: (image.references or image.pins)[0]))

    async def pulled_images(self) -> tuple[PulledImage, ...]:
        """Every image that gpud pulled."""
        return await self._ask(pulled_images)

    async def free_bytes(self) -> int | None:
        """What is free where the engine keeps its images; None for an engine on another machine."""
        return await self._ask(free_bytes) if self._settings.host.startswith("unix://") else None

    async def layer_dirs(self, image: PinnedImage) -> tuple[str, ...]:
        """Host paths of a present image's layers; empty for an image store that keeps none to look at."""
        local = await self._inspect(image.pin)
        return layer_dirs(local or {}) if self._settings.host.startswith("unix://") else ()

    async def _ask(self, question: Callable[[docker.APIClient], _AnswerT]) -> _AnswerT:
        with engine_errors(self._clients):
            return await self._threads.run(
                lambda: question(self._clients.get()), timeout_s=self._settings.call_timeout_s
            )

    async def remove(self, pin: str) -> None:
        """Remove an image with every name it has in the pin's repository; absent is fine.

        Raises:
            Conflict: A container uses it, or it has names in several repositories.
        """
        with engine_errors(self._clients):
            await self._threads.run(self._remove, pin, timeout_s=self._settings.call_timeout_s)

    async def _inspect(self, name: str) -> dict[str, Any] | None:
        with engine_errors(self._clients):
            return await self._threads.run(self._inspect_now, name, timeout_s=self._settings.call_timeout_s)

    def _inspect_now(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of an image; every other question about a name comes after this one."""
        if not is_image_reference(name):  # The SDK would put it into a path as it is.
            raise ImageNotFound(f"{name!r} is no image reference. Write repository/name:tag in lower case.")
        try:
            found: dict[str, Any] = self._clients.get().inspect_image(name)
        except NotFound:
            return None
        except APIError as error:
            if error.status_code == 400 and not is_version_refused(error):
                raise ImageNotFound(
                    f"{name} is no image reference. Write repository/name:tag in lower case."
                ) from error
            raise
        return found

    async def _ask_registry(self, named: ImageReference, credential: RegistryCredential | None) -> str:
        """The digest that the registry has for a reference."""
        with engine_errors(self._clients):
            try:
                return await self._threads.run(
                    self._ask_registry_now, named, credential, timeout_s=_REGISTRY_TIMEOUT_S
                )
            except (TimeoutError, requests.Timeout) as error:
                # The engine itself has just answered.
                raise ImagePullFailed(
                    f"The registry {named.registry} did not answer in time when asked for {named.text}. "
                    "Check that this box reaches it and try again."
                ) from error

    def _ask_registry_now(self, named: ImageReference, credential: RegistryCredential | None) -> str:
        try:
            described = self._clients.get().inspect_distribution(
                named.pin or named.text, auth_config=_auth(credential)
            )
        except APIError as error:
            said = _said_by_registry(error)
            raise pull_failed(named.text, said, registry=named.registry) from error
        return str(described["Descriptor"]["digest"])

    async def _load(self, pull: _Pull, image: PinnedImage, credential: RegistryCredential | None) -> None:
        try:
            if is_image_id(image.pin):
                raise ImageNotFound(
                    f"The image {image.reference} was built on this box and is not here any more. Build "
                    "it again and deploy again; only images from a registry can be pulled."
                )
            async with self._slots:
                with engine_errors(self._clients):
                    await self._load_from_registry(pull, image, credential)
                    await self._threads.run(self._keep, image, timeout_s=self._settings.call_timeout_s)
        finally:
            self._forget(image.pin, pull)

    async def _load_from_registry(
        self, pull: _Pull, image: PinnedImage, credential: RegistryCredential | None
    ) -> None:
        named = split_reference(image.pin)
        stall_s = self._settings.pull_stall_timeout_s
        meter = PullMeter()
        messages = stream_items(
            lambda: self._clients.open_pull(
                named.repository, named.digest, auth=_auth(credential), silence_s=stall_s + _SILENCE_EXTRA_S
            ),
            name="gpud-pull",
        )
        try:
            async with asyncio.timeout(stall_s) as limit:
                async for message in messages:
                    if said := message.get("error"):
                        raise pull_failed(image.reference, said, registry=named.registry)
                    if meter.feed(message):
                        limit.reschedule(asyncio.get_running_loop().time() + stall_s)
                        pull.tell(meter.progress)
        except TimeoutError as error:
            raise ImagePullFailed(
                f"The pull of {image.reference} made no progress for {stall_s:g} s "
                f"(docker.pull_stall_timeout_s) and was given up. Check the way to {named.registry} and try "
                "again, or allow more time."
            ) from error
        except APIError as error:
            said = _said_by_registry(error)
            raise pull_failed(image.reference, said, registry=named.registry) from error
        finally:
            await messages.aclose()

    def _keep(self, image: PinnedImage) -> None:
        repository, tag = keep_name(image.pin)
        try:
            self._clients.get().tag(image.pin, repository, tag)
        except NotFound as error:
            raise ImagePullFailed(
                f"The pull of {image.reference} ended before the image was complete: the engine was "
                "stopped or restarted. Try again."
            ) from error

    def _forget(self, pin: str, pull: _Pull) -> None:
        if self._pulls.get(pin) is pull:
            del self._pulls[pin]

    def _remove(self, pin: str) -> None:
        client = self._clients.get()
        local = self._inspect_now(pin)
        if local is None:
            return
        # Asked first, for taking a name away succeeds even while a container uses the image.
        used = client.containers(all=True, filters={"ancestor": local["Id"]})
        names = [row["Names"][0].lstrip("/") for row in used if row["ImageID"] == local["Id"]]
        if names:
            raise Conflict(f"The image {pin} is used by {', '.join(sorted(names))}. Stop what uses it first.")
        try:
            if not is_image_id(pin):
                with contextlib.suppress(NotFound):
                    client.remove_image(":".join(keep_name(pin)))
            with contextlib.suppress(NotFound):
                client.remove_image(pin)
        except APIError as error:
            if error.status_code != 409:
                raise
            raise Conflict(
                f"The image {pin} cannot be removed: {error.explanation}. Remove its other names first."
            ) from error


def _pinned(reference: str, pin: str, local: dict[str, Any] | None) -> PinnedImage:
    return PinnedImage(reference=reference, pin=pin, exposed_ports=_exposed_ports(local) if local else ())


def _own_digest(local: dict[str, Any] | None, named: ImageReference) -> str:
    """Digest under which the named repository has the image that is here; empty when it has none."""
    for known in (local or {}).get("RepoDigests") or ():
        repository, _, digest = known.partition("@")
        if familiar_repository(repository) == familiar_repository(named.repository):
            return str(digest)
    return ""


def _exposed_ports(local: dict[str, Any]) -> tuple[int, ...]:
    declared = (local.get("Config") or {}).get("ExposedPorts") or {}
    ports = (port.partition("/") for port in declared)
    return tuple(sorted(int(number) for number, _, protocol in ports if protocol in ("", "tcp")))


def _local_image(row: dict[str, Any]) -> LocalImage | None:
    tags = [tag for tag in row.get("RepoTags") or () if not tag.startswith("<none>")]
    digests = [digest for digest in row.get("RepoDigests") or () if not digest.startswith("<none>")]
    if not tags and not digests:
        return None
    return LocalImage(
        id=row["Id"],
        pins=(row["Id"], *sorted(digests)),
        references=tuple(sorted(tag for tag in tags if not is_keep_name(tag))),
        size_bytes=int(row["Size"]),
        created_at_ms=int(row["Created"]) * 1000,
    )


def _auth(credential: RegistryCredential | None) -> dict[str, str]:
    if credential is None:
        return {}
    return {
        "username": credential.username,
        "password": credential.password,
        "serveraddress": credential.host,
    }


def _said_by_registry(error: APIError) -> str:
    """What the engine passes on from a registry; what it says for itself is raised again."""
    if is_version_refused(error):
        raise error
    return str(error.explanation or error).strip()

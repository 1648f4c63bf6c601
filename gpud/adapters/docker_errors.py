"""Says what the engine's and the registries' errors mean: what happened, why, and what to do."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docker.errors import APIError, DockerException

from gpud.errors import (
    DependencyDown,
    GpudError,
    ImageNotFound,
    ImagePullFailed,
    LaunchFailed,
    RegistryDenied,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpud.adapters.docker_client import DockerClients
    from gpud.core.endpoint import PinnedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    """What a launch error means.

    Args:
        words: All of these are in the engine's text, which is compared in lower case.
        why: Follows "The container could not be started: ".
        permanent: Trying the same again cannot help.
    """

    words: tuple[str, ...]
    why: str
    permanent: bool = True


_LAUNCH_MEANINGS = (
    _Meaning(
        words=("no space left on device",),
        why="the disk of the engine is full. Free space, for example with `gpud image rm`, or with "
        "`docker system df` to see what takes it",
        permanent=False,
    ),
    _Meaning(
        words=("could not select device driver",),
        why="the engine cannot hand out GPUs. Install the NVIDIA Container Toolkit and restart the "
        "engine, or set gpus.attach in gpud.toml to the way this engine knows (cdi, or none for "
        "declared GPUs)",
    ),
    _Meaning(
        words=("cdi device",),
        why="the engine has no CDI description of the GPU. Make one with `nvidia-ctk cdi generate "
        "--output=/etc/cdi/nvidia.yaml`, or set gpus.attach = 'device_request' in gpud.toml",
    ),
    _Meaning(
        words=("nvidia-container-cli", "unknown device"),
        why="NVIDIA's container tools do not know the GPU. Compare `gpud gpu ls` with `nvidia-smi -L`",
    ),
    _Meaning(
        words=("nvidia-container-cli",),
        why="NVIDIA's container tools failed on this box. Check that `nvidia-smi` works, and that the "
        "driver was not updated without a restart",
        permanent=False,
    ),
    _Meaning(
        words=("exec format error",),
        why="the image was built for another kind of processor. Build or choose it for this box's",
    ),
    _Meaning(
        words=("executable file not found",),
        why="its command was not found in the image. Correct `command`, or the image's entrypoint",
    ),
    _Meaning(
        words=('exec: "', "no such file or directory"),
        why="its command was not found in the image. Correct `command`, or the image's entrypoint",
    ),
    _Meaning(
        words=('exec: "', "permission denied"),
        why="its command is not a program that may be run. Correct `command`, or the image's entrypoint",
    ),
    _Meaning(
        words=("no command specified",),
        why="the image has no command of its own. Say `command` in the endpoint's spec",
    ),
    _Meaning(
        words=("unable to find user",),
        why="the image names a user that it does not have. Correct USER in its Dockerfile",
    ),
    _Meaning(
        words=("unknown", "runtime"),
        why="the engine does not know the OCI runtime it is set to use. Check its daemon.json",
    ),
    _Meaning(
        words=("range of cpus",),
        why="the box has fewer CPUs than limits.cpus asks for. Lower it",
    ),
    _Meaning(
        words=("requested cpus are not available",),
        why="the engine may not use the CPUs next to the GPU. Check the CPUs its service is bound to",
    ),
    _Meaning(
        words=("minimum memory limit",),
        why="limits.memory_mib is less than the engine allows. Raise it",
    ),
    _Meaning(
        words=("bind source path does not exist",),
        why="a volume's path is not on the engine's machine. Create it, or correct the volume",
    ),
    _Meaning(
        words=("no available", "address"),
        why="the workers' network has no free address. Stop workers, or give docker.subnet a larger range",
        permanent=False,
    ),
)


@contextlib.contextmanager
def launch_errors(image: PinnedImage) -> Iterator[None]:
    """Say what a refused create or start means; a refused API version is the caller's to mend."""
    try:
        yield
    except APIError as error:
        if is_version_refused(error):
            raise
        raise launch_failed(error, image) from error


def launch_failed(error: APIError, image: PinnedImage) -> GpudError:
    """Say what a refused create or start means."""
    said = _said(error)
    text = said.lower()
    if "no such image" in text:
        return ImageNotFound(
            f"The image {image.reference} ({image.pin}) is not on the box any more. It is pulled again "
            "at the next start; an image that was built here must be built and deployed again."
        )
    for meaning in _LAUNCH_MEANINGS:
        if all(word in text for word in meaning.words):
            return LaunchFailed(
                f"The container could not be started: {meaning.why}. The engine said: {said}",
                permanent=meaning.permanent,
            )
    # 400: the request itself is wrong, and it will be the same next time.
    permanent = error.status_code == 400
    advice = "Change the endpoint's spec or image." if permanent else "gpud tries again."
    return LaunchFailed(f"The engine could not start the container: {said}. {advice}", permanent=permanent)


def is_missing_network(error: APIError) -> bool:
    """Whether a start failed only because somebody removed the workers' network."""
    text = _said(error).lower()
    return "network" in text and "not found" in text


def pull_failed(image: str, said: str, *, registry: str) -> GpudError:
    """Say what a registry's refusal means; `said` is the engine's text, `image` how a person names it."""
    text = said.lower()
    if "no space left on device" in text:
        return ImagePullFailed(
            f"The image {image} could not be pulled: the disk of the engine is full. Free space, for "
            f"example with `gpud image rm`, and try again. The engine said: {said}"
        )
    if any(words in text for words in _DENIED):
        return RegistryDenied(
            f"The registry {registry} refused access to {image}. Store its credentials with `gpud "
            f"registry login` and name them in the endpoint's `registry`; a registry may also answer so "
            f"for an image that does not exist. The engine said: {said}"
        )
    if any(words in text for words in _ABSENT):
        return ImageNotFound(
            f"There is no image {image} at the registry {registry}. Check the spelling of name and tag. "
            f"The engine said: {said}"
        )
    return ImagePullFailed(
        f"The registry {registry} could not be used for {image}. Check that this box reaches it and try "
        f"again. The engine said: {said}"
    )


_DENIED = ("unauthorized", "denied", "authentication required", "no basic auth", "forbidden")
_ABSENT = ("manifest unknown", "name unknown", "not found", "does not exist", "no such image")


def is_version_refused(error: APIError) -> bool:
    """Whether the engine was replaced by a release that does not speak the pinned API version."""
    text = _said(error).lower()
    return "client version" in text and ("too old" in text or "too new" in text)


@contextlib.contextmanager
def engine_errors(clients: DockerClients) -> Iterator[None]:
    """Turn what the SDK raises when the engine is away, or answers nonsense, into DependencyDown.

    The engine that comes back may be another release, so its API version is asked for again.
    """
    try:
        yield
    except GpudError:
        raise
    except APIError as error:
        if is_version_refused(error):
            clients.pin_version("")
        raise DependencyDown(
            f"The Docker Engine at {clients.host} answered with an error: {_said(error)}. gpud tries again; "
            "see the engine's own log if it stays so."
        ) from error
    except (OSError, DockerException) as error:  # TimeoutError and those of requests are OSErrors.
        raise DependencyDown(f"The Docker Engine at {clients.host} {_absence(error)}") from error


def _absence(error: Exception) -> str:
    text = f"{error} {error.__cause__ or ''}".lower()
    if "permission denied" in text:
        return (
            "does not let gpud in: the socket belongs to another user or group. Run gpud as root, or as "
            "a user of the group `docker`."
        )
    if "no such file" in text:
        return (
            "is not there: its socket does not exist. Install and start Docker (`systemctl start "
            "docker`), or correct docker.host in gpud.toml."
        )
    if "refused" in text:
        return "is not running: nothing listens there. Start it (`systemctl start docker`)."
    if isinstance(error, TimeoutError) or "timed out" in text:
        return "did not answer in time (docker.call_timeout_s). It may be overloaded, or the disk slow."
    return f"broke the connection ({error}). It may be restarting; gpud tries again."


def _said(error: APIError) -> str:
    return str(error.explanation or error).strip().rstrip(".")

"""What an image runs by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.adapters.docker_errors import launch_errors
from gpud.adapters.docker_launch import ImageCommand

if TYPE_CHECKING:
    import docker

    from gpud.core.endpoint import PinnedImage


def command_of(client: docker.APIClient, image: PinnedImage) -> ImageCommand:
    """Ask the engine for an image's entrypoint and command.

    Raises:
        ImageNotFound: The engine has no such image.
        LaunchFailed: The engine refused.
    """
    with launch_errors(image):
        config = client.inspect_image(image.pin).get("Config") or {}
    return ImageCommand(entrypoint=tuple(config.get("Entrypoint") or ()), cmd=tuple(config.get("Cmd") or ()))

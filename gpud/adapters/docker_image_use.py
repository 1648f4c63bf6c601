"""What the engine's images take on the disk, and who uses them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.errors import NotFound

from gpud.adapters.docker_reference import is_keep_name
from gpud.adapters.docker_seen import unix_ns
from gpud.core.image_gc import PulledImage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import docker

_NEVER = "0001-01-01T00:00:00Z"


def pulled_images(client: docker.APIClient) -> tuple[PulledImage, ...]:
    """Every image that has a name of gpud's own, which it gives to those it pulled.

    Two listings, and one inspect for each image found, for the time at which it got that name.
    """
    used = {row["ImageID"] for row in client.containers(all=True)}
    found = []
    for row in client.images():
        tags = [tag for tag in row.get("RepoTags") or () if not tag.startswith("<none>")]
        if not any(is_keep_name(tag) for tag in tags):
            continue
        digests = [digest for digest in row.get("RepoDigests") or () if not digest.startswith("<none>")]
        with suppress(NotFound):  # Removed between the two calls.
            named_at = client.inspect_image(row["Id"]).get("Metadata", {}).get("LastTagTime") or _NEVER
            image = PulledImage(
                id=row["Id"],
                pins=(row["Id"], *sorted(digests)),
                size_bytes=int(row["Size"]),
                used_at_ms=unix_ns(named_at) // 1_000_000 or int(row["Created"]) * 1000,
                in_use=row["Id"] in used,
                named=any(not is_keep_name(tag) for tag in tags),
            )
            found.append(image)
    return tuple(found)


def free_bytes(client: docker.APIClient) -> int | None:
    """Free space of the engine's data root; None when it is elsewhere, or hidden from this process."""
    root = client.info().get("DockerRootDir", "")
    try:
        disk = os.statvfs(root)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def layer_dirs(inspected: Mapping[str, Any]) -> tuple[str, ...]:
    """Where an inspected image's layers lie, the uppermost first; empty where the engine does not tell."""
    data = (inspected.get("GraphDriver") or {}).get("Data") or {}
    lower = str(data.get("LowerDir") or "").split(":")
    return tuple(path for path in (str(data.get("UpperDir") or ""), *lower) if path.startswith("/"))

"""Which of the engine's runtimes starts workers, and what about an engine should a person know?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

AUTO = "auto"
FAST_RUNTIME = "crun"

_PLAIN_RUNTIMES = frozenset({"", "runc", "io.containerd.runc.v2"})
_API_LEAST = (1, 41)
_LAYERS_TOLD_BY = frozenset({"overlay2", "fuse-overlayfs", "vfs", "btrfs", "zfs"})


def runtime_for(wanted: str, *, runtimes: Collection[str], default: str) -> str:
    """Choose the OCI runtime that workers are started with; empty leaves it to the engine.

    Args:
        wanted: The setting: `auto`, or a name.
        runtimes: Names the engine knows.
        default: The engine's own choice. One that is not runc was chosen on purpose, as NVIDIA's is.
    """
    if wanted != AUTO:
        return wanted
    return FAST_RUNTIME if FAST_RUNTIME in runtimes and default in _PLAIN_RUNTIMES else ""


def engine_warnings(
    *, version: str, api_version: str, runtimes: Collection[str], storage_driver: str
) -> tuple[str, ...]:
    """Say what a person should know about an engine; empty when there is nothing."""
    advice = (
        version_advice(version),
        api_advice(api_version),
        runtime_advice(runtimes),
        storage_advice(storage_driver),
    )
    return tuple(said for said in advice if said)


def version_advice(version: str) -> str:
    """What there is to know about a release of the engine; empty when it is nothing."""
    if is_slow_to_start(version):
        return (
            f"Docker {version}: before 28.0 each start on a bridge network runs the engine's program once "
            "more, which takes tens of milliseconds. A later engine starts workers faster."
        )
    if _numbers(version):
        return (
            f"Docker {version}: `docker start --checkpoint` fails on bridge networks since 28.0; gpud does "
            "not use it."
        )
    return ""


def is_slow_to_start(version: str) -> bool:
    """Whether that release starts containers slower than later ones."""
    major = _numbers(version)[:1]
    return bool(major) and major < (28,)


def api_advice(api_version: str) -> str:
    """Whether the engine speaks a version of its API that is too old; empty when it does not."""
    api = _numbers(api_version)
    if api and api < _API_LEAST:
        return f"Docker's API {api_version} is older than 1.41, which gpud was written for."
    return ""


def runtime_advice(runtimes: Collection[str]) -> str:
    """Whether a faster runtime could be had; empty when it is there."""
    if FAST_RUNTIME in runtimes:
        return ""
    return (
        "The engine does not know the runtime crun, which starts containers faster than runc. Install "
        "crun and register it in daemon.json; gpud then uses it (docker.runtime)."
    )


def storage_advice(storage_driver: str) -> str:
    """What an image store keeps gpud from doing; empty when it is nothing."""
    if storage_driver in _LAYERS_TOLD_BY:
        return ""
    return (
        f"The engine's image store ({storage_driver or 'unknown'}) does not tell where layers are, so "
        "what a start reads cannot be recorded (page_cache.record)."
    )


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()

"""How the things gpud names are spelled."""

from __future__ import annotations

import re
from typing import NewType

EndpointName = NewType("EndpointName", str)
"""Chosen by its user: `[a-z][a-z0-9-]{0,39}`."""

Revision = NewType("Revision", str)
"""First 12 hex digits of the hash of what makes a revision."""

WorkerId = NewType("WorkerId", str)
"""`wk_` and 16 base32 characters; its container is `gpud-<worker id>`."""

KeyId = NewType("KeyId", str)
RequestId = NewType("RequestId", str)
JobId = NewType("JobId", str)
"""Ten base32 characters of its time, `-`, 16 of chance; `sync-` before it when its caller waits."""
GpuUuid = NewType("GpuUuid", str)
"""NVML's UUID of a GPU (`GPU-…`) or of a MIG device (`MIG-…`); never an index."""

ENDPOINT_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
WORKER_ID = re.compile(r"wk_[a-z2-7]{16}\Z")
CONTAINER_PREFIX = "gpud-"


def container_name(worker_id: WorkerId) -> str:
    """Name the one container a worker may have; the name makes creation safe to repeat."""
    return CONTAINER_PREFIX + worker_id


def worker_of_container(name: str) -> WorkerId | None:
    """Read the worker id back from a container's name, or None when it is not one of ours."""
    worker_id = name.removeprefix("/").removeprefix(CONTAINER_PREFIX)
    return WorkerId(worker_id) if WORKER_ID.match(worker_id) else None

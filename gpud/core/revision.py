"""What a revision is: an endpoint's spec and image as they were deployed, and what became of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.endpoint import Endpoint
from gpud.core.ids import Revision

if TYPE_CHECKING:
    from gpud.core.endpoint import EndpointSpec, PinnedImage
    from gpud.core.ids import EndpointName

_OUTSIDE = (
    "jobs",
    "scale",
    "aliases",
    "public",
    "forward_authorization",
    "rollout",
    "standby",
    "requests",
    "pause",
    "sleep",
    "page_cache",
)
_LIMITS_OUTSIDE = (
    "request_timeout_s",
    "first_request_timeout_s",
    "stream_idle_timeout_s",
    "max_queue",
    "queue_timeout_s",
    "drain_timeout_s",
    "stop_grace_s",
)
_HEALTH_OUTSIDE = ("stall_timeout_s",)
"""What gpud itself enforces, so that no container depends on it: it applies at once."""


def revision_of(spec: EndpointSpec, image: PinnedImage) -> Revision:
    """Hash what a running container depends on.

    Scale, rollout, standby, pause, sleep and request settings, limits that gpud itself enforces, aliases,
    `public` and `forward_authorization` are left out: changing them restarts nothing. The values of `env` are
    part of it.
    """
    facts = asdict(spec)
    for outside in (*_OUTSIDE, "image", "name", "registry"):
        del facts[outside]
    for outside in _LIMITS_OUTSIDE:
        del facts["limits"][outside]
    for outside in _HEALTH_OUTSIDE:
        del facts["health"][outside]
    if not spec.gpus.least_memory_mib:  # what is not said leaves revisions as they were before it could be
        del facts["gpus"]["least_memory_mib"]
    facts["pin"] = image.pin
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return Revision(hashlib.sha256(canonical.encode()).hexdigest()[:12])


class RevisionState(StrEnum):
    """What became of a revision."""

    DEPLOYING = "deploying"
    CURRENT = "current"
    LAST_GOOD = "last_good"
    SUPERSEDED = "superseded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRecord:
    """One revision of one endpoint; spec and image never change.

    Args:
        endpoint: As it was deployed: spec, image and hash.
        number: 1 for the first of its endpoint, and so on.
        state: What became of it.
        detail: Why, for a person; empty when there is nothing to say.
        created_at_ms: Unix wall time of its first deploy.
        changed_at_ms: Unix wall time of its last change of state.
        ready_at_ms: Unix wall time at which a worker of it was first READY; 0 for never.
    """

    endpoint: Endpoint
    number: int
    state: RevisionState
    created_at_ms: int
    changed_at_ms: int
    detail: str = ""
    ready_at_ms: int = 0

    @property
    def name(self) -> EndpointName:
        """Of the endpoint."""
        return self.endpoint.name

    @property
    def revision(self) -> Revision:
        """Its hash."""
        return self.endpoint.revision

    @property
    def proven(self) -> bool:
        """Whether a worker of it ever was READY, so that going back to it makes sense."""
        return self.ready_at_ms > 0


def under_present_settings(past: EndpointSpec, present: EndpointSpec) -> EndpointSpec:
    """A revision's spec with what lies outside revisions as it is now."""
    limits = {name: getattr(present.limits, name) for name in _LIMITS_OUTSIDE}
    health = {name: getattr(present.health, name) for name in _HEALTH_OUTSIDE}
    outside = {name: getattr(present, name) for name in _OUTSIDE}
    return replace(
        past, limits=replace(past.limits, **limits), health=replace(past.health, **health), **outside
    )


def at_present(record: RevisionRecord, present: Endpoint) -> Endpoint:
    """A revision as it would be deployed now."""
    return Endpoint(
        spec=under_present_settings(record.endpoint.spec, present.spec),
        image=record.endpoint.image,
        revision=record.revision,
        created_at_ms=present.created_at_ms,
        updated_at_ms=present.updated_at_ms,
    )

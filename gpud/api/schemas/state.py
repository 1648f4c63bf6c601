"""The box as it is now, in one document, and how it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.api.schemas.base import Document, Query, Timestamp, timestamp
from gpud.api.schemas.fleet import (
    GpuDocument,
    PullDocument,
    PullProgressDocument,
    WaitDocument,
    WorkerDocument,
    progress_document,
    wait_documents,
)
from gpud.api.schemas.outlook import WindowDocument, window_document
from gpud.api.schemas.revisions import RolloutDocument, rollout_document
from gpud.api.schemas.standby import StandbyDocument
from gpud.core.endpoint import EndpointType, PolicyName
from gpud.ports.control import EndpointCondition

if TYPE_CHECKING:
    from gpud.ports.control import DaemonHealth, EndpointView


class StateQuery(Query):
    """How the state is asked for."""

    follow: bool = False
    """Answer with server-sent events: `snapshot` with the whole state, then `change` with what is new,
    gathered for half a second: `upsert` has things by kind, `remove` their ids. Workers and standbys are
    known by `id`, endpoints by `name`, GPUs by `uuid`, pulls by `pin`."""


class EndpointStateDocument(Document):
    """An endpoint as it is now, without its whole spec; its workers and standbys stand beside it."""

    name: str
    condition: EndpointCondition
    """One word for how it is."""
    type: EndpointType
    image: str
    """As the user wrote it."""
    public: bool
    aliases: tuple[str, ...]
    revision: str
    serving: str
    """The revision that serves; another than `revision` while that one is being rolled out."""
    policy: PolicyName
    min_workers: int
    max_workers: int
    gpus: int
    """Of each worker."""
    gpu_memory_mib: int
    """What each worker reserves of one shared GPU; 0 for whole GPUs."""
    desired: int
    """Workers the scale policy wants."""
    scale_reason: str
    """The policy's reason for `desired`."""
    waiting: int
    """Requests held now."""
    in_flight: int
    """Requests at workers now."""
    waits: tuple[WaitDocument, ...]
    """Unmet wishes; empty when all is as it should be."""
    last_error: str
    """Of the last failed start; empty when none failed since a worker was ready."""
    pull: PullProgressDocument | None
    """Progress of its image's pull, while there is one."""
    rollout: RolloutDocument | None
    """The rollout under way, else the last one; null when there was none."""
    window: WindowDocument | None
    """Its warm windows; null when it has none."""
    updated_at: Timestamp


class DaemonStateDocument(Document):
    """The daemon itself."""

    ready: bool
    version: str
    gpu_source: str
    """`nvml`, `static` (declared by hand, nothing is verified) or `none`."""
    parts: dict[str, str]
    """By part: empty when well, else what is wrong and what to do."""


class StateDocument(Document):
    """The whole state: the event `snapshot`, and the answer without following."""

    at: Timestamp
    daemon: tuple[DaemonStateDocument, ...]
    """Always one."""
    endpoints: tuple[EndpointStateDocument, ...]
    """By name."""
    workers: tuple[WorkerDocument, ...]
    """Live ones."""
    standbys: tuple[StandbyDocument, ...]
    gpus: tuple[GpuDocument, ...]
    pulls: tuple[PullDocument, ...]


def endpoint_state(view: EndpointView) -> EndpointStateDocument:
    """Show an endpoint in short, in the words of the whole document."""
    endpoint, spec = view.endpoint, view.endpoint.spec
    return EndpointStateDocument.model_construct(  # Written twice a second for each that changes.
        name=endpoint.name,
        condition=view.condition,
        type=spec.type,
        image=endpoint.image.reference,
        public=spec.public,
        aliases=spec.aliases,
        revision=endpoint.revision,
        serving=view.serving or endpoint.revision,
        policy=spec.scale.policy,
        min_workers=spec.scale.min_workers,
        max_workers=spec.scale.max_workers,
        gpus=spec.gpus.count,
        gpu_memory_mib=spec.gpus.memory_mib,
        desired=view.desired,
        scale_reason=view.scale_reason,
        waiting=view.waiting,
        in_flight=view.in_flight,
        waits=wait_documents(view),
        last_error=view.last_error,
        pull=progress_document(view.pull) if view.pull else None,
        rollout=rollout_document(view.rollout) if view.rollout else None,
        window=window_document(view.window) if view.window else None,
        updated_at=timestamp(endpoint.updated_at_ms),
    )


def daemon_state(health: DaemonHealth) -> DaemonStateDocument:
    """Show how the daemon is."""
    return DaemonStateDocument(
        ready=health.ready, version=health.version, gpu_source=health.gpu_source, parts=dict(health.parts)
    )

"""Endpoints, workers, GPUs and images as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gpud.api.schemas.base import (
    Document,
    PageQuery,
    Query,
    Timestamp,
    timestamp,
    timestamp_or_none,
)
from gpud.api.schemas.outlook import (
    ForecastDocument,
    WindowDocument,
    forecast_document,
    window_document,
)
from gpud.api.schemas.revisions import RolloutDocument, rollout_document
from gpud.api.schemas.spec import EndpointSpecDocument, spec_document
from gpud.api.schemas.standby import StandbyDocument, standby_document
from gpud.core.gpu import GpuHealth
from gpud.core.waiting import remedy
from gpud.core.worker import Cause, WorkerState
from gpud.ports.control import EndpointCondition

if TYPE_CHECKING:
    from gpud.core.endpoint import PinnedImage
    from gpud.core.gpu import GpuReading
    from gpud.core.worker import Worker
    from gpud.ports.control import EndpointView, GpuView
    from gpud.ports.images import PullProgress

_NS_PER_MS = 1_000_000


class WorkerDocument(Document):
    """One container of one endpoint on its GPUs."""

    id: str
    """Its container is named `gpud-<id>`."""
    endpoint: str
    revision: str
    state: WorkerState
    cause: Cause
    """Why it last changed state."""
    detail: str
    """What a person should know about that, such as the last error and what to do."""
    failed: bool
    """It ended without gpud asking."""
    adopted: bool
    """A starting daemon found it running."""
    gpu_uuids: tuple[str, ...]
    gpu_memory_mib: int
    """What it reserves of its one GPU; 0 when its GPUs are its own."""
    address: str
    """Of the container; empty before it started."""
    port: int
    created_at: Timestamp
    container_started_at: Timestamp | None
    container_finished_at: Timestamp | None
    exit_code: int | None


class PullProgressDocument(Document):
    """How far a pull is, over the layers known so far."""

    layers: int
    layers_done: int
    bytes_total: int
    bytes_done: int


class PullDocument(PullProgressDocument):
    """A running pull."""

    pin: str


class WaitDocument(Document):
    """Why a wish of an endpoint is not met yet."""

    reason: str
    """One word, such as `waiting_for_gpu`."""
    detail: str
    """One sentence for a person."""
    facts: dict[str, Any]
    """What is known about it, such as `held_by` and `until_in_s`, or `error` and `retry_in_s`."""
    until: Timestamp | None
    """When it is expected to end, or to be tried again; null when that is not known."""
    remedy: str
    """Who or what would change it."""


class PinnedImageDocument(Document):
    """An image resolved at deploy."""

    reference: str
    """As the user wrote it."""
    pin: str
    """Digest (or id, for an image built here) that workers run."""
    exposed_ports: tuple[int, ...]


class EndpointDocument(Document):
    """An endpoint as it is now."""

    name: str
    condition: EndpointCondition
    """One word for how it is."""
    revision: str
    spec: EndpointSpecDocument
    image: PinnedImageDocument
    desired: int
    """Workers the scale policy wants."""
    scale_reason: str
    """The policy's reason for `desired`."""
    waiting: int
    """Requests held now."""
    in_flight: int
    """Requests at workers now."""
    workers: tuple[WorkerDocument, ...]
    """Live ones, oldest first."""
    standbys: tuple[StandbyDocument, ...]
    """Containers kept for a fast start, oldest first."""
    waits: tuple[WaitDocument, ...]
    """Unmet wishes; empty when all is as it should be."""
    last_error: str
    """Of the last failed start; empty when none failed since a worker was ready."""
    pull: PullProgressDocument | None
    """Progress of its image's pull, while there is one."""
    serving: str
    """The revision that serves; another than `revision` while that one is being rolled out."""
    rollout: RolloutDocument | None
    """The rollout under way, else the last one; null when there was none."""
    window: WindowDocument | None
    """Its warm windows; null when it has none."""
    forecast: ForecastDocument
    """What is known of the gaps between its requests."""
    created_at: Timestamp
    updated_at: Timestamp


class GpuShareDocument(Document):
    """A part of a GPU that one worker reserves."""

    worker_id: str
    endpoint: str
    memory_mib: int


class GpuDocument(Document):
    """A GPU of the box as it is now."""

    uuid: str
    name: str
    index: int
    memory_mib: int
    numa_node: int | None
    cpus: str
    """CPUs near it, in cpuset spelling; empty when unknown."""
    mig_parent: str | None
    health: GpuHealth
    reason: str
    """Why it is not healthy; empty when it is."""
    since: Timestamp | None
    """When its health last changed."""
    worker_id: str | None
    """The worker that holds it; of several that share it, the eldest."""
    endpoint: str | None
    """Of that worker."""
    shared_by: tuple[GpuShareDocument, ...]
    """Workers that reserve parts of it; empty while it is whole."""
    used_mib: int | None
    """Memory in use; null when the source cannot tell."""
    pids: tuple[int, ...] | None
    """Host processes on it; null when the source cannot tell."""
    utilization_percent: float | None
    """Time in which it computed, lately; null when the source cannot tell."""
    power_w: float | None
    """Drawn lately; null when the source cannot tell."""
    temperature_c: float | None
    """Of the chip; null when the source cannot tell."""


class WorkersQuery(PageQuery):
    """Which workers are asked for."""

    endpoint: Annotated[str, Field(max_length=40)] = ""
    """Only this endpoint's."""
    include_gone: bool = False
    """Also those that have ended."""


class StopQuery(Query):
    """How a worker is stopped."""

    force: bool = False
    """At once, without waiting for its requests."""


class EndpointPage(Document):
    """Endpoints by name."""

    items: tuple[EndpointDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class WorkerPage(Document):
    """Workers, newest first."""

    items: tuple[WorkerDocument, ...]
    next: str | None
    """Cursor of the next page; null on the last."""


class GpuPage(Document):
    """Every GPU of the box."""

    items: tuple[GpuDocument, ...]
    next: str | None
    """Always null: GPUs come in one page."""


class PullPage(Document):
    """Running pulls."""

    items: tuple[PullDocument, ...]
    next: str | None
    """Always null: pulls come in one page."""


def worker_document(worker: Worker) -> WorkerDocument:
    """Show a worker."""
    return WorkerDocument(
        id=worker.id,
        endpoint=worker.endpoint,
        revision=worker.revision,
        state=worker.state,
        cause=worker.cause,
        detail=worker.detail,
        failed=worker.failed,
        adopted=worker.adopted,
        gpu_uuids=worker.gpu_uuids,
        gpu_memory_mib=worker.gpu_slice.memory_mib if worker.gpu_slice else 0,
        address=worker.address,
        port=worker.port,
        created_at=timestamp(worker.created_at_ms),
        container_started_at=timestamp_or_none(worker.container_started_ns // _NS_PER_MS),
        container_finished_at=timestamp_or_none(worker.container_finished_ns // _NS_PER_MS),
        exit_code=worker.exit_code,
    )


def wait_documents(view: EndpointView) -> tuple[WaitDocument, ...]:
    """Show why an endpoint's wishes are not met."""
    return tuple(
        WaitDocument(
            reason=wait.reason,
            detail=wait.detail,
            facts=dict(wait.facts),
            until=timestamp_or_none(wait.until_ms),
            remedy=remedy(wait, view.endpoint.name),
        )
        for wait in view.waits
    )


def progress_document(progress: PullProgress) -> PullProgressDocument:
    """Show how far a pull is."""
    return PullProgressDocument(
        layers=progress.layers,
        layers_done=progress.layers_done,
        bytes_total=progress.bytes_total,
        bytes_done=progress.bytes_done,
    )


def pull_document(pin: str, progress: PullProgress) -> PullDocument:
    """Show a running pull."""
    return PullDocument(pin=pin, **dict(progress_document(progress)))


def _image_document(image: PinnedImage) -> PinnedImageDocument:
    return PinnedImageDocument(reference=image.reference, pin=image.pin, exposed_ports=image.exposed_ports)


def endpoint_document(view: EndpointView) -> EndpointDocument:
    """Show an endpoint."""
    endpoint = view.endpoint
    return EndpointDocument(
        name=endpoint.name,
        condition=view.condition,
        revision=endpoint.revision,
        spec=spec_document(endpoint.spec),
        image=_image_document(endpoint.image),
        desired=view.desired,
        scale_reason=view.scale_reason,
        waiting=view.waiting,
        in_flight=view.in_flight,
        workers=tuple(worker_document(worker) for worker in view.workers),
        standbys=tuple(standby_document(standby) for standby in view.standbys),
        waits=wait_documents(view),
        last_error=view.last_error,
        pull=progress_document(view.pull) if view.pull else None,
        serving=view.serving or endpoint.revision,
        rollout=rollout_document(view.rollout) if view.rollout else None,
        window=window_document(view.window) if view.window else None,
        forecast=forecast_document(view.prediction),
        created_at=timestamp(endpoint.created_at_ms),
        updated_at=timestamp(endpoint.updated_at_ms),
    )


def gpu_document(view: GpuView, reading: GpuReading | None) -> GpuDocument:
    """Show a GPU, and what it was read to do; None before it was read."""
    gpu, use = view.status.gpu, view.use
    holders = sorted(view.holders, key=lambda worker: (worker.created_at_ms, worker.id))
    return GpuDocument(
        uuid=gpu.uuid,
        name=gpu.name,
        index=gpu.index,
        memory_mib=gpu.memory_mib,
        numa_node=None if gpu.numa_node < 0 else gpu.numa_node,
        cpus=gpu.cpus,
        mig_parent=gpu.mig_parent,
        health=view.status.health,
        reason=view.status.reason,
        since=timestamp_or_none(view.status.since_ms),
        worker_id=holders[0].id if holders else None,
        endpoint=holders[0].endpoint if holders else None,
        shared_by=tuple(
            GpuShareDocument(worker_id=w.id, endpoint=w.endpoint, memory_mib=w.gpu_slice.memory_mib)
            for w in holders
            if w.gpu_slice
        ),
        used_mib=use.used_mib if use else None,
        pids=use.pids if use else None,
        utilization_percent=reading.gpu_percent if reading else None,
        power_w=reading.power_w if reading else None,
        temperature_c=reading.temperature_c if reading else None,
    )

"""What the API and the command line may ask of the fleet, and how it shows itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from gpud.core.prediction import Prediction

if TYPE_CHECKING:
    from gpud.core.endpoint import Endpoint, EndpointSpec
    from gpud.core.forecast import Forecast
    from gpud.core.gpu import GpuStatus, GpuUse
    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
    from gpud.core.revision import RevisionRecord
    from gpud.core.rollout import Rollout
    from gpud.core.standby import Standby
    from gpud.core.waiting import WaitReason
    from gpud.core.worker import Worker
    from gpud.ports.containers import EngineInfo
    from gpud.ports.images import ImageCollection, LocalImage, PullProgress


class EndpointCondition(StrEnum):
    """One word for how an endpoint is."""

    READY = "ready"
    STARTING = "starting"
    PULLING = "pulling"
    SLEEPING = "sleeping"
    WAITING_FOR_GPU = "waiting_for_gpu"
    FAILING = "failing"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """An endpoint's warm windows as they are now.

    Args:
        window: The open one that asks for most, in words; empty while none is open.
        workers: It keeps so many.
        edge_ms: Unix wall time at which one opens or closes next; None when none ever does.
    """

    window: str
    workers: int
    edge_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """An endpoint as it is now.

    Args:
        desired: Workers the scale policy wants.
        scale_reason: The policy's reason for `desired`.
        workers: Live ones (not GONE), oldest first.
        waiting: Requests held now.
        in_flight: Requests at workers now.
        waits: Unmet wishes; empty when all is as it should be.
        last_error: Of the last failed start; empty when none failed since the last READY.
        pull: Progress of its image's pull, while there is one.
        serving: The revision that serves; `endpoint.revision` is the one deployed.
        rollout: The way from one to the other, while there is one; else the last one.
        window: Its warm windows; None when it has none.
        prediction: What is known of the gaps between its requests, and what acting on it would have done.
        standbys: Kept for a fast start, oldest first.
    """

    endpoint: Endpoint
    condition: EndpointCondition
    desired: int
    scale_reason: str
    workers: tuple[Worker, ...]
    waiting: int
    in_flight: int
    waits: tuple[WaitReason, ...] = ()
    last_error: str = ""
    pull: PullProgress | None = None
    serving: Revision | None = None
    rollout: Rollout | None = None
    standbys: tuple[Standby, ...] = ()
    window: WindowView | None = None
    prediction: Prediction = field(default_factory=Prediction)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """A GPU as it is now.

    Args:
        holders: None, one, or those that share it.
        use: None when the source cannot tell.
    """

    status: GpuStatus
    holders: tuple[Worker, ...]
    use: GpuUse | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonHealth:
    """The daemon's own health.

    Args:
        ready: It serves requests and can start workers.
        parts: `store`, `engine`, `gpus`: empty string when well, else what is wrong and what to do.
        engine: As it was seen last; None before it ever answered.
        engine_warnings: What a person should know about it.
    """

    ready: bool
    version: str
    gpu_source: str
    uptime_s: float
    parts: dict[str, str]
    engine: EngineInfo | None = None
    engine_warnings: tuple[str, ...] = ()


class FleetControl(Protocol):
    """The fleet's one door: every change goes through the reconciler's task."""

    async def deploy(self, spec: EndpointSpec) -> tuple[Endpoint, bool]:
        """Create an endpoint or change it; True when it is new.

        Resolves the image when the spec names one that is not yet deployed.

        Raises:
            InvalidSpec: The box can never run it (more GPUs than there are, no port known).
            ImageNotFound, RegistryDenied, ImagePullFailed, NotFound (unknown registry name).
        """
        ...

    async def forecast(self, spec: EndpointSpec) -> Forecast:
        """Say what `deploy` would do, without doing it.

        Raises:
            What `deploy` raises.
        """
        ...

    async def delete_endpoint(self, name: EndpointName) -> None:
        """Drain and forget an endpoint.

        Raises:
            NotFound: There is none.
        """
        ...

    def endpoints(self) -> tuple[EndpointView, ...]:
        """Every endpoint, by name."""
        ...

    def endpoint(self, name: str) -> EndpointView:
        """One endpoint.

        Raises:
            NotFound: There is none; the message lists near names.
        """
        ...

    def live_workers(self) -> tuple[Worker, ...]:
        """Every live worker (not GONE), those of deleted endpoints too, oldest first."""
        ...

    def worker(self, worker_id: str) -> Worker:
        """One live worker.

        Raises:
            NotFound: There is none.
        """
        ...

    async def stop_worker(self, worker_id: WorkerId, *, force: bool) -> None:
        """Drain a worker, or kill it at once when forced.

        Raises:
            NotFound: There is none.
        """
        ...

    async def revisions(self, name: str) -> tuple[RevisionRecord, ...]:
        """Every revision an endpoint ever had, newest first.

        Raises:
            NotFound: There is no such endpoint.
        """
        ...

    async def rollback(self, name: EndpointName, wanted: str) -> Endpoint:
        """Go back: end the rollout under way, or roll out an earlier revision.

        Args:
            name: Of the endpoint.
            wanted: Number or beginning of the hash; empty for the revision before.

        Raises:
            NotFound: There is no such endpoint or revision.
            Conflict: There is nothing to go back to.
        """
        ...

    async def retry(self, name: EndpointName) -> None:
        """Forget an endpoint's start failures, so that it is tried at once."""
        ...

    async def gpus(self) -> tuple[GpuView, ...]:
        """Every GPU with its holder."""
        ...

    async def set_cordon(self, uuid: GpuUuid, *, cordoned: bool) -> None:
        """Take a GPU out of use, or bring it back whatever its health was.

        Raises:
            NotFound: There is none.
        """
        ...

    async def images(self) -> tuple[LocalImage, ...]:
        """Images on the box."""
        ...

    async def prewarm(self, reference: str, registry: str) -> str:
        """Resolve and pull an image in the background; returns its pin at once."""
        ...

    async def remove_image(self, pin: str) -> None:
        """Remove an image that no endpoint uses.

        Raises:
            Conflict: An endpoint or container uses it.
        """
        ...

    async def collect_images(self, *, dry_run: bool, everything: bool) -> ImageCollection:
        """Remove images that gpud pulled and nobody needs, until the disk budget holds.

        Args:
            dry_run: Only say what would go.
            everything: All that nobody needs, whether there is room or not.
        """
        ...

    def pulls(self) -> dict[str, PullProgress]:
        """Running pulls by pin."""
        ...

    def health(self) -> DaemonHealth:
        """How the daemon itself is."""
        ...

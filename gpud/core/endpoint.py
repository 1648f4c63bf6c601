"""What an endpoint is: its spec, what a legal spec is, and when two specs are the same revision.

Field names and defaults are those users write in TOML and JSON (see `docs/reference/endpoint.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gpud.core.ids import ENDPOINT_NAME, EndpointName, Revision
from gpud.core.rollout_policy import RolloutPolicy, require_rollout
from gpud.core.standby import StandbyPolicy
from gpud.core.windows import WarmWindow, require_windows
from gpud.errors import InvalidSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    _Require = Callable[[bool, str, str], None]


class EndpointType(StrEnum):
    """How work reaches the workers."""

    HTTP = "http"
    QUEUE = "queue"


class PolicyName(StrEnum):
    """Which rule decides the number of workers."""

    CONCURRENCY = "concurrency"
    QUEUE_DELAY = "queue_delay"
    REQUEST_COUNT = "request_count"
    FIXED = "fixed"


class Balance(StrEnum):
    """Which ready worker gets the next request."""

    ROUND_ROBIN = "round_robin"
    PACK = "pack"
    LEAST_INFLIGHT = "least_inflight"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNeeds:
    """What a worker needs of the box's GPUs.

    Args:
        count: Whole GPUs (or MIG devices) per worker; 0 is a CPU worker.
        memory_mib: Least memory each GPU must have; 0 for any.
        model: Only GPUs whose name contains this, case-insensitively; empty for any.
    """

    count: int = 1
    memory_mib: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePolicy:
    """How many workers, and how fast that changes. Applies at once, outside revisions.

    Args:
        min_workers: Kept running without load.
        max_workers: Never exceeded; 0 pauses the endpoint.
        policy: The rule.
        more_policies: Rules beside it; the largest wish wins.
        target: Requests per worker that `concurrency` and `request_count` aim for; 0 derives
            it from `concurrency`.
        queue_delay_s: Wait that `queue_delay` holds for fine.
        beta: Share of a cold start that `queue_delay` lets pass as wait.
        concurrency: Requests one worker takes at a time.
        activation_workers: Started at once when there is none.
        scale_down_delay_s: How long a smaller wish must last; counts up to `idle_timeout_s`.
        idle_timeout_s: How long the busiest recent moment is remembered before shrinking.
        priority: Larger goes first when GPUs are scarce.
        weight: Share of scarce GPUs beside others of the same priority.
        quantum_s: How long a worker may hold its GPUs before an equal may have them; 0 for
            three cold starts, 60 s at least.
        exclusive: Its idle workers give way to nobody.
        balance: Which ready worker gets the next request.
        warm_windows: When workers are kept though nobody calls; a wish, not a guarantee.
    """

    min_workers: int = 0
    max_workers: int = 1
    policy: PolicyName = PolicyName.CONCURRENCY
    more_policies: tuple[PolicyName, ...] = ()
    target: float = 0.0
    queue_delay_s: float = 4.0
    beta: float = 0.25
    concurrency: int = 8
    activation_workers: int = 1
    scale_down_delay_s: float = 30.0
    idle_timeout_s: float = 60.0
    priority: int = 0
    weight: float = 1.0
    quantum_s: float = 0.0
    exclusive: bool = False
    balance: Balance = Balance.ROUND_ROBIN
    warm_windows: tuple[WarmWindow, ...] = ()

    @property
    def guaranteed(self) -> int:
        """Workers the endpoint has a right to, whatever its load."""
        fixed = PolicyName.FIXED in (self.policy, *self.more_policies)
        return self.max_workers if fixed else self.min_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """When a worker counts as ready, and as unhealthy.

    Args:
        path: Answers 200..399 when the worker can serve.
        start_timeout_s: From container start to the first success.
        stall_timeout_s: Longest time of a start without any sign of progress; 0 for no such limit.
        period_s: Between readiness probes.
        timeout_s: For one probe.
        fail_threshold: Consecutive failures until out of rotation.
        not_ready_timeout_s: Out of rotation for this long means drained and replaced.
    """

    path: str = "/"
    start_timeout_s: float = 600.0
    stall_timeout_s: float = 300.0
    period_s: float = 5.0
    timeout_s: float = 2.0
    fail_threshold: int = 3
    not_ready_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What requests and containers may take.

    Args:
        request_timeout_s: For one request, from dispatch to its last byte.
        first_request_timeout_s: The same for requests to a worker that has not answered any yet; 0 for
            `request_timeout_s`.
        stream_idle_timeout_s: Longest silence inside an answer; 0 for any.
        max_queue: Requests held at once for this endpoint, shared among the keys that wait.
        queue_timeout_s: Longest hold; 0 means `start_timeout_s` + 30.
        drain_timeout_s: Longest wait for running requests when a worker drains.
        stop_grace_s: Between SIGTERM and SIGKILL.
        memory_mib: Container memory limit; 0 for none.
        cpus: Container CPU limit; 0 for none.
        shm_mib: Size of /dev/shm.
        pids: Most processes and threads in the container.
    """

    request_timeout_s: float = 600.0
    first_request_timeout_s: float = 0.0
    stream_idle_timeout_s: float = 300.0
    max_queue: int = 1000
    queue_timeout_s: float = 0.0
    drain_timeout_s: float = 300.0
    stop_grace_s: float = 30.0
    memory_mib: int = 0
    cpus: float = 0.0
    shm_mib: int = 1024
    pids: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A named volume, or a path below an allowed root, mounted into the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """Everything a user says about an endpoint. Illegal specs cannot be built.

    Args:
        name: `[a-z][a-z0-9-]{0,39}`.
        image: Image reference as the user wrote it.
        type: How work reaches the workers.
        command: Arguments after the image's entrypoint; empty keeps the image's own.
        port: Where the container listens; 0 takes the image's only exposed port.
        aliases: OpenAI model names routed here.
        registry: Name of a stored credential, for private images; empty for none.
        env: Plain environment of the container.
        public: Requests need no key.
        forward_authorization: Workers get the client's `Authorization` and `X-API-Key`.

    Raises:
        InvalidSpec: With one entry in `fields` for each fault.
    """

    name: EndpointName
    image: str
    type: EndpointType = EndpointType.HTTP
    command: tuple[str, ...] = ()
    port: int = 0
    aliases: tuple[str, ...] = ()
    registry: str = ""
    env: tuple[tuple[str, str], ...] = ()
    public: bool = False
    forward_authorization: bool = False
    gpus: GpuNeeds = field(default_factory=GpuNeeds)
    scale: ScalePolicy = field(default_factory=ScalePolicy)
    health: HealthCheck = field(default_factory=HealthCheck)
    limits: Limits = field(default_factory=Limits)
    volumes: tuple[Volume, ...] = ()
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    standby: StandbyPolicy = field(default_factory=StandbyPolicy)

    def __post_init__(self) -> None:
        faults = spec_faults(self)
        if faults:
            listed = "; ".join(f"{path}: {why}" for path, why in faults.items())
            raise InvalidSpec(f"The endpoint spec cannot be used: {listed}.", fields=faults)

    @property
    def hold_timeout_s(self) -> float:
        """Longest time a request is held, so that a start's own error is reported first."""
        return self.limits.queue_timeout_s or self.health.start_timeout_s + 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedImage:
    """An image resolved once, at deploy.

    Args:
        reference: As the user wrote it.
        pin: What the engine is asked for: `repository@sha256:…`, or `sha256:…` (an image id)
            for an image that was built here and never pushed.
        exposed_ports: TCP ports the image declares.
    """

    reference: str
    pin: str
    exposed_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A deployed endpoint: the present spec, its pinned image and revision.

    Args:
        spec: `spec.port` is never 0 here.
        image: Resolved at deploy.
        revision: Of spec and image together.
        created_at_ms: Unix wall time.
        updated_at_ms: Unix wall time.
    """

    spec: EndpointSpec
    image: PinnedImage
    revision: Revision
    created_at_ms: int
    updated_at_ms: int

    @property
    def name(self) -> EndpointName:
        """The spec's name."""
        return self.spec.name


def spec_faults(spec: EndpointSpec) -> dict[str, str]:
    """List what makes a spec unusable, by field path; empty when it is legal."""
    faults: dict[str, str] = {}

    def require(ok: bool, path: str, why: str) -> None:
        if not ok and path not in faults:
            faults[path] = why

    require(
        ENDPOINT_NAME.match(spec.name) is not None,
        "name",
        "must start with a letter and hold only a-z, 0-9 and '-', at most 40 characters",
    )
    require(
        bool(spec.image.strip()) and not any(c.isspace() for c in spec.image),
        "image",
        "must be an image reference such as repository/name:tag",
    )
    require(
        spec.type is EndpointType.HTTP,
        "type",
        "only 'http' endpoints can be deployed in this version",
    )
    require(0 <= spec.port <= 65535, "port", "must be 0 to 65535; 0 takes the image's only exposed port")
    _require_scale(spec, require)
    _require_health_and_limits(spec, require)
    _require_env_and_volumes(spec, require)
    require_rollout(spec.rollout, require)
    return faults


def _require_scale(spec: EndpointSpec, require: _Require) -> None:
    scale, gpus = spec.scale, spec.gpus
    require(0 <= gpus.count <= 64, "gpus.count", "must be 0 to 64")
    require(gpus.memory_mib >= 0, "gpus.memory_mib", "must be 0 or more")
    require(0 <= scale.max_workers <= 1000, "scale.max_workers", "must be 0 to 1000")
    require(
        0 <= scale.min_workers <= scale.max_workers,
        "scale.min_workers",
        "must be 0 to max_workers",
    )
    require(scale.target >= 0, "scale.target", "must be 0 (derived) or more")
    require(1 <= scale.concurrency <= 10_000, "scale.concurrency", "must be 1 to 10000")
    require(0 <= scale.idle_timeout_s <= 604_800, "scale.idle_timeout_s", "must be 0 to 604800 (7 days)")
    require(0.1 <= scale.queue_delay_s <= 3600, "scale.queue_delay_s", "must be 0.1 to 3600")
    require(0 <= scale.beta <= 1, "scale.beta", "must be 0 to 1")
    require(1 <= scale.activation_workers <= 1000, "scale.activation_workers", "must be 1 to 1000")
    require(0 <= scale.scale_down_delay_s <= 86_400, "scale.scale_down_delay_s", "must be 0 to 86400")
    require(0.01 <= scale.weight <= 100, "scale.weight", "must be 0.01 to 100")
    require(0 <= scale.quantum_s <= 86_400, "scale.quantum_s", "must be 0 (derived) to 86400")
    require(-100 <= scale.priority <= 100, "scale.priority", "must be -100 to 100")
    require_windows(scale.warm_windows, require, max_workers=scale.max_workers)
    require(1 <= spec.standby.workers <= 64, "standby.workers", "must be 1 to 64")


def _require_health_and_limits(spec: EndpointSpec, require: _Require) -> None:
    health, limits = spec.health, spec.limits
    require(_is_path(health.path), "health.path", "must start with '/' and hold only printable ASCII")
    require(1 <= health.start_timeout_s <= 86_400, "health.start_timeout_s", "must be 1 to 86400")
    require(
        health.stall_timeout_s == 0 or 1 <= health.stall_timeout_s <= 86_400,
        "health.stall_timeout_s",
        "must be 0 (no limit) or 1 to 86400",
    )
    require(0.1 <= health.period_s <= 3600, "health.period_s", "must be 0.1 to 3600")
    require(0.05 <= health.timeout_s <= 60, "health.timeout_s", "must be 0.05 to 60")
    require(1 <= health.fail_threshold <= 100, "health.fail_threshold", "must be 1 to 100")
    require(0 <= health.not_ready_timeout_s <= 86_400, "health.not_ready_timeout_s", "must be 0 to 86400")
    require(0.1 <= limits.request_timeout_s <= 604_800, "limits.request_timeout_s", "must be 0.1 to 604800")
    first_s, silent_s = limits.first_request_timeout_s, limits.stream_idle_timeout_s
    require(0 <= first_s <= 604_800, "limits.first_request_timeout_s", "must be 0 to 604800")
    require(0 <= silent_s <= 604_800, "limits.stream_idle_timeout_s", "must be 0 to 604800")
    require(0 <= limits.max_queue <= 100_000, "limits.max_queue", "must be 0 to 100000")
    require(0 <= limits.queue_timeout_s <= 86_400, "limits.queue_timeout_s", "must be 0 to 86400")
    require(0 <= limits.drain_timeout_s <= 604_800, "limits.drain_timeout_s", "must be 0 to 604800")
    require(0 <= limits.stop_grace_s <= 3600, "limits.stop_grace_s", "must be 0 to 3600")
    require(limits.memory_mib == 0 or limits.memory_mib >= 6, "limits.memory_mib", "must be 0 or at least 6")
    require(0 <= limits.cpus <= 4096, "limits.cpus", "must be 0 (no limit) to 4096")
    require(1 <= limits.shm_mib <= 1_048_576, "limits.shm_mib", "must be 1 to 1048576")
    require(16 <= limits.pids <= 4_194_304, "limits.pids", "must be 16 to 4194304")


def _require_env_and_volumes(spec: EndpointSpec, require: _Require) -> None:
    for key, value in spec.env:
        require(
            bool(key) and "=" not in key and "\0" not in key,
            f"env.{key}",
            "a variable's name must not be empty nor hold '='",
        )
        require("\0" not in value, f"env.{key}", "a variable's value must not hold a NUL")
        require(
            not key.startswith(("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")),
            f"env.{key}",
            "gpud pins the GPUs itself; say gpus.count and gpus.model instead",
        )
    for i, volume in enumerate(spec.volumes):
        require(
            volume.target.startswith("/")
            and volume.target != "/"
            and ".." not in PurePosixPath(volume.target).parts,
            f"volumes.{i}.target",
            "must be an absolute path inside the container",
        )
        require(bool(volume.source), f"volumes.{i}.source", "must name a volume or a path")
        require(
            "docker.sock" not in volume.source,
            f"volumes.{i}.source",
            "the engine's socket is never given to a worker",
        )


def _is_path(path: str) -> bool:
    return path.startswith("/") and path.isascii() and path.isprintable() and " " not in path

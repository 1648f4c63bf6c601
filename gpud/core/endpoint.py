"""What an endpoint is: its spec and its parts.

Field names and defaults are those users write in TOML and JSON (see `docs/reference/endpoint.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from gpud.core.job_spec import JobNeeds
from gpud.core.page_cache import PageCachePolicy
from gpud.core.request_rules import RequestRules
from gpud.core.rollout_policy import RolloutPolicy
from gpud.core.spec_faults import spec_faults
from gpud.core.standby import StandbyPolicy
from gpud.core.step_policy import PausePolicy, SleepPolicy
from gpud.errors import InvalidSpec

if TYPE_CHECKING:
    from gpud.core.ids import EndpointName, Revision
    from gpud.core.windows import WarmWindow


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


class Preempt(StrEnum):
    """What becomes of a worker that gives way to a higher priority and exceeds its drain timeout."""

    DRAIN = "drain"
    KILL = "kill"


class Balance(StrEnum):
    """Which ready worker gets the next request."""

    ROUND_ROBIN = "round_robin"
    PACK = "pack"
    LEAST_INFLIGHT = "least_inflight"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNeeds:
    """What a worker needs of the box's GPUs.

    Args:
        count: GPUs (or MIG devices) per worker; 0 is a CPU worker.
        memory_mib: Reserved of one GPU, which others may share; 0 takes whole GPUs.
        least_memory_mib: Least memory each GPU must have; 0 for any.
        model: Only GPUs whose name contains this, case-insensitively; empty for any.
    """

    count: int = 1
    memory_mib: int = 0
    least_memory_mib: int = 0
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
        idle_timeout_auto: It is the usual cold start instead, 30 s to 600 s.
        scale_to_zero_delay_s: The same for the last worker; 0 for no difference.
        priority: Larger goes first when GPUs are scarce.
        weight: Share of scarce GPUs beside others of the same priority.
        quantum_s: How long a worker may hold its GPUs before an equal may have them; 0 for
            three cold starts, 60 s at least.
        exclusive: Its idle workers give way to nobody.
        priority_aging_s: Waiting for this long raises its priority by one; 0 for never.
        preempt: What it does to a worker of lower priority that does not finish in time.
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
    idle_timeout_auto: bool = False
    scale_to_zero_delay_s: float = 0.0
    priority: int = 0
    weight: float = 1.0
    quantum_s: float = 0.0
    exclusive: bool = False
    priority_aging_s: float = 0.0
    preempt: Preempt = Preempt.DRAIN
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
    jobs: JobNeeds = field(default_factory=JobNeeds)
    volumes: tuple[Volume, ...] = ()
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    standby: StandbyPolicy = field(default_factory=StandbyPolicy)
    requests: RequestRules = field(default_factory=RequestRules)
    pause: PausePolicy = field(default_factory=PausePolicy)
    sleep: SleepPolicy = field(default_factory=SleepPolicy)
    page_cache: PageCachePolicy = field(default_factory=PageCachePolicy)

    def __post_init__(self) -> None:
        faults = spec_faults(self)
        if faults:
            listed = "; ".join(f"{path}: {why}" for path, why in faults.items())
            raise InvalidSpec(f"The endpoint spec cannot be used: {listed}.", fields=faults)

    @property
    def start_timeout_s(self) -> float:
        """From container start to the first success; RunPod's images may have it in their environment."""
        said = dict(self.env).get("RUNPOD_INIT_TIMEOUT", "") if self.type is EndpointType.QUEUE else ""
        told = said.isascii() and said.isdigit() and len(said) <= len("86400")
        return min(max(float(said), 1.0), 86_400.0) if told else self.health.start_timeout_s

    @property
    def hold_timeout_s(self) -> float:
        """Longest time a request is held, so that a start's own error is reported first."""
        return self.limits.queue_timeout_s or self.start_timeout_s + 30.0


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

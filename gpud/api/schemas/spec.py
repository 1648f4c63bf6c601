"""An endpoint's spec as JSON, and the way to and from the core's own form.

Bounds stand here so that the OpenAPI document tells them; the core's rules are the ones that hold,
and a test compares the two.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from gpud.api.schemas.base import Document
from gpud.api.schemas.page_cache import PageCacheSection, page_cache_section
from gpud.api.schemas.request_rules import RequestsSection, requests_section
from gpud.api.schemas.steps import PauseSection, SleepSection, sleep_policy, sleep_section
from gpud.core.endpoint import (
    Balance,
    EndpointSpec,
    EndpointType,
    GpuNeeds,
    HealthCheck,
    Limits,
    PolicyName,
    Preempt,
    ScalePolicy,
    Volume,
)
from gpud.core.ids import ENDPOINT_NAME, EndpointName
from gpud.core.job_spec import JobNeeds, OnAdopt
from gpud.core.page_cache import PageCachePolicy
from gpud.core.request_rules import RequestRules
from gpud.core.rollout_policy import RolloutPolicy, RolloutStrategy, SmokeRequest
from gpud.core.standby import StandbyMode, StandbyPolicy
from gpud.core.step_policy import PausePolicy
from gpud.core.windows import WINDOWS_MAX, WarmWindow

_GPUS = GpuNeeds()
_SCALE = ScalePolicy()
_HEALTH = HealthCheck()
_LIMITS = Limits()
_SMOKE = SmokeRequest()
_ROLLOUT = RolloutPolicy()
_STANDBY = StandbyPolicy()
_JOBS = JobNeeds()

_MIB_MAX = 1 << 30
Text = Annotated[str, Field(max_length=65_536)]
Alias = Annotated[str, Field(min_length=1, max_length=200)]


def _legal_name(name: str) -> str:
    if not ENDPOINT_NAME.match(name):
        raise ValueError("must start with a letter and hold only a-z, 0-9 and '-', at most 40 characters")
    return name


Name = Annotated[
    str,
    AfterValidator(_legal_name),
    Field(json_schema_extra={"pattern": "^[a-z][a-z0-9-]{0,39}$"}),
]


class GpusSection(Document):
    """What a worker needs of the box's GPUs."""

    count: Annotated[int, Field(ge=0, le=64)] = _GPUS.count
    """GPUs (or MIG devices) per worker; 0 is a CPU worker."""
    memory_mib: Annotated[int, Field(ge=0, le=_MIB_MAX)] = _GPUS.memory_mib
    """Reserved of one GPU, which others may share then; `count` must be 1. 0 takes whole GPUs."""
    least_memory_mib: Annotated[int, Field(ge=0, le=_MIB_MAX)] = _GPUS.least_memory_mib
    """Least memory each GPU must have in all; 0 for any."""
    model: Annotated[str, Field(max_length=200)] = _GPUS.model
    """Only GPUs whose name contains this, whatever the case; empty for any."""


class WarmWindowSection(Document):
    """Hours in which workers are kept though nobody calls, as long as no other endpoint needs their GPUs."""

    start: Annotated[str, Field(min_length=1, max_length=200)]
    """Cron expression of its beginning, five fields, such as `0 8 * * MON-FRI`."""
    duration_s: Annotated[float, Field(ge=0, le=604_800)] = 0.0
    """Seconds it lasts; 0 where `end` is given. One of the two is needed."""
    end: Annotated[str, Field(max_length=200)] = ""
    """Cron expression of its end."""
    time_zone: Annotated[str, Field(min_length=1, max_length=100)] = "UTC"
    """Of both expressions: an IANA name such as `Europe/Berlin`."""
    workers: Annotated[int, Field(ge=1, le=1000)] = 1
    """Kept while it lasts; at most `max_workers`. Of several open windows the largest counts."""


class ScaleSection(Document):
    """How many workers there are, and how fast that changes. A change applies at once."""

    min_workers: Annotated[int, Field(ge=0, le=1000)] = _SCALE.min_workers
    """Kept running without load; at most `max_workers`."""
    max_workers: Annotated[int, Field(ge=0, le=1000)] = _SCALE.max_workers
    """Never exceeded; 0 pauses the endpoint."""
    policy: PolicyName = _SCALE.policy
    """The rule that decides: `concurrency` follows the load, `queue_delay` starts a worker only for work the
    present ones will not have done by then, `request_count` is one for so many requests, `fixed` keeps
    `max_workers`."""
    more_policies: Annotated[tuple[PolicyName, ...], Field(max_length=4)] = _SCALE.more_policies
    """Rules beside it; the largest wish wins."""
    target: Annotated[float, Field(ge=0, le=1_000_000)] = _SCALE.target
    """Requests per worker that `concurrency` and `request_count` aim for; 0 derives it from `concurrency`."""
    queue_delay_s: Annotated[float, Field(ge=0.1, le=3600)] = _SCALE.queue_delay_s
    """Wait in seconds that `queue_delay` holds for fine."""
    beta: Annotated[float, Field(ge=0, le=1)] = _SCALE.beta
    """Share of a cold start that `queue_delay` lets pass as wait: 0 for least wait, 0.5 for thrift."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = _SCALE.concurrency
    """Requests one worker takes at a time; of a queue endpoint the jobs that it is planned with, 1 unless
    said."""
    activation_workers: Annotated[int, Field(ge=1, le=1000)] = _SCALE.activation_workers
    """Started at once when there is none."""
    scale_down_delay_s: Annotated[float, Field(ge=0, le=86_400)] = _SCALE.scale_down_delay_s
    """Seconds for which a smaller wish must last; counts up to `idle_timeout_s`."""
    idle_timeout_s: Annotated[float, Field(ge=0, le=604_800)] = _SCALE.idle_timeout_s
    """Seconds for which the busiest recent moment is remembered before workers are taken away."""
    idle_timeout_auto: bool = _SCALE.idle_timeout_auto
    """Instead of `idle_timeout_s` the usual cold start counts, but at least 30 and at most 600 seconds."""
    scale_to_zero_delay_s: Annotated[float, Field(ge=0, le=604_800)] = _SCALE.scale_to_zero_delay_s
    """The idle timeout of the last worker; 0 for the same as of all. `scale_down_delay_s` holds before it."""
    priority: Annotated[int, Field(ge=-100, le=100)] = _SCALE.priority
    """The larger goes first when GPUs are scarce."""
    weight: Annotated[float, Field(ge=0.01, le=100)] = _SCALE.weight
    """Share of scarce GPUs beside others of the same priority."""
    quantum_s: Annotated[float, Field(ge=0, le=86_400)] = _SCALE.quantum_s
    """Seconds for which a worker keeps its GPUs from equals; 0 for three cold starts, at least 60."""
    exclusive: bool = _SCALE.exclusive
    """Its idle workers give way to nobody."""
    priority_aging_s: Annotated[float, Field(ge=0, le=86_400)] = _SCALE.priority_aging_s
    """Every so many seconds that its oldest request waits raise its priority by one; 0 for never."""
    preempt: Preempt = _SCALE.preempt
    """A busy worker of lower priority that gives way to this endpoint and has not finished after its
    `drain_timeout_s` is stopped with its grace (`drain`) or without (`kill`)."""
    balance: Balance = _SCALE.balance
    """Which one of several ready workers gets the next request."""
    warm_windows: Annotated[tuple[WarmWindowSection, ...], Field(max_length=WINDOWS_MAX)] = ()
    """Hours in which workers are kept though nobody calls."""


class HealthSection(Document):
    """When a worker counts as ready, and as unhealthy."""

    path: Annotated[str, Field(max_length=2000)] = _HEALTH.path
    """A worker is ready once this path answers with a status from 200 to 399."""
    start_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = _HEALTH.start_timeout_s
    """Seconds from the container's start to the first good answer."""
    stall_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = _HEALTH.stall_timeout_s
    """Seconds of a start without new output, CPU use, change of memory or other answer of its probe, after
    which it fails; 0 for no such limit, otherwise at least 1."""
    period_s: Annotated[float, Field(ge=0.1, le=3600)] = _HEALTH.period_s
    """Seconds between probes of a ready worker."""
    timeout_s: Annotated[float, Field(ge=0.05, le=60)] = _HEALTH.timeout_s
    """Seconds one probe may take."""
    fail_threshold: Annotated[int, Field(ge=1, le=100)] = _HEALTH.fail_threshold
    """Failed probes in a row that take a worker out of rotation."""
    not_ready_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = _HEALTH.not_ready_timeout_s
    """Seconds out of rotation after which a worker is drained and replaced."""


class LimitsSection(Document):
    """What requests and containers may take."""

    request_timeout_s: Annotated[float, Field(ge=0.1, le=604_800)] = _LIMITS.request_timeout_s
    """Seconds for one request, from dispatch to its last byte."""
    first_request_timeout_s: Annotated[float, Field(ge=0, le=604_800)] = _LIMITS.first_request_timeout_s
    """The same for requests to a worker that has not answered any yet, which may be slow; 0 for
    `request_timeout_s`."""
    stream_idle_timeout_s: Annotated[float, Field(ge=0, le=604_800)] = _LIMITS.stream_idle_timeout_s
    """Longest silence in seconds inside an answer that has begun; 0 for any."""
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = _LIMITS.max_queue
    """Requests held at once for this endpoint. When they are as many, a key that holds less than its share
    takes a place of the key that holds most."""
    queue_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = _LIMITS.queue_timeout_s
    """Longest hold in seconds; 0 means `health.start_timeout_s` + 30."""
    drain_timeout_s: Annotated[float, Field(ge=0, le=604_800)] = _LIMITS.drain_timeout_s
    """Longest wait in seconds for running requests when a worker drains."""
    stop_grace_s: Annotated[float, Field(ge=0, le=3600)] = _LIMITS.stop_grace_s
    """Seconds between SIGTERM and SIGKILL."""
    memory_mib: Annotated[int, Field(ge=0, le=_MIB_MAX)] = _LIMITS.memory_mib
    """Memory limit of the container, 0 or at least 6; 0 for none."""
    cpus: Annotated[float, Field(ge=0, le=4096)] = _LIMITS.cpus
    """CPU limit of the container; 0 for none."""
    shm_mib: Annotated[int, Field(ge=1, le=1_048_576)] = _LIMITS.shm_mib
    """Size of /dev/shm."""
    pids: Annotated[int, Field(ge=16, le=4_194_304)] = _LIMITS.pids
    """Most processes and threads in the container."""


class SmokeSection(Document):
    """One request that a new revision must answer well before it takes over."""

    path: Annotated[str, Field(max_length=2000)] = _SMOKE.path
    """Must answer with a status from 200 to 399; empty for no such request."""
    body: Annotated[str, Field(max_length=65_536)] = _SMOKE.body
    """Sent as JSON in a POST; empty sends a GET."""
    timeout_s: Annotated[float, Field(ge=0.05, le=3600)] = _SMOKE.timeout_s
    """Seconds it may take."""


class RolloutSection(Document):
    """How careful a change of revision is. A change of these settings applies at once."""

    strategy: RolloutStrategy = _ROLLOUT.strategy
    """`rolling` tries one new worker beside the old ones, or in the place of one where no GPU is free;
    `recreate` stops all old workers first."""
    verify: bool = _ROLLOUT.verify
    """An endpoint without workers starts one of the new revision to try it."""
    min_healthy_time_s: Annotated[float, Field(ge=0, le=86_400)] = _ROLLOUT.min_healthy_time_s
    """Seconds the first new worker must be ready before the others follow."""
    progress_deadline_s: Annotated[float, Field(ge=1, le=86_400)] = _ROLLOUT.progress_deadline_s
    """Seconds a step may take, waiting for the image or for GPUs left out; then the old revision returns."""
    smoke: SmokeSection = SmokeSection()
    """One request that must go well."""


class JobsSection(Document):
    """How jobs reach the workers. A change applies at once, to the next delivery."""

    path: Annotated[str, Field(max_length=2000)] = _JOBS.path
    """Jobs are POSTed to this path of a worker with a free slot."""
    cancel_path: Annotated[str, Field(max_length=2000)] = _JOBS.cancel_path
    """A worker is asked here to stop a job; empty when it cannot be asked, and is replaced instead."""
    status_path: Annotated[str, Field(max_length=2000)] = _JOBS.status_path
    """After a restart of gpud a worker is asked here, with `/<job id>` added, what became of its job; empty
    when it cannot tell, and the job runs again."""
    execution_timeout_s: Annotated[float, Field(ge=5, le=604_800)] = _JOBS.execution_timeout_s
    """Seconds for one attempt, unless the job says otherwise."""
    max_attempts: Annotated[int, Field(ge=1, le=25)] = _JOBS.max_attempts
    """Attempts that failed until a job is dead, unless the job says otherwise."""
    on_adopt: OnAdopt = _JOBS.on_adopt
    """A worker that ran a job when the daemon was killed is replaced (`recycle`) or used on (`wait`); `auto`
    replaces those with one slot, so that no job runs twice at once on one GPU."""


class VolumeSection(Document):
    """A named volume, or a path below an allowed root, mounted into the container."""

    source: Annotated[str, Field(min_length=1, max_length=4096)]
    """Name of a volume, or a path below one of the daemon's `paths.volume_roots`."""
    target: Annotated[str, Field(min_length=2, max_length=4096)]
    """Absolute path inside the container."""
    read_only: bool = False
    """Mounted so that the container cannot write."""


class StandbySection(Document):
    """What is kept for a fast return, besides the workers that serve. A change applies at once."""

    mode: StandbyMode = _STANDBY.mode
    """The rung that is kept: `parked` is a running container whose command is held back until it is wanted,
    `created` one that is not started; neither holds a GPU. Where a rung cannot be had, the lower one is."""
    workers: Annotated[int, Field(ge=1, le=64)] = _STANDBY.workers
    """How many; together with those that serve never more than `scale.max_workers`."""


class EndpointSpecDocument(Document):
    """Everything a user says about an endpoint."""

    name: Name
    """A letter, then a-z, 0-9 and '-'; at most 40 characters."""
    image: Annotated[str, Field(min_length=1, max_length=1000)]
    """Image reference, resolved to a digest once, at deploy."""
    type: EndpointType = EndpointType.HTTP
    """How work reaches the workers: `http` forwards requests and posts jobs to a port, `queue` has workers
    fetch jobs as RunPod's SDK does. An endpoint keeps its type for life."""
    command: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()
    """Arguments after the image's entrypoint; empty keeps the image's own."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Where the container listens; 0 takes the image's only exposed port."""
    aliases: Annotated[tuple[Alias, ...], Field(max_length=100)] = ()
    """OpenAI model names routed here."""
    registry: Annotated[str, Field(max_length=40)] = ""
    """Name of a stored registry credential, for private images; empty for none."""
    env: Annotated[dict[str, Text], Field(max_length=1000)] = Field(default_factory=dict)
    """Environment of the container. Readable through this API: not a place for secrets."""
    public: bool = False
    """Requests to the endpoint need no key."""
    forward_authorization: bool = False
    """Workers get the client's `Authorization` and `X-API-Key` fields: for public endpoints with keys of
    their own."""
    gpus: GpusSection = GpusSection()
    """What each worker needs of the box's GPUs."""
    scale: ScaleSection = ScaleSection()
    """How many workers there are."""
    health: HealthSection = HealthSection()
    """When a worker is ready."""
    limits: LimitsSection = LimitsSection()
    """What requests and workers may take."""
    standby: StandbySection = StandbySection()
    """What is kept for a fast return."""
    pause: PauseSection = PauseSection()
    """When an idle worker is frozen."""
    sleep: SleepSection = SleepSection()
    """When an idle worker gives its GPUs back and stays alive."""
    page_cache: PageCacheSection = PageCacheSection()
    """What is read from disk ahead of a start."""
    jobs: JobsSection = JobsSection()
    """How jobs reach the workers."""
    requests: RequestsSection = RequestsSection()
    """How single requests are treated."""
    volumes: Annotated[tuple[VolumeSection, ...], Field(max_length=100)] = ()
    """Mounted into each worker's container."""
    rollout: RolloutSection = RolloutSection()
    """How the endpoint goes from one revision to the next."""

    @property
    def _concurrency(self) -> int:
        """As said; a worker that fetches its jobs takes one at a time unless its handler says otherwise."""
        if self.type is EndpointType.QUEUE and "concurrency" not in self.scale.model_fields_set:
            return 1
        return self.scale.concurrency

    def to_spec(self) -> EndpointSpec:
        """Build the core's spec.

        Raises:
            InvalidSpec: The core has a rule against it; `fields` names each fault.
        """
        windows = tuple(WarmWindow(**dict(window)) for window in self.scale.warm_windows)
        return EndpointSpec(
            name=EndpointName(self.name),
            image=self.image,
            type=self.type,
            command=self.command,
            port=self.port,
            aliases=self.aliases,
            registry=self.registry,
            env=tuple(self.env.items()),
            public=self.public,
            forward_authorization=self.forward_authorization,
            gpus=GpuNeeds(**dict(self.gpus)),
            scale=ScalePolicy(
                **{**dict(self.scale), "warm_windows": windows, "concurrency": self._concurrency}
            ),
            health=HealthCheck(**dict(self.health)),
            limits=Limits(**dict(self.limits)),
            standby=StandbyPolicy(**dict(self.standby)),
            pause=PausePolicy(**dict(self.pause)),
            sleep=sleep_policy(self.sleep),
            page_cache=PageCachePolicy(**dict(self.page_cache)),
            jobs=JobNeeds(**dict(self.jobs)),
            requests=RequestRules(**dict(self.requests)),
            volumes=tuple(Volume(**dict(volume)) for volume in self.volumes),
            rollout=RolloutPolicy(
                **{**dict(self.rollout), "smoke": SmokeRequest(**dict(self.rollout.smoke))}
            ),
        )


def spec_document(spec: EndpointSpec) -> EndpointSpecDocument:
    """Show a spec as JSON does; every default is written out."""
    gpus, scale, health, limits = spec.gpus, spec.scale, spec.health, spec.limits
    shown = {n: getattr(scale, n) for n in ScaleSection.model_fields}
    shown["warm_windows"] = tuple(
        WarmWindowSection.model_construct(**{n: getattr(w, n) for n in WarmWindowSection.model_fields})
        for w in scale.warm_windows
    )
    return EndpointSpecDocument.model_construct(
        name=spec.name,
        image=spec.image,
        type=spec.type,
        command=spec.command,
        port=spec.port,
        aliases=spec.aliases,
        registry=spec.registry,
        env=dict(spec.env),
        public=spec.public,
        forward_authorization=spec.forward_authorization,
        gpus=GpusSection.model_construct(**{n: getattr(gpus, n) for n in GpusSection.model_fields}),
        scale=ScaleSection.model_construct(**shown),
        health=HealthSection.model_construct(**{n: getattr(health, n) for n in HealthSection.model_fields}),
        limits=LimitsSection.model_construct(**{n: getattr(limits, n) for n in LimitsSection.model_fields}),
        standby=StandbySection.model_construct(
            **{n: getattr(spec.standby, n) for n in StandbySection.model_fields}
        ),
        pause=PauseSection.model_construct(after_idle_s=spec.pause.after_idle_s),
        sleep=sleep_section(spec.sleep),
        page_cache=page_cache_section(spec.page_cache),
        jobs=JobsSection.model_construct(**{n: getattr(spec.jobs, n) for n in JobsSection.model_fields}),
        requests=requests_section(spec.requests),
        volumes=tuple(
            VolumeSection.model_construct(source=v.source, target=v.target, read_only=v.read_only)
            for v in spec.volumes
        ),
        rollout=_rollout_section(spec.rollout),
    )


def _rollout_section(policy: RolloutPolicy) -> RolloutSection:
    smoke = {name: getattr(policy.smoke, name) for name in SmokeSection.model_fields}
    shown = {name: getattr(policy, name) for name in RolloutSection.model_fields}
    return RolloutSection.model_construct(**{**shown, "smoke": SmokeSection.model_construct(**smoke)})

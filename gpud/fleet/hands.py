"""What the parts of the fleet share: the ports, the clock and the way back to the reconciler."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gpud.core.endpoint import EndpointType
from gpud.core.image_gc import ImagePolicy
from gpud.core.pricing import Tariff
from gpud.core.redaction import Redactor, secret_values
from gpud.errors import StoreUnusable, Unavailable
from gpud.ports.logs import LogCapture, NoLogCapture
from gpud.ports.worker_line import NoLine

if TYPE_CHECKING:
    from gpud.core.budget import Budget
    from gpud.core.endpoint import Endpoint
    from gpud.core.gpu import GpuAttach
    from gpud.core.ids import GpuUuid, WorkerId
    from gpud.core.worker import Worker
    from gpud.fleet.reconciler import Reconciler
    from gpud.fleet.state import FleetState
    from gpud.ports.containers import ContainerRuntime
    from gpud.ports.gpus import GpuInventory
    from gpud.ports.images import ImageStore
    from gpud.ports.probes import HealthProbe
    from gpud.ports.store import AccessStore
    from gpud.ports.time import Clock, IdSource
    from gpud.ports.traffic import Traffic
    from gpud.ports.worker_line import WorkerLine


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """What the fleet is told by gpud.toml, in the core's words.

    Args:
        parallel_starts: Container starts at once.
        gpu_attach: How the engine is told which GPUs a container gets.
        idle_memory_mib_max: More than this in use before a start, and the GPU is quarantined.
        release_timeout_s: How long a GPU may take to show its memory back.
        history_days: How long the record of requests is kept; 0 keeps none.
        stats_step_s: Between looks at what workers and GPUs use.
        headroom_mib: Of every shared GPU, reserved for nobody.
        images: What images may take on the disk, and when they are looked after.
        tariff: What GPUs cost.
        budgets: What endpoints and keys may use.
        budgets_every_s: Between looks at what they used.
    """

    parallel_starts: int
    gpu_attach: GpuAttach
    idle_memory_mib_max: int
    release_timeout_s: float
    history_days: float = 8.0
    headroom_mib: int = 0
    stats_step_s: float = 10.0
    images: ImagePolicy = field(default_factory=ImagePolicy)
    tariff: Tariff = field(default_factory=Tariff)
    budgets: tuple[Budget, ...] = ()
    budgets_every_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """Everything an action needs; built once by the composition root."""

    runtime: ContainerRuntime
    images: ImageStore
    gpus: GpuInventory
    probe: HealthProbe
    access: AccessStore
    traffic: Traffic
    clock: Clock
    ids: IdSource
    reconciler: Reconciler
    settings: FleetSettings
    logs: LogCapture = field(default_factory=NoLogCapture)
    line: WorkerLine = field(default_factory=NoLine)

    @property
    def state(self) -> FleetState:
        """The fleet, to read."""
        return self.reconciler.state

    def endpoint_of(self, worker: Worker) -> Endpoint | None:
        """The endpoint as it was when the worker was made, or else as it is now."""
        return self.state.made_for.get(worker.id) or self.state.endpoints.get(worker.endpoint)

    def note(self, worker_id: WorkerId, detail: str) -> None:
        """Say what a worker is waiting for; shown to people, written with its next move."""

        def apply() -> None:
            worker = self.state.workers.get(worker_id)
            if worker is not None and worker.detail != detail:
                self.state.workers[worker_id] = replace(worker, detail=detail)

        self.reconciler.tell(apply)

    async def secrets_of(self, worker_id: WorkerId) -> tuple[str, ...]:
        """What is never written down of a worker's output: secret variables, the registry's password.

        Raises:
            GpudError: The store does not answer.
        """
        worker = self.state.workers.get(worker_id)
        endpoint = self.endpoint_of(worker) if worker else None
        if endpoint is None:
            return ()
        registry = endpoint.spec.registry
        try:
            credential = await self.access.registry(registry) if registry else None
        except StoreUnusable:
            credential = None  # It cannot be decrypted: no pull used it, and no worker is ever told it.
        told = (*endpoint.spec.env, *self._line_of(endpoint, worker_id))
        return (*secret_values(told), *((credential.password,) if credential else ()))

    def _line_of(self, endpoint: Endpoint, worker_id: WorkerId) -> tuple[tuple[str, str], ...]:
        """What a worker that fetches its jobs is told of where and as whom to call."""
        if endpoint.spec.type is not EndpointType.QUEUE:
            return ()
        try:
            return self.line.environment(endpoint.name, worker_id, gpu_name="", gpu_count=0)
        except Unavailable:
            return ()  # no listener, so no token either

    async def last_output(self, worker_id: WorkerId, *, bytes_max: int) -> str:
        """The last output of a worker's container, without its secrets.

        Raises:
            DependencyDown: The engine does not answer.
        """
        redactor = Redactor(await self.secrets_of(worker_id))
        # More is read than is shown, so that a secret at the cut is seen whole.
        longer = bytes_max + redactor.longest_bytes
        return redactor.clean_text(await self.runtime.log_tail(worker_id, bytes_max=longer))[-bytes_max:]

    def verifies(self, gpu_uuids: tuple[GpuUuid, ...]) -> bool:
        """Whether the inventory can tell what runs on these GPUs."""
        return bool(gpu_uuids) and self.gpus.source == "nvml"

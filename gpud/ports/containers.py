"""What the fleet needs from a container engine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from gpud.core.gpu import GpuAttach

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gpud.core.endpoint import PinnedImage, Volume
    from gpud.core.ids import EndpointName, GpuUuid, Revision, WorkerId
    from gpud.core.stalls import Activity


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrypointHold:
    """What keeps a container's own command from running until it is told to.

    Args:
        program: Host path of a static program that gets `directory` and then the whole command.
        directory: Host path of what it listens to; mounted for this container alone.
    """

    program: str
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLaunch:
    """All that is needed to create and start one worker's container.

    Args:
        worker_id: Names the container.
        generation: For the label; a container of another generation is inconsistent.
        image: What the engine is asked for is `image.pin`.
        env: Plain environment, gpud's own variables included.
        cpuset: CPUs near the GPUs; empty for all.
        memory_nodes: NUMA nodes near the GPUs, such as `0`; empty for all.
        hold: Keeps the command back; None runs it at once.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    revision: Revision
    generation: int
    image: PinnedImage
    port: int
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    gpu_uuids: tuple[GpuUuid, ...] = ()
    gpu_attach: GpuAttach = GpuAttach.AUTO
    cpuset: str = ""
    memory_nodes: str = ""
    memory_mib: int = 0
    cpus: float = 0.0
    shm_mib: int = 1024
    pids: int = 4096
    volumes: tuple[Volume, ...] = ()
    hold: EntrypointHold | None = None


class ContainerStatus(StrEnum):
    """The engine's word on a container, reduced to what gpud acts on."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenContainer:
    """A container with our install label, as the engine shows it.

    Args:
        gpu_uuids: From the `gpud.gpus` label.
        address: Its IP on gpud's network; empty unless running.
        created_ns: Unix nanoseconds.
        started_ns: Unix nanoseconds; 0 when never started.
        finished_ns: Unix nanoseconds; 0 while running or never started.
        pid: Host pid of its first process; 0 unless running.
        error: The engine's own words on a failed start.
        paused: The engine paused it.
        create_s: How long this very call took to create the container; 0 when it was there.
    """

    worker_id: WorkerId
    endpoint: EndpointName
    revision: Revision
    generation: int
    status: ContainerStatus
    gpu_uuids: tuple[GpuUuid, ...] = ()
    address: str = ""
    created_ns: int = 0
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    out_of_memory: bool = False
    pid: int = 0
    error: str = ""
    create_s: float = 0.0
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the engine says about itself.

    Args:
        version: Such as `28.5.1`.
        runtimes: Names of OCI runtimes it knows.
        default_runtime: The one it uses by itself.
        runtime: The one workers are started with; empty for its default.
        gpu_device_requests: It accepts `driver=nvidia` device requests, as far as it tells.
        cdi: It knows CDI devices.
    """

    version: str
    api_version: str
    storage_driver: str = ""
    cgroup_driver: str = ""
    cgroup_version: str = ""
    runtimes: tuple[str, ...] = ()
    default_runtime: str = ""
    runtime: str = ""
    gpu_device_requests: bool = False
    cdi: bool = False
    live_restore: bool = False


class ContainerRuntime(Protocol):
    """Worker containers of this install, and no others.

    Every method raises DependencyDown when the engine does not answer in time.
    """

    async def ping(self) -> EngineInfo:
        """Ask the engine who it is."""
        ...

    async def prepare(self) -> None:
        """Make the network of the workers if it is missing."""
        ...

    async def start_worker(self, launch: WorkerLaunch) -> SeenContainer:
        """Create and start the container of one worker and tell where it listens.

        Safe to repeat: a container of that name and generation is adopted, one that was
        created but not started is started.

        Raises:
            ImageNotFound: The engine has no such image; this never pulls.
            LaunchFailed: The engine refused; `permanent` when the same again cannot help.
        """
        ...

    async def create_worker(self, launch: WorkerLaunch) -> SeenContainer:
        """Create the container of one worker without starting it; one that is there is left as it is.

        Raises:
            ImageNotFound: The engine has no such image; this never pulls.
            LaunchFailed: The engine refused; `permanent` when the same again cannot help.
        """
        ...

    async def inspect_worker(self, worker_id: WorkerId) -> SeenContainer | None:
        """Look at one worker's container; None when there is none."""
        ...

    async def list_workers(self) -> tuple[SeenContainer, ...]:
        """Look at every container with this install's label, running or not."""
        ...

    async def stop_worker(self, worker_id: WorkerId, *, grace_s: float) -> SeenContainer | None:
        """SIGTERM, wait `grace_s`, SIGKILL; return the exited container, None when absent."""
        ...

    async def remove_worker(self, worker_id: WorkerId) -> None:
        """Remove the container, running or not; absent is fine."""
        ...

    async def log_tail(self, worker_id: WorkerId, *, bytes_max: int) -> str:
        """The last output of the container, stdout and stderr together; empty when absent."""
        ...

    async def activity(self, worker_id: WorkerId) -> Activity | None:
        """What a running container has done so far; None when it does not run. Not for every second."""
        ...

    async def pids(self, worker_id: WorkerId) -> tuple[int, ...]:
        """Host pids of the container's processes; empty when absent."""
        ...

    def watch(self) -> AsyncGenerator[WorkerId, None]:
        """Yield workers whose container started, died, ran out of memory or was removed.

        Hints only: events may be lost, repeated or late. Ends when the engine's stream ends.
        """
        ...

"""Creates and starts the containers of workers: the engine's calls on the way of a cold start."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from docker.errors import APIError, NotFound

from gpud.adapters.docker_command import command_of
from gpud.adapters.docker_errors import is_missing_network, launch_errors
from gpud.adapters.docker_launch import attach_for, create_body, mounts_for
from gpud.adapters.docker_network import ensure_network
from gpud.adapters.docker_seen import engine_info, seen_container
from gpud.core.engine_advice import AUTO, runtime_for
from gpud.core.gpu import GpuAttach
from gpud.core.ids import container_name
from gpud.errors import LaunchFailed
from gpud.ports.containers import ContainerStatus, EngineInfo, SeenContainer, WorkerLaunch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import docker

    from gpud.adapters.docker_client import DockerClients
    from gpud.settings import DockerSettings

log = structlog.get_logger()

_NAME_TAKEN_TRIES = 50
_PAUSE_S = 0.1


class DockerStarter:
    """Part of `DockerRuntime`: blocking, called on its threads.

    Args:
        settings: The engine and the workers' network.
        install_id: For the label.
        clients: Of the engine.
        attach: How GPUs are attached where a launch leaves it to `auto`.
        volume_roots: Host paths below which volumes may be bound.
    """

    def __init__(
        self,
        settings: DockerSettings,
        install_id: str,
        clients: DockerClients,
        *,
        attach: GpuAttach,
        volume_roots: Sequence[Path],
    ) -> None:
        self._settings = settings
        self._install_id = install_id
        self._clients = clients
        self._attach = attach
        self._volume_roots = tuple(volume_roots)
        self._engine: EngineInfo | None = None
        self._preparing = threading.Lock()
        self._fast_runtime_refused = False
        host = settings.host
        self._socket = Path(host.removeprefix("unix://")) if host.startswith("unix://") else None

    def ping(self) -> EngineInfo:
        """Ask the engine who it is, and speak its API version from now on."""
        client = self._clients.get()
        version = client.version(api_version=False)
        self._clients.pin_version(version["ApiVersion"])
        seen = engine_info(version, self._clients.get().info())
        self._engine = replace(seen, runtime=self._runtime_of(seen))
        return self._engine

    def _runtime_of(self, engine: EngineInfo) -> str:
        wanted = self._settings.runtime
        if wanted == AUTO and self._fast_runtime_refused:
            return ""
        return runtime_for(wanted, runtimes=engine.runtimes, default=engine.default_runtime)

    def prepare(self) -> None:
        """Make the network of the workers if it is missing."""
        with self._preparing:  # The engine would make two networks of one name.
            ensure_network(
                self._clients.get(),
                name=self._settings.network,
                subnet=self._settings.subnet,
                install_id=self._install_id,
            )

    def start(
        self, launch: WorkerLaunch, given_up: threading.Event, starting: Callable[[], None]
    ) -> tuple[str, SeenContainer | None, float]:
        """Create and start the container of one worker, or find the one an earlier call left behind.

        Args:
            launch: What is wanted.
            given_up: Nobody waits any more: no further step is begun.
            starting: Called as the engine is about to be asked for the start.

        Returns:
            The engine's id, a container that needed no start, and what creating it took in seconds.
        """
        client, body = self._clients.get(), self._body(launch)
        begun_s = time.monotonic()
        with launch_errors(launch.image):
            container_id, earlier = self._create(client, launch, body, given_up)
            if earlier is not None and earlier.status is not ContainerStatus.CREATED:
                return container_id, earlier, 0.0
            create_s = 0.0 if earlier else time.monotonic() - begun_s
            starting()
            try:
                self._start_created(client, container_id, given_up)
            except APIError as error:
                if not self._can_do_without(body, error):
                    raise
                container_id = self._start_plainly(client, launch, body, container_id, given_up)
        return container_id, None, create_s

    def look(self, container_id: str, launch: WorkerLaunch) -> SeenContainer:
        """Inspect the container of a launch."""
        with launch_errors(launch.image):
            return self._read(self._clients.get().inspect_container(container_id), launch)

    def create(self, launch: WorkerLaunch, given_up: threading.Event) -> SeenContainer:
        """Create the container of one worker without starting it."""
        client, body = self._clients.get(), self._body(launch)
        with launch_errors(launch.image):
            container_id, earlier = self._create(client, launch, body, given_up)
        return earlier or self._read(client.inspect_container(container_id), launch)

    def _can_do_without(self, body: dict[str, Any], error: APIError) -> bool:
        """Whether a start may have failed by the runtime that was chosen here, and not by the launch."""
        chosen_here = self._settings.runtime == AUTO and "Runtime" in body["HostConfig"]
        return chosen_here and "runtime" in str(error.explanation).lower()

    def _start_plainly(
        self,
        client: docker.APIClient,
        launch: WorkerLaunch,
        body: dict[str, Any],
        refused_id: str,
        given_up: threading.Event,
    ) -> str:
        """Start with the engine's own runtime what failed with the fast one; where it helps, for good."""
        client.remove_container(refused_id, force=True, v=True)
        runtime = body["HostConfig"].pop("Runtime")
        container_id, _ = self._create(client, launch, body, given_up)
        self._start_created(client, container_id, given_up)
        self._fast_runtime_refused = True
        if self._engine is not None:
            self._engine = replace(self._engine, runtime="")
        log.warning("engine.runtime_refused", runtime=runtime)
        return container_id

    def _body(self, launch: WorkerLaunch) -> dict[str, Any]:
        wanted = launch.gpu_attach if launch.gpu_attach is not GpuAttach.AUTO else self._attach
        if wanted is GpuAttach.AUTO and launch.gpu_uuids:
            wanted = attach_for(wanted, self._engine or self.ping())
        return create_body(
            launch,
            install_id=self._install_id,
            network=self._settings.network,
            attach=wanted,
            mounts=mounts_for(launch.volumes, roots=self._volume_roots, forbidden=self._socket),
            log_max_mib=self._settings.log_max_mib,
            own=command_of(self._clients.get(), launch.image) if launch.hold is not None else None,
            runtime=(self._engine or self.ping()).runtime,
        )

    def _create(
        self, client: docker.APIClient, launch: WorkerLaunch, body: dict[str, Any], given_up: threading.Event
    ) -> tuple[str, SeenContainer | None]:
        """Create the container, or find the one an earlier call created."""
        name = container_name(launch.worker_id)
        for _ in range(_NAME_TAKEN_TRIES):
            if given_up.is_set():
                break
            try:
                return client.create_container_from_config(body, name=name)["Id"], None
            except APIError as error:
                # 404: the image is gone, which a container that was made of it outlives.
                if error.status_code not in (404, 409):
                    raise
                refused = error
            try:
                inspected = client.inspect_container(name)
                return inspected["Id"], self._read(inspected, launch)
            except NotFound:
                if refused.status_code == 404:
                    raise refused from None
                # The name is taken while a container is being made or removed; it shows soon or is free.
                time.sleep(_PAUSE_S)
        raise LaunchFailed(f"The name {name} is still taken by a container that is being removed.")

    def _start_created(self, client: docker.APIClient, container_id: str, given_up: threading.Event) -> None:
        if given_up.is_set():
            raise LaunchFailed("The start was given up.")
        try:
            client.start(container_id)
        except APIError as error:
            if not is_missing_network(error):
                raise
            log.warning("network.missing", network=self._settings.network)
            self.prepare()
            client.start(container_id)

    def _read(self, inspected: dict[str, Any], launch: WorkerLaunch) -> SeenContainer:
        seen = seen_container(inspected, install_id=self._install_id, network=self._settings.network)
        if seen is None or (seen.worker_id, seen.generation) != (launch.worker_id, launch.generation):
            raise LaunchFailed(
                f"A container named {container_name(launch.worker_id)} exists and is not the one that is "
                "to be started. Remove it with `docker rm -f`.",
                permanent=True,
            )
        return seen

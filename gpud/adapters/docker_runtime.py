"""Runs the workers' containers on a Docker Engine."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import structlog
from docker.errors import APIError, NotFound

from gpud.adapters.docker_activity import read_activity
from gpud.adapters.docker_client import DockerClients, stream_items
from gpud.adapters.docker_errors import engine_errors
from gpud.adapters.docker_exec import ContainerExecs
from gpud.adapters.docker_freezer import ContainerFreezer
from gpud.adapters.docker_seen import LABEL_INSTALL, LABEL_WORKER, seen_container
from gpud.adapters.docker_starter import DockerStarter
from gpud.adapters.threads import Threads
from gpud.core.gpu import GpuAttach
from gpud.core.ids import WORKER_ID, WorkerId, container_name
from gpud.errors import DependencyDown
from gpud.ports.containers import ContainerStatus, EngineInfo, SeenContainer, WorkerLaunch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from pathlib import Path

    from gpud.core.stalls import Activity
    from gpud.settings import DockerSettings

log = structlog.get_logger()

_STOPS_MAX = 32
"""Stops at once. Each holds a thread for as long as its worker takes to end, so they have their own."""
_KILL_TIMEOUT_S = 20.0
"""How long the engine may take beyond the grace time to report the end of a killed container."""
_LOG_LINES = 1000
_REMOVAL_TRIES = 100
_PAUSE_S = 0.1
_EVENTS = ("start", "die", "oom", "destroy")
_LOOK_AFTER_S, _LOOK_WAIT_S = 0.02, 0.02

_ResultT = TypeVar("_ResultT")
_ArgsT = TypeVarTuple("_ArgsT")


class _EarlyLook:
    """An inspect that is asked while the start is under way: engines that lock a container answer it then.

    So it costs nothing after the start. Other engines answer at once what was before the start, and are
    asked again.
    """

    def __init__(self, look: Callable[[], Awaitable[SeenContainer]]) -> None:
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[SeenContainer] | None = None
        self._ended = False

    def begin(self) -> None:
        """Called on the thread that is about to start the container."""
        with suppress(RuntimeError):  # The loop is closed: nobody waits.
            self._loop.call_soon_threadsafe(self._spawn)

    def _spawn(self) -> None:
        if not self._ended:
            self._task = self._loop.create_task(self._after_a_moment())

    async def _after_a_moment(self) -> SeenContainer:
        await asyncio.sleep(_LOOK_AFTER_S)  # So that the start comes first.
        return await self._look()

    async def answer(self) -> SeenContainer | None:
        """What was seen; None when that is not known at once."""
        if self._task is None:
            return None
        done, _ = await asyncio.wait([self._task], timeout=_LOOK_WAIT_S)
        return self._task.result() if done and self._task.exception() is None else None

    def end(self) -> None:
        """Nobody waits for it any more."""
        self._ended = True
        if self._task is not None:
            if self._task.done() and not self._task.cancelled():
                self._task.exception()  # Seen: the start's own error is what is told.
            self._task.cancel()


class DockerRuntime:
    """The `ContainerRuntime` of a Docker Engine, through its SDK on a bounded thread pool.

    Args:
        settings: The engine and the workers' network.
        install_id: Value of the label that tells this install's containers from all others.
        threads: For every call but stops and the event stream.
        attach: How GPUs are attached where a launch leaves it to `auto`.
        volume_roots: Host paths below which volumes may be bound.
    """

    def __init__(
        self,
        settings: DockerSettings,
        install_id: str,
        threads: Threads,
        attach: GpuAttach = GpuAttach.AUTO,
        volume_roots: Sequence[Path] = (),
    ) -> None:
        self._settings = settings
        self._install_id = install_id
        self._threads = threads
        self._stops = Threads(_STOPS_MAX, name="gpud-stop")
        self._clients = DockerClients(settings.host, call_timeout_s=settings.call_timeout_s)
        self._starter = DockerStarter(
            settings, install_id, self._clients, attach=attach, volume_roots=volume_roots
        )
        self._running: dict[str, SeenContainer] = {}
        local = settings.host.startswith("unix://")
        self.freezer = ContainerFreezer(self._clients, threads, self._find, local=local)
        self.execs = ContainerExecs(self._clients, threads, self._find, local=local)

    async def close(self) -> None:
        """Stop waiting for stops; what the engine was told to stop still stops."""
        await self._stops.close(timeout_s=1.0)

    async def ping(self) -> EngineInfo:
        """Ask the engine who it is, and speak its API version from now on."""
        with engine_errors(self._clients):
            return await self._threads.run(self._starter.ping, timeout_s=self._settings.call_timeout_s)

    async def prepare(self) -> None:
        """Make the network of the workers if it is missing.

        Raises:
            BadSettings: A network of that name is of another making or lets workers meet.
        """
        with engine_errors(self._clients):
            await self._threads.run(self._starter.prepare, timeout_s=self._settings.call_timeout_s)

    async def start_worker(self, launch: WorkerLaunch) -> SeenContainer:
        """Create and start the container of one worker and tell where it listens.

        Three calls: create, start, and one inspect that is asked during the start. Safe to repeat: the
        container is named after its worker, so a second call adopts what an earlier one left behind, even
        one whose answer was lost. A container whose start the engine refused is left for `remove_worker`.

        Raises:
            ImageNotFound: The engine has no such image; this never pulls.
            LaunchFailed: The engine refused; `permanent` when the same again cannot help.
        """
        early = _EarlyLook(partial(self._look, container_name(launch.worker_id), launch))
        try:
            container_id, earlier, create_s = await self._launch(self._starter.start, launch, early.begin)
            if earlier is not None:
                return earlier
            seen = await early.answer()
            if seen is None or seen.status is not ContainerStatus.RUNNING:  # as it was during the start
                seen = await self._look(container_id, launch)
            return replace(seen, create_s=create_s)
        finally:
            early.end()

    async def create_worker(self, launch: WorkerLaunch) -> SeenContainer:
        """Create the container of one worker without starting it; one that is there is left as it is.

        Raises:
            ImageNotFound: The engine has no such image; this never pulls.
            LaunchFailed: The engine refused; `permanent` when the same again cannot help.
        """
        return await self._launch(self._starter.create, launch)

    async def _launch(
        self,
        work: Callable[[WorkerLaunch, threading.Event, *_ArgsT], _ResultT],
        launch: WorkerLaunch,
        *args: *_ArgsT,
    ) -> _ResultT:
        given_up, limit_s = threading.Event(), self._settings.call_timeout_s
        try:
            with engine_errors(self._clients):
                return await self._threads.run(work, launch, given_up, *args, timeout_s=limit_s)
        finally:
            # The thread runs on when its caller was cancelled; let it not begin another step.
            given_up.set()

    async def _look(self, container: str, launch: WorkerLaunch) -> SeenContainer:
        with engine_errors(self._clients):
            return await self._threads.run(
                self._starter.look, container, launch, timeout_s=self._settings.call_timeout_s
            )

    async def inspect_worker(self, worker_id: WorkerId) -> SeenContainer | None:
        """Look at one worker's container; None when there is none."""
        with engine_errors(self._clients):
            found = await self._threads.run(self._find, worker_id, timeout_s=self._settings.call_timeout_s)
            return found and found[1]

    async def list_workers(self) -> tuple[SeenContainer, ...]:
        """Look at every container with this install's label, running or not.

        One call, and one inspect for each container that was not seen running before.
        """
        with engine_errors(self._clients):
            return await self._threads.run(self._list, timeout_s=self._settings.call_timeout_s)

    async def stop_worker(self, worker_id: WorkerId, *, grace_s: float) -> SeenContainer | None:
        """Send the image's stop signal, wait `grace_s` (rounded up to seconds), SIGKILL.

        Returns:
            The exited container, None when absent.
        """
        limit_s = self._settings.call_timeout_s + grace_s + _KILL_TIMEOUT_S
        with engine_errors(self._clients):
            return await self._stops.run(self._stop, worker_id, math.ceil(grace_s), timeout_s=limit_s)

    async def remove_worker(self, worker_id: WorkerId) -> None:
        """Remove the container and its anonymous volumes, running or not; absent is fine."""
        with engine_errors(self._clients):
            await self._threads.run(self._remove, worker_id, timeout_s=self._settings.call_timeout_s)

    async def log_tail(self, worker_id: WorkerId, *, bytes_max: int) -> str:
        """The last output of the container, stdout and stderr together; empty when absent."""
        with engine_errors(self._clients):
            return await self._threads.run(
                self._log_tail, worker_id, bytes_max, timeout_s=self._settings.call_timeout_s
            )

    async def activity(self, worker_id: WorkerId) -> Activity | None:
        """What a running container has done so far; None when absent or not running."""
        with engine_errors(self._clients):
            return await self._threads.run(self._activity, worker_id, timeout_s=self._settings.call_timeout_s)

    async def pids(self, worker_id: WorkerId) -> tuple[int, ...]:
        """Host pids of the container's processes; empty when absent or not running."""
        with engine_errors(self._clients):
            return await self._threads.run(self._pids, worker_id, timeout_s=self._settings.call_timeout_s)

    async def watch(self) -> AsyncGenerator[WorkerId]:
        """Yield workers whose container started, died, ran out of memory or was removed.

        Hints only. Ends when the engine's stream ends; leaving the iteration ends the stream.
        """
        since_s = time.time()  # What happens before the engine has answered is told too.
        filters = {
            "type": ["container"],
            "label": [f"{LABEL_INSTALL}={self._install_id}"],
            "event": list(_EVENTS),
        }
        events = stream_items(lambda: self._clients.open_events(filters, since_s=since_s), name="gpud-events")
        with engine_errors(self._clients):
            try:
                async for event in events:
                    worker_id = event["Actor"]["Attributes"].get(LABEL_WORKER, "")
                    if WORKER_ID.match(worker_id):
                        yield WorkerId(worker_id)
            finally:
                await events.aclose()

    def _seen(self, inspected: dict[str, Any]) -> SeenContainer | None:
        return seen_container(inspected, install_id=self._install_id, network=self._settings.network)

    def _find(self, worker_id: WorkerId) -> tuple[str, SeenContainer] | None:
        """Engine's id and look of the worker's container; None when absent or not ours."""
        try:
            inspected = self._clients.get().inspect_container(container_name(worker_id))
        except NotFound:
            return None
        seen = self._seen(inspected)
        if seen is None or seen.worker_id != worker_id:
            return None
        return inspected["Id"], seen

    def _list(self) -> tuple[SeenContainer, ...]:
        client = self._clients.get()
        listed = client.containers(all=True, filters={"label": f"{LABEL_INSTALL}={self._install_id}"})
        running: dict[str, SeenContainer] = {}
        found: list[SeenContainer] = []
        for row in listed:
            container_id = row["Id"]
            seen = self._running.get(container_id)
            if seen is None or row["State"] != "running" or seen.address != self._listed_address(row):
                try:
                    seen = self._seen(client.inspect_container(container_id))
                except NotFound:
                    continue  # Removed between the two calls.
            if seen is None:
                continue
            found.append(seen)
            if seen.status is ContainerStatus.RUNNING:
                running[container_id] = seen
        self._running = running
        return tuple(sorted(found, key=lambda seen: (seen.created_ns, seen.worker_id)))

    def _listed_address(self, row: dict[str, Any]) -> str:
        networks = row["NetworkSettings"]["Networks"]
        return str((networks.get(self._settings.network) or {}).get("IPAddress", ""))

    def _stop(self, worker_id: WorkerId, grace_whole_s: int) -> SeenContainer | None:
        found = self._find(worker_id)
        if found is None:
            return None
        container_id, seen = found
        if seen.status is not ContainerStatus.RUNNING:
            return seen
        client = self._clients.get()
        self.freezer.release(container_id, seen)
        try:
            # The SDK adds the grace time to its own limit for the answer.
            client.stop(container_id, timeout=grace_whole_s)
            after = self._seen(client.inspect_container(container_id))
        except NotFound:
            return None
        if after is not None and after.status is ContainerStatus.RUNNING:
            raise DependencyDown(
                f"The container of {worker_id} still runs after SIGKILL. A process in it waits for a "
                "device or a disk; gpud tries again and keeps its GPUs leased until then."
            )
        return after

    def _remove(self, worker_id: WorkerId) -> None:
        for _ in range(_REMOVAL_TRIES):
            found = self._find(worker_id)
            if found is None:
                return
            self.freezer.release(*found)
            try:
                self._clients.get().remove_container(found[0], force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 409:
                    raise
                time.sleep(_PAUSE_S)  # Another call is removing it already.
        raise DependencyDown(f"The container of {worker_id} is still being removed. gpud tries again.")

    def _log_tail(self, worker_id: WorkerId, bytes_max: int) -> str:
        found = self._find(worker_id)
        if found is None:
            return ""
        try:
            output: bytes = self._clients.get().logs(found[0], tail=_LOG_LINES)
        except NotFound:
            return ""
        return output[-bytes_max:].decode(errors="replace") if bytes_max > 0 else ""

    def _activity(self, worker_id: WorkerId) -> Activity | None:
        found = self._find(worker_id)
        if found is None or found[1].status is not ContainerStatus.RUNNING:
            return None
        try:
            return read_activity(self._clients.get(), found[0])
        except NotFound:
            return None

    def _pids(self, worker_id: WorkerId) -> tuple[int, ...]:
        found = self._find(worker_id)
        if found is None or found[1].status is not ContainerStatus.RUNNING:
            return ()
        try:
            processes = self._clients.get().top(found[0], ps_args="-eo pid")
        except APIError as error:
            if error.status_code in (404, 409):
                return ()
            after = self._find(worker_id)  # 20.10 answers 500 when it ended between the two calls.
            if after is None or after[1].status is not ContainerStatus.RUNNING:
                return ()
            raise
        column = processes["Titles"].index("PID")
        return tuple(int(row[column]) for row in processes["Processes"] or ())

"""Freezes and thaws the processes of a worker's container: by the kernel's file, or else by the engine.

The file takes a tenth of a millisecond, the engine fifteen. The engine does not know of a freeze that it did
not make itself, so whoever stops or removes a container thaws it first.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import APIError

from gpud.adapters.docker_errors import engine_errors
from gpud.errors import LaunchFailed
from gpud.ports.containers import ContainerStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.adapters.docker_client import DockerClients
    from gpud.adapters.threads import Threads
    from gpud.core.ids import WorkerId
    from gpud.ports.containers import SeenContainer

_FROZEN_WITHIN_S = 1.0
_LOOK_S = 0.001
_CALL_TIMEOUT_S = 30.0
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezerFile:
    """The kernel's switch of one control group.

    Args:
        switch: `freezer.state` of version 1, `cgroup.freeze` of version 2.
    """

    switch: Path

    @property
    def _is_v2(self) -> bool:
        return self.switch.name == "cgroup.freeze"

    def turn(self, *, frozen: bool) -> None:
        """Freeze or thaw every process in the group; freezing takes a moment, thawing none."""
        words = ("0", "1") if self._is_v2 else ("THAWED", "FROZEN")
        self.switch.write_text(words[frozen], encoding="ascii")

    def is_frozen(self) -> bool:
        """Whether every process in the group stands still."""
        if not self._is_v2:
            return self.switch.read_text(encoding="ascii").strip() == "FROZEN"
        return "frozen 1" in (self.switch.parent / "cgroup.events").read_text(encoding="ascii").splitlines()

    def is_turned(self) -> bool:
        """Whether it is frozen or about to be."""
        return self.switch.read_text(encoding="ascii").strip() not in ("THAWED", "0")


def freezer_file(
    pid: int, container_id: str, *, proc: Path = _PROC, cgroups: Path = _CGROUPS
) -> FreezerFile | None:
    """Find the switch of a container by one of its processes; None where there is none that may be used.

    The group must be the container's own: its name holds the container's id.
    """
    with suppress(OSError, ValueError, KeyError):
        groups = dict[str, str]()
        for line in (proc / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines():
            _number, controllers, path = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), path))
        if "freezer" in groups:
            root, path, name = cgroups / "freezer", groups["freezer"], "freezer.state"
        else:
            unified = cgroups / "unified"
            root = unified if unified.is_dir() else cgroups
            path, name = groups[""], "cgroup.freeze"
        parts = Path(path).parts
        own = next((i for i, part in enumerate(parts) if container_id in part), 0)
        if not own:
            return None
        switch = root.joinpath(*parts[1 : own + 1], name)
        with switch.open("r+", encoding="ascii"):
            return FreezerFile(switch=switch)
    return None


class ContainerFreezer:
    """Of the containers of one engine.

    Args:
        clients: Of the engine.
        threads: For its calls.
        find: The engine's id and look of a worker's container; called on a thread.
        local: The engine's processes are this machine's.
    """

    def __init__(
        self,
        clients: DockerClients,
        threads: Threads,
        find: Callable[[WorkerId], tuple[str, SeenContainer] | None],
        *,
        local: bool,
    ) -> None:
        self._clients = clients
        self._threads = threads
        self._find = find
        self._local = local
        self._files: dict[WorkerId, FreezerFile] = {}
        self._pausing: dict[WorkerId, asyncio.Task[None]] = {}

    async def freeze(self, worker_id: WorkerId) -> None:
        """Freeze a running container; one that is frozen stays so.

        Raises:
            LaunchFailed: It does not run, or cannot be frozen; it is not frozen then.
            DependencyDown: The engine does not answer.
        """
        container_id, seen = await self._running(worker_id)
        found = self._file_of(container_id, seen)
        if found is None:
            await self._by_engine(worker_id, self._pause, container_id)
            return
        try:
            found.turn(frozen=True)
            await self._await_frozen(found)
        except OSError as error:
            raise LaunchFailed(f"Its processes cannot be frozen: {error}.") from error
        self._files[worker_id] = found

    async def thaw(self, worker_id: WorkerId) -> None:
        """Thaw a container; one that is not frozen is left as it is.

        Raises:
            LaunchFailed: It does not run any more, or cannot be thawed.
            DependencyDown: The engine does not answer.
        """
        pausing = self._pausing.pop(worker_id, None)
        if pausing is not None:  # The engine may still be at it, whoever waits for it.
            await asyncio.wait([pausing])
        found = self._files.pop(worker_id, None)
        if found is not None:
            with suppress(OSError):  # Else it ended, or is looked at again below.
                found.turn(frozen=False)
                return
        container_id, seen = await self._running(worker_id)
        await self._by_engine(worker_id, self.release, container_id, seen)
        self._pausing.pop(worker_id, None)

    def release(self, container_id: str, seen: SeenContainer) -> None:
        """Thaw a container whoever froze it, so that it can be stopped; called on a thread.

        Raises:
            LaunchFailed: It stays frozen.
        """
        if seen.status is not ContainerStatus.RUNNING:
            return
        if seen.paused:
            with suppress(APIError):  # It ended or was thawed meanwhile; what is left is seen below.
                self._clients.get().unpause(container_id)
        found = self._file_of(container_id, seen)
        if found is None:
            return
        try:
            if found.is_turned():
                found.turn(frozen=False)
        except FileNotFoundError:
            return  # It ended.
        except OSError as error:
            raise LaunchFailed(f"Its processes cannot be thawed: {error}.") from error

    def _file_of(self, container_id: str, seen: SeenContainer) -> FreezerFile | None:
        return freezer_file(seen.pid, container_id) if self._local and seen.pid else None

    async def _running(self, worker_id: WorkerId) -> tuple[str, SeenContainer]:
        with engine_errors(self._clients):
            found = await self._threads.run(self._find, worker_id, timeout_s=_CALL_TIMEOUT_S)
        if found is None or found[1].status is not ContainerStatus.RUNNING:
            raise LaunchFailed("Its container does not run any more.")
        return found

    async def _await_frozen(self, found: FreezerFile) -> None:
        limit_s, still = time.monotonic() + _FROZEN_WITHIN_S, False
        try:
            while True:
                still = found.is_frozen()
                if still or time.monotonic() >= limit_s:
                    break
                await asyncio.sleep(_LOOK_S)
        finally:
            if not still:
                found.turn(frozen=False)
        if not still:
            raise LaunchFailed(
                f"Its processes do not stand still {_FROZEN_WITHIN_S:g} s after they were told to: one of "
                "them waits for a device or a disk."
            )

    def _pause(self, container_id: str) -> None:
        try:
            self._clients.get().pause(container_id)
        except APIError as error:
            if "already paused" not in str(error.explanation or ""):
                raise LaunchFailed(f"The engine cannot pause it: {error.explanation}.") from error

    async def _by_engine(self, worker_id: WorkerId, call: Callable[..., None], *args: object) -> None:
        """Have the engine do it; who comes next waits for it though this caller is cancelled."""
        task = asyncio.get_running_loop().create_task(
            self._threads.run(call, *args, timeout_s=_CALL_TIMEOUT_S), name=f"freezer:{worker_id}"
        )
        self._pausing[worker_id] = task
        with engine_errors(self._clients):
            await asyncio.shield(task)

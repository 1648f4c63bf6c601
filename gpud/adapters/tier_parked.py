"""The rung of containers that run, with their command held back by the shim until a trigger."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from gpud.adapters.docker_launch import environment
from gpud.core.ids import WORKER_ID, WorkerId
from gpud.core.standby import Rung, Standby
from gpud.errors import DependencyDown, GpudError, LaunchFailed
from gpud.ports.containers import ContainerStatus, EntrypointHold, SeenContainer
from gpud.ports.standby import Woken

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.adapters.threads import Threads
    from gpud.ports.containers import ContainerRuntime, WorkerLaunch

_TRIGGER, _ENVIRONMENT = "go", "env"
_HELD_WITHIN_S = 10.0
_LOOK_S = 0.01
_FILES_TIMEOUT_S = 10.0

ArgsT = TypeVarTuple("ArgsT")
ResultT = TypeVar("ResultT")


def shipped_shim() -> Path:
    """Where the shim for this machine is, if it was built."""
    return Path(str(resources.files("gpud") / "shim" / f"gpud-shim-{platform.machine()}"))


class ParkedTier:
    """A `Tier`: leaving it is one byte in a FIFO.

    Each parked container has a directory of its own on the host, mounted read-only: a FIFO that the
    shim waits on, and a file with the environment that was decided when the trigger came. No other
    container has it, and on the host only root and the daemon's own user reach it.

    Args:
        runtime: Of the containers.
        threads: For file operations, which a slow disk may hold up.
        root: Kept by gpud alone, on a file system that allows programs; survives a restart of the daemon.
        shim: The program; None takes the one that came with gpud.
        engine_is_local: The engine sees the same files.
    """

    rung = Rung.PARKED
    uses_engine = False

    def __init__(
        self,
        runtime: ContainerRuntime,
        threads: Threads,
        *,
        root: Path,
        engine_is_local: bool,
        shim: Path | None = None,
    ) -> None:
        self._runtime = runtime
        self._threads = threads
        self._root = root
        self._shim = shim or shipped_shim()
        self._engine_is_local = engine_is_local

    async def unavailable(self) -> str:
        """Say what is missing for it."""
        if not self._engine_is_local:
            return "The Docker Engine is reached over a network and cannot mount files of this machine."
        if not self._shim.is_file():
            return (
                f"There is no shim for {platform.machine()} in this installation. Build it with "
                "scripts/build-shim, which needs gcc."
            )
        try:
            await self._files(self._install_shim)
        except GpudError as error:
            return f"The shim cannot be put into {self._root}: {error.detail}"
        return ""

    async def enter(self, launch: WorkerLaunch) -> SeenContainer:
        """Start the container held, and wait until the shim waits in it."""
        directory = self._directory(launch.worker_id)
        await self._files(_make_directory, directory)
        hold = EntrypointHold(program=str(self._program), directory=str(directory))
        seen = await self._runtime.start_worker(replace(launch, hold=hold))
        deadline_s = time.monotonic() + _HELD_WITHIN_S
        while not await self._files(_is_held, directory):
            found = await self._runtime.inspect_worker(launch.worker_id)
            if found is None or found.status is not ContainerStatus.RUNNING:
                raise LaunchFailed(await self._why_ended(launch, found))
            if time.monotonic() >= deadline_s:
                raise LaunchFailed(
                    f"Nothing waits for a trigger in the container {_HELD_WITHIN_S:g} s after its start."
                )
            await asyncio.sleep(_LOOK_S)
        return seen

    async def leave(self, launch: WorkerLaunch, standby: Standby) -> Woken:
        """Write down the environment and trigger; one that was triggered before is left as it is."""
        held = await self._files(_trigger, self._directory(standby.id), environment(launch))
        address = standby.address
        if not held:
            # Either it ended, or an earlier call, whose answer was lost, released it.
            seen = await self._runtime.inspect_worker(standby.id)
            if seen is None or seen.status is not ContainerStatus.RUNNING:
                raise LaunchFailed("The container ended while it was parked.")
            address = seen.address
        return Woken(address=address, started_ns=time.time_ns())

    async def kept(self, standby: Standby, seen: SeenContainer) -> str:
        """It runs, at the same address, and the shim waits in it."""
        if seen.status is not ContainerStatus.RUNNING:
            return (
                f"The container ended while it was parked, with code {seen.exit_code}. {seen.error}".strip()
            )
        if seen.address != standby.address:
            return f"Its address changed from {standby.address} to {seen.address or 'none'}."
        held = await self._files(_is_held, self._directory(standby.id))
        return "" if held else "Nothing waits for the trigger in the container any more."

    async def was_left(self, standby: Standby) -> bool:
        """Nobody waits for the trigger: it was triggered, or its container ended."""
        return not await self._files(_is_held, self._directory(standby.id))

    async def discard(self, worker_id: WorkerId) -> None:
        """Forget its directory; the shim ends with its container."""
        await self._files(_remove_directory, self._directory(worker_id))

    async def leftovers(self) -> tuple[WorkerId, ...]:
        """Containers that have a directory here."""
        return await self._files(_ids_in, self._root)

    async def _files(self, work: Callable[[*ArgsT], ResultT], *args: *ArgsT) -> ResultT:
        """Do something with files, on a thread: a slow disk must not hold up anybody else."""
        try:
            return await self._threads.run(work, *args, timeout_s=_FILES_TIMEOUT_S)
        except TimeoutError as error:
            raise DependencyDown(f"The disk of {self._root} does not answer.") from error
        except OSError as error:
            raise LaunchFailed(f"A file of a parked worker cannot be used: {error}.") from error

    @property
    def _program(self) -> Path:
        return self._root / "hold"

    def _directory(self, worker_id: WorkerId) -> Path:
        if not WORKER_ID.match(worker_id):
            raise LaunchFailed(f"{worker_id} is no worker's id.", permanent=True)
        return self._root / worker_id

    def _install_shim(self) -> None:
        """Put the shim where containers mount it from; a running one keeps the file it has."""
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        new = self._root / ".hold.new"
        shutil.copyfile(self._shim, new)
        new.chmod(0o755)
        new.replace(self._program)

    async def _why_ended(self, launch: WorkerLaunch, found: SeenContainer | None) -> str:
        if found is None:
            return "The container was removed while it was being parked."
        words = (await self._runtime.log_tail(launch.worker_id, bytes_max=400)).strip()
        why = " ".join(part for part in (found.error, words) if part)
        return f"The shim cannot run in this image: it ended with code {found.exit_code}. {why}".strip()


def _ids_in(root: Path) -> tuple[WorkerId, ...]:
    with suppress(FileNotFoundError):
        return tuple(WorkerId(path.name) for path in sorted(root.iterdir()) if WORKER_ID.match(path.name))
    return ()


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory.chmod(0o755)
    with suppress(FileExistsError):
        os.mkfifo(directory / _TRIGGER)
    # The image's user may be anybody. Nobody but this container has the directory mounted.
    (directory / _TRIGGER).chmod(0o666)


def _remove_directory(directory: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _open_trigger(directory: Path) -> int | None:
    """Open the FIFO for writing; None when nobody has it open for reading."""
    try:
        return os.open(directory / _TRIGGER, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return None
        raise LaunchFailed(f"The trigger {directory / _TRIGGER} cannot be opened: {error}.") from error


def _is_held(directory: Path) -> bool:
    opened = _open_trigger(directory)
    if opened is None:
        return False
    os.close(opened)
    return True


def _trigger(directory: Path, entries: list[str]) -> bool:
    """Release what is held; False when nothing is."""
    opened = _open_trigger(directory)
    if opened is None:
        return False
    try:
        new = directory / f".{_ENVIRONMENT}.new"
        new.write_bytes(b"".join(os.fsencode(entry) + b"\0" for entry in entries))
        new.chmod(0o644)
        new.replace(directory / _ENVIRONMENT)
        os.write(opened, b"\n")
    except OSError as error:
        raise LaunchFailed(f"The trigger in {directory} cannot be written: {error}.") from error
    finally:
        os.close(opened)
    return True

"""The GPUs of the box through NVML, NVIDIA's management library."""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pynvml
import structlog

from gpud.adapters.lone_thread import LoneThread
from gpud.adapters.nvml_events import EventWatcher
from gpud.adapters.nvml_read import SESSION_ERRORS, Unreadable, cpus_of, read_boards, read_reading, read_use
from gpud.core.ids import GpuUuid
from gpud.errors import DependencyDown
from gpud.ports.gpus import GpuFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from gpud.core.gpu import Gpu, GpuReading, GpuUse

    T = TypeVar("T")

LIBRARY: Final = "libnvidia-ml.so.1"
_ONLINE_CPUS: Final = Path("/sys/devices/system/cpu/online")
_LOST_ERRORS: Final = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
_FAULTS_MAX: Final = 1000
_CLOSE_S: Final = 2.0

_HUNG = (
    "NVML does not answer: the NVIDIA driver hangs. Running workers stay; GPUs are not checked "
    "meanwhile. Look at `dmesg` for Xid messages; if it stays so, reboot the box."
)
_GONE = (
    "The driver no longer reaches the GPU: {why}. Look at `dmesg`; reset the GPU or reboot the box, "
    "then uncordon it."
)

_log = structlog.get_logger()


class NvmlMissing(DependencyDown):
    """NVML's library is not on this machine, or cannot be loaded."""


class NvmlGpus:
    """GPUs and MIG devices as the driver shows them.

    Calls run one at a time on one thread, events on another; the session is opened by the
    first call and stays open. A driver that hangs fails calls after the budget, later ones at
    once, and is asked again when it has answered.

    Args:
        budget_s: For one call.

    Raises:
        NvmlMissing: The library cannot be loaded.
    """

    source = "nvml"

    def __init__(self, *, budget_s: float = 5.0) -> None:
        try:
            ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NvmlMissing(
                f"{LIBRARY} cannot be loaded ({error}), so gpud cannot see NVIDIA GPUs. Install the NVIDIA "
                "driver, or set gpus.source to 'static' or 'none' in gpud.toml."
            ) from error
        self._online_cpus = cpus_of(_ONLINE_CPUS.read_text(encoding="ascii"))
        self._thread = LoneThread("nvml", budget_s=budget_s, complaint=_HUNG)
        self._faults: deque[GpuFault] = deque(maxlen=_FAULTS_MAX)
        self._watcher = EventWatcher(self._faults.append)
        # The rest belongs to the thread.
        self._open = False
        self._listed: dict[GpuUuid, str] = {}
        self._lost: set[GpuUuid] = set()

    @property
    def stale(self) -> bool:
        """Whether the driver hangs, so that what was read last is all there is."""
        return self._thread.stuck

    async def list_gpus(self) -> tuple[Gpu, ...]:
        """List GPUs and MIG devices by NVML index; one that does not answer is a fault instead.

        Raises:
            DependencyDown: The driver does not answer, or is not loaded.
        """
        return await self._call(self._list_gpus)

    async def usage(self, uuids: Sequence[GpuUuid]) -> tuple[GpuUse, ...]:
        """Read memory and processes; a GPU that does not answer is left out and a fault.

        Raises:
            DependencyDown: The driver does not answer, or is not loaded.
        """
        asked = tuple(uuids)
        return await self._call(lambda: self._usage(asked))

    async def readings(self, uuids: Sequence[GpuUuid]) -> tuple[GpuReading, ...]:
        """Read load, power and temperature; a GPU that does not answer is left out.

        Raises:
            DependencyDown: The driver does not answer, or is not loaded.
        """
        asked = tuple(uuids)
        return await self._call(lambda: self._readings(asked))

    async def faults(self) -> tuple[GpuFault, ...]:
        """Take the faults seen since the last call; asks the driver nothing."""
        return tuple(self._faults.popleft() for _ in range(len(self._faults)))

    async def close(self) -> None:
        """Close the session with the driver, unless the driver hangs; never waits for that."""
        self._watcher.stop(timeout_s=0)
        with contextlib.suppress(DependencyDown):
            await self._thread.run(self._close)
        self._thread.close()

    async def _call(self, read: Callable[[], T]) -> T:
        return await self._thread.run(lambda: self._in_session(read))

    def _in_session(self, read: Callable[[], T]) -> T:
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
            return read()
        except SESSION_ERRORS as error:
            self._open = False
            raise DependencyDown(_why_no_session(error)) from error
        except pynvml.NVMLError as error:
            raise DependencyDown(f"NVML refuses to answer: {error}. Does `nvidia-smi` work?") from error

    def _close(self) -> None:
        # The session must not end under the watcher: one that hangs keeps it open.
        if self._watcher.stop(timeout_s=_CLOSE_S) and self._open:
            self._open = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _list_gpus(self) -> tuple[Gpu, ...]:
        boards, unreadable = read_boards(self._online_cpus)
        self._watcher.watch(boards)
        listed = {gpu.uuid: board.uuid for board in boards for gpu in board.gpus}
        self._lost.difference_update(listed)
        for uuid, board_uuid in self._listed.items():
            if uuid not in listed:
                self._lose(uuid, _why_missing(board_uuid, unreadable))
        for board in unreadable:
            _log.warning("gpu.unreadable", index=board.index, gpu_uuid=board.uuid, error=board.why)
            if board.uuid and board.uuid not in self._listed.values():
                self._lose(GpuUuid(board.uuid), board.why)
        self._listed |= listed
        return tuple(gpu for board in boards for gpu in board.gpus)

    def _usage(self, uuids: tuple[GpuUuid, ...]) -> tuple[GpuUse, ...]:
        uses = []
        for uuid in uuids:
            try:
                uses.append(read_use(uuid))
            except SESSION_ERRORS:
                raise
            except _LOST_ERRORS as error:
                self._lose(uuid, str(error))
            except pynvml.NVMLError as error:
                _log.warning("gpu.usage_unreadable", gpu_uuid=uuid, error=str(error))
        return tuple(uses)

    @staticmethod
    def _readings(uuids: tuple[GpuUuid, ...]) -> tuple[GpuReading, ...]:
        found = []
        for uuid in uuids:
            try:
                found.append(read_reading(uuid))
            except SESSION_ERRORS:
                raise
            except pynvml.NVMLError:
                continue  # the next look at its use says so
        return tuple(found)

    def _lose(self, uuid: GpuUuid, why: str) -> None:
        if uuid not in self._lost:
            self._lost.add(uuid)
            self._faults.append(GpuFault(uuid=uuid, xid=0, detail=_GONE.format(why=why)))


def nvml_loads() -> bool:
    """Say whether NVML's library is on this machine; whether its driver runs is another matter."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def _why_missing(board_uuid: str, unreadable: tuple[Unreadable, ...]) -> str:
    for board in unreadable:
        # A lost GPU often cannot even say who it is.
        if board.uuid in (board_uuid, ""):
            return board.why
    return "it is no longer listed"


def _why_no_session(error: pynvml.NVMLError) -> str:
    if isinstance(error, pynvml.NVMLError_DriverNotLoaded):
        return (
            "The NVIDIA driver is not loaded, so no GPU can be seen. Load it with `modprobe nvidia`, or set "
            "gpus.source to 'static' or 'none' in gpud.toml if this box has no GPU."
        )
    if isinstance(error, pynvml.NVMLError_LibRmVersionMismatch):
        return (
            "NVML and the loaded NVIDIA driver are of different versions, as after an upgrade of the driver. "
            "Reboot the box, or reload the driver's kernel modules."
        )
    return f"The session with the NVIDIA driver ended ({error}). gpud opens another at its next look."

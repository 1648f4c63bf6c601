"""Waits for the driver's error events, on a thread of its own, and turns them into faults."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import TYPE_CHECKING, Final

import pynvml
import structlog

from gpud.ports.gpus import GpuFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpud.adapters.nvml_read import Board, Handle, Instance

APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Xids that a faulty program causes; the GPU is well."""

_XID_NAMES: Final = {
    46: "the GPU stopped processing",
    48: "double-bit ECC error",
    61: "internal micro-controller breakpoint",
    62: "internal micro-controller halt",
    63: "row remapping or page retirement recorded",
    64: "row remapping or page retirement failed",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "high rate of single-bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "the GPU system processor does not answer",
    120: "the GPU system processor failed",
}

_EVENT_TYPES: Final = (pynvml.nvmlEventTypeXidCriticalError, pynvml.nvmlEventTypeDoubleBitEccError)
_SLICE_MS: Final = 500
_RETRY_S: Final = 1.0
_WHOLE_GPU: Final = 0xFFFFFFFF
"""Instance id of an event that belongs to no single MIG device."""

_log = structlog.get_logger()


class EventWatcher:
    """Reports critical Xids and double-bit ECC errors of the boards it is given.

    Args:
        report: Called on the watcher's thread, once a fault and device.
    """

    def __init__(self, report: Callable[[GpuFault], None]) -> None:
        self._report = report
        self._boards: tuple[Board, ...] = ()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, boards: tuple[Board, ...]) -> None:
        """Watch these boards from now on, instead of those before."""
        if [_identity(board) for board in boards] == [_identity(board) for board in self._boards]:
            return
        self._boards = boards
        self._changed.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="nvml-events", daemon=True)
            self._thread.start()

    def stop(self, *, timeout_s: float) -> bool:
        """Stop watching; False when the thread hangs in the driver and was left behind."""
        self._stopping.set()
        self._changed.set()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            self._changed.clear()
            if self._stopping.is_set():
                return
            try:
                self._watch(self._boards)
            except pynvml.NVMLError as error:
                # A lost GPU fails the wait for all: make a new set, without it, a moment later.
                _log.warning("gpu.event_wait_failed", error=str(error))
                self._stopping.wait(_RETRY_S)

    def _watch(self, boards: tuple[Board, ...]) -> None:
        events = pynvml.nvmlEventSetCreate()
        try:
            registered = [_register(board, events) for board in boards]
            if not any(registered):
                self._changed.wait()
            while not self._changed.is_set():
                with contextlib.suppress(pynvml.NVMLError_Timeout):
                    self._take(pynvml.nvmlEventSetWait(events, _SLICE_MS), boards)
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(events)

    def _take(self, event: Handle, boards: tuple[Board, ...]) -> None:
        xid = int(event.eventData) if event.eventType == pynvml.nvmlEventTypeXidCriticalError else 0
        if xid in APPLICATION_XIDS:
            return
        place = _address(event.device)
        board = next((board for board in boards if _address(board.handle) == place), None)
        if board is None:
            _log.warning("gpu.event_unmatched", xid=xid)
            return
        for instance in board.instances:
            if _concerns(event, instance):
                self._report(GpuFault(uuid=instance.uuid, xid=xid, detail=_detail(xid)))


def _register(board: Board, events: Handle) -> bool:
    """Ask for a board's events; False when it has none to offer or does not answer."""
    registered = False
    for event_type in _EVENT_TYPES:
        # One call for each: a board without ECC refuses both when asked for both at once.
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlDeviceRegisterEvents(board.handle, event_type, events)
            registered = True
    return registered


def _identity(board: Board) -> tuple[object, ...]:
    # A new session may give the same board another handle.
    return (_address(board.handle), board.instances)


def _address(handle: Handle) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _concerns(event: Handle, instance: Instance) -> bool:
    if instance.gpu_instance is None or event.gpuInstanceId == _WHOLE_GPU:
        return True
    if event.gpuInstanceId != instance.gpu_instance:
        return False
    return event.computeInstanceId in (_WHOLE_GPU, instance.compute_instance)


def _detail(xid: int) -> str:
    if xid == 0:
        return "The driver reports a double-bit ECC error. Reset the GPU or reboot the box, then uncordon it."
    name = _XID_NAMES.get(xid)
    said = f"Xid {xid} ({name})" if name else f"Xid {xid}"
    return f"The driver reports {said}. Look at `dmesg`; reset the GPU or reboot the box, then uncordon it."

"""Ends a process of a container with all that it started, from outside, as a terminal's hang-up does.

The engine does not: a command whose caller is gone runs on, and keeps what it holds of a GPU.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_HANG_UP_S = 2.0
"""How long processes have to end by themselves."""
_KILL_S = 5.0
_LOOK_S = 0.02
_GONE_STATES = ("Z", "X", "x")


def session_members(leader: int, container_id: str, *, proc: Path = _PROC) -> tuple[int, ...]:
    """Host pids of the session that a process leads, those in its container only.

    Empty when none runs, and when this machine's processes are not the engine's.
    """
    return tuple(
        int(entry.name)
        for entry in proc.iterdir()
        if entry.name.isdigit() and _is_member(entry, leader, container_id)
    )


def _is_member(process: Path, leader: int, container_id: str) -> bool:
    try:
        state, _parent, _group, session = (
            (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:4]
        )
        if session != str(leader) or state in _GONE_STATES:
            return False
        return container_id in (process / "cgroup").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False  # It ended.


def end_session(
    leader: int,
    container_id: str,
    *,
    proc: Path = _PROC,
    hang_up_s: float = _HANG_UP_S,
    kill_s: float = _KILL_S,
) -> bool:
    """Hang up on a session, and kill what is left of it after a while; blocks until then.

    Args:
        leader: Host pid of the process that leads it.
        container_id: Whose process it is; others are never touched.
        proc: Where processes are listed.
        hang_up_s: How long processes have to end by themselves.
        kill_s: How long killed ones may take.

    Returns:
        Whether none is left.

    Raises:
        PermissionError: They are another user's.
    """
    for number, patience_s in ((signal.SIGHUP, hang_up_s), (signal.SIGKILL, kill_s)):
        deadline_s = time.monotonic() + patience_s
        told: set[int] = set()
        while members := session_members(leader, container_id, proc=proc):
            for pid in members:
                if number is signal.SIGKILL or pid not in told:
                    _tell(pid, leader, container_id, number, proc)
                    told.add(pid)
            if time.monotonic() >= deadline_s:
                break
            time.sleep(_LOOK_S)
        else:
            return True
    return False


def _tell(pid: int, leader: int, container_id: str, number: signal.Signals, proc: Path) -> None:
    """Send a signal to a process that is looked at once more, held so that its pid names no other."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _is_member(proc / str(pid), leader, container_id):
                signal.pidfd_send_signal(handle, number)
                if number is signal.SIGHUP:
                    signal.pidfd_send_signal(handle, signal.SIGCONT)  # A stopped one hears nothing.
        finally:
            os.close(handle)

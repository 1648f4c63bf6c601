"""Finds the commands in a container whose daemon was killed, and ends them; commands of others stay."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import NotFound

from gpud.adapters.process_sessions import end_session

if TYPE_CHECKING:
    from collections.abc import Container

    import docker

MARK = "GPUD_EXEC_ID"
"""The variable in the environment of every command that gpud started, and of all that it starts."""

_PROC = Path("/proc")


def end_abandoned(
    client: docker.APIClient, container_id: str, ours: Container[str], *, proc: Path = _PROC
) -> int:
    """End the commands of a container that have gpud's mark and that nobody is connected to.

    Args:
        client: Of the engine; its processes are this machine's.
        container_id: Whose commands.
        ours: The engine's names for those that somebody is connected to.
        proc: Where processes are listed.

    Returns:
        How many there were.
    """
    ended = 0
    with suppress(NotFound):  # The container went, and its commands with it.
        inspected: dict[str, Any] = client.inspect_container(container_id)
        for exec_id in inspected.get("ExecIDs") or ():
            state = client.exec_inspect(exec_id)
            pid = state["Pid"] if state["Running"] else 0
            if pid and exec_id not in ours and _has_mark(proc / str(pid)):
                with suppress(PermissionError):
                    end_session(pid, container_id, proc=proc)
                    ended += 1
    return ended


def _has_mark(process: Path) -> bool:
    try:
        environment = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(entry.startswith(f"{MARK}=".encode()) for entry in environment)

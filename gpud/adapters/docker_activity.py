"""What a running container has done so far, in two cheap questions to the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpud.core.stalls import Activity

if TYPE_CHECKING:
    import docker

_NS_PER_S = 1_000_000_000


def read_activity(client: docker.APIClient, container_id: str) -> Activity:
    """Ask for counters once (the engine would otherwise wait for a second sample), and for the last line.

    The engine tells no size of a log; the moment of its last line, which it reads from the log's end,
    changes with every line.
    """
    stats: dict[str, Any] = client.stats(container_id, stream=False, one_shot=True)
    last_line: bytes = client.logs(container_id, tail=1, timestamps=True)
    cpu_ns = (stats.get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage")
    return Activity(
        log_mark=last_line[:64].decode(errors="replace"),
        cpu_s=None if cpu_ns is None else cpu_ns / _NS_PER_S,
        memory_bytes=(stats.get("memory_stats") or {}).get("usage"),
    )

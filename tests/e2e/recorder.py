"""Records what the engine itself says about a daemon's containers, beside the daemon."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import docker
from docker.errors import NotFound

from gpud.adapters.docker_seen import unix_ns

if TYPE_CHECKING:
    from tests.rig.engine import Engine

_EVENTS = ("create", "start", "die", "destroy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """When a container ran, in the engine's own words (Unix nanoseconds)."""

    worker_id: str
    container_id: str
    gpus: tuple[str, ...]
    started_ns: int
    finished_ns: int


class EngineRecorder:
    """Follows the engine's events of one install, and inspects each container as it dies.

    Args:
        engine: Whose containers.
        install_id: Of the daemon.
    """

    def __init__(self, engine: Engine, install_id: str) -> None:
        self._client = docker.DockerClient(base_url=engine.socket_url, timeout=60)
        self._looking = docker.APIClient(base_url=engine.socket_url, timeout=60)
        filters: dict[str, Any] = {"label": f"gpud.install={install_id}", "event": list(_EVENTS)}
        self._events = self._client.api.events(decode=True, filters=filters)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._changed = threading.Condition()
        self._seen: list[str] = []
        self.lifetimes: dict[str, Lifetime] = {}
        self.starts: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._thread.join(5)
        self._client.close()
        self._looking.close()

    def await_next(self, kind: str, *, within_s: float) -> bool:
        """Wait for the next event of a kind; False when none came in time."""
        with self._changed:
            before = self._seen.count(kind)
            return self._changed.wait_for(lambda: self._seen.count(kind) > before, within_s)

    def _follow(self) -> None:
        with contextlib.suppress(Exception):  # The stream is closed under the reader at the end.
            for event in self._events:
                self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        kind, attributes = event["Action"], event["Actor"]["Attributes"]
        worker_id, container_id = attributes["gpud.worker"], event["Actor"]["ID"]
        if kind == "start":
            self.starts.setdefault(worker_id, []).append(container_id)
        if kind == "die":
            # A daemon that was quicker has removed it already: the worker's row is then all there is.
            with contextlib.suppress(NotFound):
                state = self._looking.inspect_container(container_id)["State"]
                self.lifetimes[worker_id] = Lifetime(
                    worker_id=worker_id,
                    container_id=container_id,
                    gpus=tuple(gpu for gpu in attributes["gpud.gpus"].split(",") if gpu),
                    started_ns=unix_ns(state["StartedAt"]),
                    finished_ns=unix_ns(state["FinishedAt"]),
                )
        with self._changed:
            self._seen.append(kind)
            self._changed.notify_all()

"""The rung of workers whose processes are frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.core.standby import Rung

if TYPE_CHECKING:
    from gpud.adapters.docker_freezer import ContainerFreezer
    from gpud.core.endpoint import EndpointSpec
    from gpud.core.worker import Worker


class PausedStep:
    """A `Step`: it saves CPU time and nothing else, and leaving it takes a millisecond."""

    rung = Rung.PAUSED

    def __init__(self, freezer: ContainerFreezer) -> None:
        self._freezer = freezer

    async def unavailable(self) -> str:
        """Every engine can pause, if not as fast as the kernel."""
        return ""

    async def enter(self, worker: Worker, spec: EndpointSpec) -> None:  # noqa: ARG002 - the port's signature
        """Freeze it."""
        await self._freezer.freeze(worker.id)

    async def leave(self, worker: Worker, spec: EndpointSpec) -> None:  # noqa: ARG002 - the port's signature
        """Thaw it."""
        await self._freezer.thaw(worker.id)
